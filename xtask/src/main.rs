//! `cargo xtask <command>`: builds, checks, tests and shows the project.

// Outermost first, as everywhere (CONTRIBUTING.md).
mod ci; // check, then test
mod check; // fmt, clippy, docs, deny and the rules below
mod bench; // how fast
mod demo; // the mesh at work on one machine
mod cluster; // a real Kubernetes on this machine
mod test; // unit and end-to-end tests, counted
mod build_ebpf; // the kernel half of capture, from source to the object that the agent embeds
mod fingerprint; // what the eBPF object was built from
mod setup; // packages and Envoy
mod docs; // what documents and comments name, how long lines are, which words are said
mod words; // the words that are not said
mod doors; // through what programs are started
mod once; // what is written in one place only
mod layers; // who may use whom
mod pure; // what "Pure." promises
mod sizes; // how long things may get
mod source; // our Rust files
#[cfg(test)]
mod tables; // tables of the documentation
#[cfg(test)]
mod flags; // flags as rows of such a table
mod shell; // runs other programs
#[cfg_attr(not(test), expect(dead_code, reason = "scripts and ends are for tests"))]
#[expect(unreachable_pub, reason = "the harness includes the file too, and publishes it")]
mod programs; // which other programs there are, each with its package

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the mesh at work: two nodes, their pods, real traffic (`-o json`, `--keep`)
    #[command(disable_help_flag = true)]
    Demo {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the tests and count them
    Test {
        #[arg(value_enum, default_value = "all")]
        level: test::Level,
        /// Only tests whose name contains one of these
        filter: Vec<String>,
    },
    /// Build the eBPF object from source and put it where the agent embeds it from
    BuildEbpf(build_ebpf::Args),
    /// Check the code without running it: fmt, clippy, docs, deny, layers, once, sizes, pure, doors, documents
    Check,
    /// Measure (`--rounds N`, `-o json`)
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(value_enum)]
        bench: bench::Bench,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check that a module uses only what is declared below it
    Layers,
    /// Check that a number that everybody must agree on is written once
    Once,
    /// Check the lengths of files and functions
    Sizes,
    /// Check that files marked "Pure." only compute
    Pure,
    /// Check that every program that is started is declared with its package
    Doors,
    /// Check what documents and comments name, the length of lines, and the words
    Documents,
    /// A real Kubernetes of several nodes on this machine, without Docker
    Cluster(cluster::Cluster),
    /// Everything that a change must pass: check, then test
    Ci,
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
        Command::Demo { arguments } => demo::run_with(&arguments),
        Command::Test { level, filter } => test::run(level, &filter),
        Command::BuildEbpf(args) => build_ebpf::run(&args),
        Command::Check => check::run_all(),
        Command::Bench { bench, arguments } => bench::run_with(bench, &arguments),
        Command::Layers => layers::run(),
        Command::Once => once::run(),
        Command::Sizes => sizes::run(),
        Command::Pure => pure::run(),
        Command::Doors => doors::run(),
        Command::Documents => docs::run(),
        Command::Cluster(command) => cluster::run(command),
        Command::Ci => ci::run(),
    }
}
