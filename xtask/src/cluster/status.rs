//! What runs and what it takes.

use std::fs;
use std::io::{self, Write as _};

use anyhow::Result;

use super::cgroups::processes;
use super::enter::{kubectl, quiet};
use super::layout::machines;
use super::state::{State, kubeconfig, pid};

/// Prints the machines with their processes and memory, then nodes and pods as Kubernetes sees them.
pub(crate) fn print() -> Result<()> {
    let state = State::required()?;
    let mut out = io::stdout().lock();
    writeln!(out, "kubeconfig  {}\nprograms    {}\n", kubeconfig().display(), state.programs.join("bin").display())?;
    writeln!(out, "{:<10} {:<16} {:>9}  {:<24} {:>8}", "MACHINE", "ADDRESS", "PID", "PROCESS", "PSS MiB")?;
    let mut total = 0;
    for machine in machines(state.nodes) {
        let (name, address) = (machine.name(), machine.address());
        if pid(machine).is_none() {
            writeln!(out, "{name:<10} {address:<16} does not run")?;
            continue;
        }
        // The hierarchy of version 2 is the one that a process cannot be missing from.
        let cgroup = state.cgroups.iter().find(|cgroup| cgroup.join("cgroup.kill").exists());
        let mut ids = cgroup.map(|cgroup| processes(&cgroup.join(&name))).unwrap_or_default();
        ids.sort_unstable();
        for id in ids {
            let process = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            let kib = memory(id).unwrap_or_default();
            total += kib;
            let mib = kib as f32 / 1024.0;
            writeln!(out, "{name:<10} {address:<16} {id:>9}  {:<24} {mib:>8.1}", process.trim())?;
        }
    }
    writeln!(out, "{:<38}  {:<24} {:>8.1}\n", "", "all", total as f32 / 1024.0)?;
    for shown in [["get", "nodes"], ["get", "pods"]] {
        let mut get = kubectl(&state, &shown)?;
        get.args(["--output=wide", "--request-timeout=10s"]);
        if shown[1] == "pods" {
            get.arg("--all-namespaces");
        }
        writeln!(out, "{}\n", quiet(&mut get)?)?;
    }
    Ok(())
}

/// The memory that a process takes, its share of shared pages included, in KiB.
fn memory(id: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok())
}
