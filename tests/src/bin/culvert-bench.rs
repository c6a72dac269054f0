//! `culvert-bench`: measures, with the real binaries, what `cargo xtask bench` asks for.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::bench::phases::{Options, Output};
use tests::bench::{capture, forward, load, report::Report, serve, tunnel};

#[derive(Parser)]
#[command(about = "Measures what capture and the mesh cost", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// No capture, iptables REDIRECT and our hooks, all to the same plain forwarder
    Capture(Options),
    /// No mesh, Envoy mTLS sidecars and our agents
    Tunnel(Options),
    #[command(hide = true)]
    Serve { at: SocketAddr },
    #[command(hide = true)]
    Load(load::Load),
    #[command(hide = true)]
    #[command(subcommand)]
    Forward(forward::Forward),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Capture(options) => show(&capture::run(&options)?, options.output),
        Command::Tunnel(options) => show(&tunnel::run(&options)?, options.output),
        Command::Serve { at } => role(async move { Ok(serve::run(at).await?) }),
        Command::Load(load) => role(async move { load::say(&load::run(&load).await?) }),
        Command::Forward(options) => role(async move { forward::run(&options).await }),
    }
}

fn show(report: &Report, output: Output) -> Result<()> {
    let text = match output {
        Output::Text => report.table(),
        Output::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    std::io::stdout().write_all(text.as_bytes()).context("writing the result")
}

/// Plays one part of a bench in a pod: one thread, and as many descriptors as there may be.
fn role(part: impl Future<Output = Result<()>>) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(part)
}
