//! The command line of the demo.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use super::report::{Format, Report};
use super::stage::Stage;
use super::steps;
use crate::apps::binary;
use crate::run;

/// The mesh at work on one machine: two nodes, their pods, a waypoint, real traffic.
#[derive(Parser)]
#[command(name = "culvert-demo")]
struct Cli {
    /// The agent to show; the one built beside this program unless said otherwise.
    #[arg(long)]
    culvert: Option<PathBuf>,
    /// The waypoint to show; the one built beside this program unless said otherwise.
    #[arg(long)]
    waypoint: Option<PathBuf>,
    /// How to report.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    output: Format,
    /// Leave the mesh up and print how to explore it and how to take it down.
    #[arg(long)]
    keep: bool,
    /// Take down what an earlier run with --keep left, and do nothing else.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "culvert-demo")]
    down: Option<String>,
}

/// Runs the demo. The exit code is 1 when a check failed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run_demo(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _gone = writeln!(std::io::stderr(), "culvert-demo: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run_demo(cli: &Cli) -> Result<bool> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads eBPF: run it as root (cargo xtask demo does)"
    );
    if let Some(name) = &cli.down {
        ensure!(name.starts_with("culvert-demo") && !name.contains('/'), "{name} is not the name of a demo");
        run::remove(name);
        return Ok(true);
    }
    let program = match &cli.culvert {
        Some(path) => path.clone(),
        None => binary("culvert", "CULVERT_BIN")?,
    };
    ensure!(program.exists(), "{} is missing", program.display());
    let waypoint = match &cli.waypoint {
        Some(path) => path.clone(),
        None => binary("culvert-waypoint", "CULVERT_WAYPOINT_BIN")?,
    };
    ensure!(waypoint.exists(), "{} is missing", waypoint.display());
    let mut report = Report::new(cli.output);
    let mut stage = Stage::build(program, waypoint, cli.keep).context("build the stage")?;
    let ran = steps::run(&mut stage, &mut report, cli.keep);
    if let Err(error) = ran {
        report.check("completed", "The demo ran to its end", Err(error));
    }
    report.close()?;
    if cli.keep {
        stage.net.run.keep();
        report.say(&how_to_explore(&stage));
    }
    Ok(report.ok())
}

fn how_to_explore(stage: &Stage) -> String {
    let id = stage.net.run.id();
    let culvert = stage.program.display();
    let east = format!("nsenter --net=/run/netns/{id}-east");
    // A shell in the pod's namespace alone would be no process of the pod: capture goes by its cgroup too.
    let in_web = format!(
        "sh -c 'echo 0 > {}/cgroup.procs; exec nsenter --net={} \"$@\"' sh",
        stage.web.place.cgroup.display(),
        stage.web.place.netns.display()
    );
    format!(
        "\n── The mesh is still up. Explore it:\n   \
         {in_web} curl -s http://10.96.0.10/\n   \
         {east} {culvert} get workloads\n   \
         {east} {culvert} get connections\n   \
         {east} {culvert} get captures -o wide\n   \
         {east} {culvert} explain shop/web 10.96.0.10:80\n   \
         {east} {culvert} explain shop/web 10.96.0.22:80\n   \
         {in_web} curl -s http://10.96.0.20/\n   \
         {east} curl -s http://127.0.0.1:15020/metrics\n   \
         tail -f {}\n   \
         edit the manifests in {}\n   \
         take it down: {} --down {id}",
        stage.agents[0].log_file().display(),
        stage.manifests.display(),
        std::env::current_exe().unwrap_or_default().display(),
    )
}
