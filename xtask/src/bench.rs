//! `cargo xtask bench`: builds what the benches run and becomes the bench runner.

use anyhow::Result;
use clap::ValueEnum;

use crate::demo::build_release;
use crate::setup::{BENCH_TOOLS, TEST_TOOLS, envoy, packages};
use crate::shell::{as_root, become_command, workspace};

/// What is measured. BENCHMARKS.md has the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// The cost of capture: no capture, iptables REDIRECT and our hooks, all to the same plain forwarder.
    Capture,
    /// The cost of the mesh: no mesh, Envoy mTLS sidecars and our agents.
    Tunnel,
}

/// Builds the release binaries and hands the rest of the command line to `culvert-bench`, which needs root.
pub(crate) fn run_with(bench: Bench, arguments: &[String]) -> Result<()> {
    packages(&TEST_TOOLS)?;
    packages(&BENCH_TOOLS)?;
    let name = match bench {
        Bench::Capture => "capture",
        Bench::Tunnel => "tunnel",
    };
    build_release()?;
    let runner = workspace().join("target/release/culvert-bench");
    let mut command = as_root("env", &[]);
    if bench == Bench::Tunnel {
        command.arg(format!("CULVERT_ENVOY={}", envoy()?.display()));
    }
    Err(become_command(command.arg(runner).arg(name).args(arguments)))
}
