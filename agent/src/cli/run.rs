//! Runs what the command line asks for. Exit codes: 0 fine, 1 what was asked about is wrong, 2 usage or configuration.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use process::admin::Client;
use process::telemetry::escape::lines;
use process::terminal::{USAGE, WRONG, fail, print};

use super::check::check;
use super::command::{CheckOutput, Cli, Command, LogArgs};
use super::explain::explain;
use super::get::get;
use crate::app;
use crate::capture::Capture;
use crate::config::AgentArgs;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    // On a usage error clap prints it and exits with 2.
    let asked = match Cli::parse().command {
        Command::Agent(args) if args.cleanup => cleanup(&args),
        Command::Agent(args) => return agent(*args),
        command => ask(&command),
    };
    match asked.and_then(|(text, fine)| print(&text).context("writing to standard output").map(|()| fine)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(WRONG),
        Err(error) => fail(error.as_ref(), WRONG),
    }
}

/// Runs the agent. What keeps it from starting is the configuration or the machine.
fn agent(args: AgentArgs) -> ExitCode {
    match app::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), USAGE),
    }
}

fn cleanup(args: &AgentArgs) -> Result<(String, bool)> {
    let removed = Capture::cleanup(&args.bpf_root)?;
    if removed.is_empty() {
        return Ok(("nothing to remove\n".to_owned(), true));
    }
    Ok((removed.iter().map(|line| format!("{line}\n")).collect(), true))
}

/// What a command prints, and whether what it asked about is fine.
fn ask(command: &Command) -> Result<(String, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(async {
        match command {
            Command::Get(args) => Ok((get(args).await?, true)),
            Command::Log(args) => Ok((log(args).await?, true)),
            Command::Explain(args) => explain(args).await.map(|(text, refused)| (text, !refused)),
            Command::Check(args) => {
                let report = check(args).await;
                let text = match args.output {
                    CheckOutput::Json => report.json()?,
                    CheckOutput::Text => report.text(colours()),
                };
                Ok((text, report.is_fine()))
            }
            Command::Agent(_) => unreachable!("main runs the agent itself"),
        }
    })
}

async fn log(args: &LogArgs) -> Result<String> {
    let client = Client::new(args.asked.admin);
    let answer = match &args.levels {
        None => client.get("/logging", &[]).await?,
        Some(levels) => client.post("/logging", &[("level", levels)]).await?,
    };
    Ok(lines(&String::from_utf8_lossy(&answer)).into_owned())
}

/// <https://no-color.org>
fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
