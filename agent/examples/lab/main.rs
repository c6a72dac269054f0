//! The programs that the tests of capture run in pods: a server, clients, and the smallest agent that there can be.

mod apps; // servers and clients
mod proxy; // the smallest agent

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sched::{CloneFlags, setns};

#[derive(Parser)]
struct Cli {
    /// The cgroup to be in.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// The network namespace to be in.
    #[arg(long)]
    netns: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve on these addresses until killed.
    Serve(apps::Serve),
    /// Connect once and say what happened.
    Connect(apps::Connect),
    /// Connect and send every line of standard input, printing each answer.
    Hold(apps::Hold),
    /// Try to bind a port.
    Bind(apps::Bind),
    /// Capture pods and carry their connections, without any tunnel.
    Agent(proxy::Args),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(group) = &cli.cgroup {
        let procs = group.join("cgroup.procs");
        std::fs::write(&procs, std::process::id().to_string()).with_context(|| procs.display().to_string())?;
    }
    if let Some(path) = &cli.netns {
        enter(path)?;
    }
    match cli.command {
        Command::Serve(args) => args.run(),
        Command::Connect(args) => args.run(),
        Command::Hold(args) => args.run(),
        Command::Bind(args) => args.run(),
        Command::Agent(args) => args.run(),
    }
}

fn enter(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    setns(file, CloneFlags::CLONE_NEWNET).context("setns")
}
