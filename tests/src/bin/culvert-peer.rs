//! Either end of a tested connection: a server or a client that runs inside a pod.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tests::peer::client::{self, Exchange, SocketOptions};
use tests::peer::fetch::{self, Ask};
use tests::peer::server::{self, Spec};
use tests::peer::web::Next;

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
        /// Whom an HTTP server asks before it answers: ADDRESS:PORT(,forward).
        #[arg(long)]
        next: Option<Next>,
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
    /// Make one HTTP request and report it.
    Fetch {
        target: SocketAddr,
        #[command(flatten)]
        ask: Ask,
    },
    /// Send HTTP requests at a rate.
    WebLoad {
        target: SocketAddr,
        #[arg(long)]
        rate: u32,
        #[command(flatten)]
        ask: Ask,
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
        Command::Serve { name, next, specs } => server::serve(&name, &specs, next)?,
        Command::Call { target, options, exchange } => report(&client::call(target, &options, exchange))?,
        Command::Talk { target, options } => client::talk(target, &options),
        Command::Load { target, options, threads } => client::load(target, &options, threads),
        Command::Hold { target, connections, options } => client::hold(target, &options, connections),
        Command::Fetch { target, ask } => {
            let answer = runtime()?.block_on(fetch::fetch(target, &ask));
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&answer)?)?;
        }
        Command::WebLoad { target, rate, ask } => runtime()?.block_on(fetch::load(target, rate, ask)),
        Command::Udp { target, text } => report(&client::datagram(target, &text))?,
        Command::Bind { address, reuse_port } => report(&client::bind(address, reuse_port))?,
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn report(outcome: &tests::peer::Outcome) -> Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(outcome)?)?;
    Ok(())
}
