//! Does what the command line asks for. Exit codes: 0 fine, 1 what was asked about is wrong, 2 usage or configuration.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use process::telemetry::escape::lines;
use process::terminal::{self, USAGE, WRONG, fail};

use super::{check, explain};
use crate::app;
use crate::args::{Cli, Command};

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match (cli.command, cli.run) {
        (Some(Command::Check(args)), _) => check::check(&args).and_then(|(text, good)| print(&text).map(|()| good)),
        (Some(Command::Explain(args)), _) => explain::explain(&args).and_then(|text| print(&text).map(|()| true)),
        (None, Some(args)) => match app::run(args) {
            Ok(()) => Ok(true),
            Err(error) => return fail(error.as_ref(), USAGE),
        },
        (None, None) => {
            eprintln!("error: --gateway, --manifests and --ca-dir are required; see --help");
            return ExitCode::from(USAGE);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(WRONG),
        Err(error) => fail(error.as_ref(), WRONG),
    }
}

fn print(text: &str) -> Result<()> {
    terminal::print(&lines(text)).context("writing to standard output")
}
