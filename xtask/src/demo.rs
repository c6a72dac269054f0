//! `cargo xtask demo`: builds what the demo runs and becomes the demo.

use anyhow::Result;

use crate::build_ebpf::ensure_object;
use crate::setup::{Purpose, programs};
use crate::shell::{as_root, become_command, cargo, run, step, workspace};

/// Builds the release binaries and hands the rest of the command line to `culvert-demo`, which needs root.
pub(crate) fn run_with(arguments: &[String]) -> Result<()> {
    programs(Purpose::Test)?;
    build_release()?;
    let demo = workspace().join("target/release/culvert-demo");
    Err(become_command(as_root(demo, &["CARGO_TARGET_DIR", "RUST_LOG"])?.args(arguments)))
}

/// Builds every program of ours the way it ships.
pub(crate) fn build_release() -> Result<()> {
    ensure_object()?;
    step("building the release binaries");
    run(cargo().args(["build", "--release", "--workspace", "--bins", "--exclude", "xtask"]))
}
