//! `cargo xtask bench`: builds what the benches run and becomes the bench runner.

use anyhow::Result;
use clap::ValueEnum;

use crate::build_ebpf::ensure_object;
use crate::demo::build_release;
use crate::programs;
use crate::setup::{self, Purpose, envoy};
use crate::shell::{as_root, become_command, cargo, run, step, workspace};

/// What is measured. BENCHMARKS.md has the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// The cost of capture: no capture, iptables REDIRECT and our hooks, all to the same plain forwarder.
    Capture,
    /// The cost of the mesh: no mesh, Envoy mTLS sidecars and our agents.
    Tunnel,
    /// The cost of `--same-node direct`: no mesh, a tunnel and a direct connection between two pods of one node.
    SameNode,
    /// The memory of a node full of pods: Envoy sidecars, an agent, an agent and a waypoint.
    Memory,
    /// The L7 proxy: Envoy and culvert-waypoint doing the same job.
    Waypoint,
    /// A mesh of 100,000 workloads: load, memory, one change, one look-up.
    Scale,
    /// 50,000 open connections through two agents.
    Connections,
    /// The latency of ten pods while another one takes all it can get.
    Fairness,
    /// All of them on one page.
    All,
    /// The ratios of two runs.
    Compare,
}

/// Builds the programs and hands the rest of the command line to `culvert-bench`, which needs root. With `--debug` they
/// are built without optimisation, to see that a bench works.
pub(crate) fn run_with(bench: Bench, arguments: &[String]) -> Result<()> {
    let name = bench.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let debug = arguments.iter().any(|argument| argument == "--debug");
    let arguments = arguments.iter().filter(|argument| *argument != "--debug");
    if debug {
        ensure_object()?;
        step("building without optimisation");
        run(cargo().args(["build", "--workspace", "--bins", "--exclude", "xtask"]))?;
    } else {
        build_release()?;
    }
    let target = workspace().join("target");
    let runner = target.join(if debug { "debug" } else { "release" }).join("culvert-bench");
    // Comparing only reads files and needs neither root nor tools.
    let mut command = as_root("env", &[])?;
    if bench == Bench::Compare {
        command = programs::command("env")?;
    } else {
        setup::programs(Purpose::Bench)?;
        command.arg(format!("CULVERT_BENCH_DIR={}", target.join("bench").display()));
        if !matches!(bench, Bench::Capture | Bench::Fairness | Bench::Scale | Bench::Connections) {
            // If set, it names another Envoy to measure.
            let given = std::env::var_os("CULVERT_ENVOY").map(std::path::PathBuf::from);
            let binary = given.map_or_else(envoy, Ok)?;
            command.arg(format!("CULVERT_ENVOY={}", binary.display()));
        }
    }
    Err(become_command(command.arg(runner).arg(name).args(arguments)))
}
