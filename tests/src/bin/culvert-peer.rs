//! Either end of a tested connection: a server or a client that runs inside a pod.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tests::peer::client::{self, Exchange, SocketOptions};
use tests::peer::server::{self, Spec};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve MODE:PORT ... until killed.
    Serve {
        /// How the server calls itself.
        #[arg(long, default_value = "peer")]
        name: String,
        #[arg(required = true)]
        specs: Vec<Spec>,
    },
    /// Make one call and report it.
    Call {
        target: SocketAddr,
        #[command(flatten)]
        options: SocketOptions,
        #[command(subcommand)]
        exchange: Exchange,
    },
    /// A conversation over standard input and output.
    Talk {
        target: SocketAddr,
        #[command(flatten)]
        options: SocketOptions,
    },
    /// Call over and over.
    Load {
        target: SocketAddr,
        #[command(flatten)]
        options: SocketOptions,
        #[arg(long, default_value_t = 4)]
        threads: u32,
    },
    /// Open connections and hold them.
    Hold {
        target: SocketAddr,
        connections: u32,
        #[command(flatten)]
        options: SocketOptions,
    },
    /// Send a datagram and wait for it to come back.
    Udp { target: SocketAddr, text: String },
    /// Try to listen.
    Bind {
        address: SocketAddr,
        #[arg(long)]
        reuse_port: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Serve { name, specs } => server::serve(&name, &specs)?,
        Command::Call { target, options, exchange } => report(&client::call(target, &options, exchange))?,
        Command::Talk { target, options } => client::talk(target, &options),
        Command::Load { target, options, threads } => client::load(target, &options, threads),
        Command::Hold { target, connections, options } => client::hold(target, &options, connections),
        Command::Udp { target, text } => report(&client::datagram(target, &text))?,
        Command::Bind { address, reuse_port } => report(&client::bind(address, reuse_port))?,
    }
    Ok(())
}

fn report(outcome: &tests::peer::Outcome) -> Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(outcome)?)?;
    Ok(())
}
