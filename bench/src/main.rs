//! `culvert-bench`: measures, with the real binaries, what `cargo xtask bench` asks for.

#[cfg(test)]
mod docs_tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bench::phases::Options;
use bench::report::Report;
use bench::show::{self, Format, Output};
use bench::{
    capture, connections, fairness, forward, greedy, hbone, hold, library, load, memory, pods, scale, serve, tunnel,
    victims, waypoint,
};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The benches that `all` runs, in the order of its page.
const ALL: [&str; 8] = ["memory", "tunnel", "same-node", "waypoint", "fairness", "capture", "scale", "connections"];

#[derive(Parser)]
#[command(about = "Measures what capture and the mesh cost", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// No capture, iptables REDIRECT and our hooks, all to the same plain forwarder
    Capture(Asked),
    /// No mesh, Envoy mTLS sidecars and our agents
    Tunnel(Asked),
    /// A node full of pods: a sidecar in each, one agent, one agent and a waypoint
    Memory {
        #[command(flatten)]
        options: memory::Options,
        #[command(flatten)]
        output: Output,
    },
    /// The L7 proxy: Envoy as Istio's waypoint and culvert-waypoint, doing the same job
    Waypoint {
        #[command(flatten)]
        options: waypoint::Options,
        #[command(flatten)]
        output: Output,
    },
    /// Two pods of one node: no mesh, the agent's tunnel, and the agent without a tunnel
    SameNode(Asked),
    /// A mesh of 100,000 workloads: its load, memory per workload, one change, one look-up
    Scale {
        #[command(flatten)]
        options: scale::Options,
        #[command(flatten)]
        output: Output,
    },
    /// 50,000 open connections through two agents: memory of each, what others notice, shutdown
    Connections {
        #[command(flatten)]
        options: connections::Options,
        #[command(flatten)]
        output: Output,
    },
    /// One greedy pod and ten others on one node: no mesh, an agent without limits, our agent
    Fairness {
        #[command(flatten)]
        options: fairness::Options,
        #[command(flatten)]
        output: Output,
    },
    /// Every bench with its defaults, and one page of all
    All {
        /// Run nothing: make the page of the results that are there
        #[arg(long)]
        saved: bool,
        #[command(flatten)]
        output: Output,
    },
    /// The ratios of two runs: the second by the first
    Compare {
        a: PathBuf,
        b: PathBuf,
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    #[command(hide = true)]
    Serve { at: SocketAddr },
    #[command(hide = true)]
    Load(load::Load),
    #[command(hide = true)]
    ListenPods { plan: PathBuf },
    #[command(hide = true)]
    LoadPods(pods::Load),
    #[command(hide = true)]
    ServePods { plan: PathBuf },
    #[command(hide = true)]
    Hold(hold::Hold),
    #[command(hide = true)]
    Scaled(library::Scaled),
    #[command(hide = true)]
    Victims(victims::Victims),
    #[command(hide = true)]
    Greedy(greedy::Greedy),
    #[command(hide = true)]
    ListenHbone { plan: PathBuf, ca_dir: PathBuf },
    #[command(hide = true)]
    LoadHbone(hbone::Load),
    #[command(hide = true)]
    #[command(subcommand)]
    Forward(forward::Forward),
}

#[derive(clap::Args)]
struct Asked {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    output: Output,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show::done(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Capture(asked) => asked.output.one(&capture::run(&asked.options)?),
        Command::Tunnel(asked) => asked.output.one(&tunnel::run(&asked.options)?),
        Command::Memory { options, output } => output.one(&memory::run(&options)?),
        Command::Waypoint { options, output } => output.one(&waypoint::run(&options)?),
        Command::SameNode(asked) => asked.output.one(&tunnel::run_same_node(&asked.options)?),
        Command::Scale { options, output } => output.one(&scale::run(&options)?),
        Command::Connections { options, output } => output.one(&connections::run(&options)?),
        Command::Fairness { options, output } => output.one(&fairness::run(&options)?),
        Command::All { saved, output } => output.all(if saved { show::saved(&ALL)? } else { all()? }),
        Command::Compare { a, b, output } => show::compare(&a, &b, output),
        Command::Serve { at } => role(async move { Ok(serve::run(at).await?) }),
        Command::Load(load) => role(async move { load::say(&load::run(&load).await?) }),
        Command::ListenPods { plan } => role(async move { pods::listen(&plan).await }),
        Command::ServePods { plan } => role(async move { pods::listen_plain(&plan).await }),
        Command::Hold(options) => role(async move { hold::run(&options).await }),
        Command::Scaled(options) => role(async move { load::say(&library::run(&options).await?) }),
        Command::LoadPods(load) => role(async move { load::say(&pods::load(&load).await?) }),
        Command::Victims(victims) => role(async move { load::say(&victims::run(&victims).await?) }),
        Command::Greedy(greedy) => role(async move { greedy::run(&greedy).await }),
        Command::ListenHbone { plan, ca_dir } => role(async move { hbone::listen(&plan, &ca_dir).await }),
        Command::LoadHbone(load) => role(async move { load::say(&hbone::load(&load).await?) }),
        Command::Forward(options) => role(async move { forward::run(&options).await }),
    }
}

/// What a bench is asked when nothing is said on the command line.
fn defaults<T: clap::Args + clap::FromArgMatches>() -> T {
    let nothing: [&str; 0] = [];
    let command = T::augment_args(clap::Command::new("defaults")).no_binary_name(true);
    T::from_arg_matches(&command.get_matches_from(nothing)).expect("every flag has a default")
}

/// Runs every bench and keeps the result of each.
fn all() -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for bench in ALL {
        show::done(&format!("bench {bench}"));
        let report = match bench {
            "memory" => memory::run(&defaults())?,
            "tunnel" => tunnel::run(&defaults())?,
            "same-node" => tunnel::run_same_node(&defaults())?,
            "waypoint" => waypoint::run(&defaults())?,
            "scale" => scale::run(&defaults())?,
            "connections" => connections::run(&defaults())?,
            "fairness" => fairness::run(&defaults())?,
            _ => capture::run(&defaults())?,
        };
        Output::keep(&report)?;
        reports.push(report);
    }
    Ok(reports)
}

/// Plays one part of a bench in a pod: one thread, and as many descriptors as there may be.
fn role(part: impl Future<Output = Result<()>>) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(part)
}
