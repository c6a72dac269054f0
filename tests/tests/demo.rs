//! The demo itself: it passes, speaks JSON and nothing else, cleans up, and can be kept and taken down.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::eventually::eventually;
use tests::programs;

/// The demos of this file take turns, so that each can look for what it left.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn demo(args: &[&str]) -> Result<Child> {
    let mut command = programs::command(tests::apps::built()?.join("culvert-demo"))?;
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("start the demo")
}

/// Namespaces, cgroups, pins and files of the demo run with this process id, or of the one that has the plain name.
fn traces(pid: u32) -> Vec<PathBuf> {
    let cgroups = tests::run::cgroup2().unwrap_or_default();
    let directories = [Path::new("/run/netns"), Path::new("/sys/fs/bpf"), Path::new("/tmp"), &cgroups];
    let entries = directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten();
    let ours = |name: &str| {
        name == "culvert-demo" || name.starts_with("culvert-demo-") || name.starts_with(&format!("culvert-demo{pid}"))
    };
    entries.filter(|e| ours(&e.file_name().to_string_lossy())).map(|e| e.path()).collect()
}

#[test]
fn every_check_passes_and_standard_output_is_one_json_object() -> Result<()> {
    let _turn = turn();
    let child = demo(&["-o", "json"])?;
    let pid = child.id();
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
    let checks = report["checks"].as_array().context("no checks")?;
    let failed: Vec<_> = checks.iter().filter(|c| c["ok"] != true).collect();
    ensure!(output.status.success() && report["ok"] == true && failed.is_empty(), "{failed:?}");
    for id in [
        "agents-ready",
        "plaintext-before",
        "enroll-live",
        "encrypted-after",
        "every-address",
        "addresses-kept",
        "identities",
        "metrics",
        "strict-refuses-plaintext",
        "kubelet-probe",
        "host-process-refused",
        "policy-live-change",
        "policy-denies",
        "fail-closed",
        "unenrolled-unaffected",
        "recovers",
        "waypoint-missing-closed",
        "waypoint-handoff",
        "waypoint-no-bypass",
        "retry-storm",
        "mtls-downgrade",
        "slow-pod-60",
        "slow-pod-600",
        "slow-pod-back",
        "failing-pod",
        "trace-kept",
        "trace-started",
        "route-live-change",
        "cleanup",
    ] {
        let check = checks.iter().find(|c| c["id"] == id).with_context(|| format!("no check {id}"))?;
        ensure!(
            !check["title"].as_str().unwrap_or_default().is_empty()
                && !check["evidence"].as_str().unwrap_or_default().is_empty(),
            "{check}"
        );
    }
    let memory = report["memory"].as_array().context("no memory")?;
    ensure!(memory.len() == 3, "{memory:?}");
    for row in memory {
        for field in ["rss_kib", "pss_kib", "private_kib"] {
            ensure!(row[field].as_u64().is_some_and(|n| n > 0), "{row}");
        }
    }
    ensure!(traces(pid).is_empty(), "left: {:?}", traces(pid));
    Ok(())
}

#[test]
fn interrupted_it_cleans_up() -> Result<()> {
    let _turn = turn();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = demo(&[])?;
        let pid = child.id();
        eventually("an agent is up", || {
            let found = traces(pid).iter().any(|p| p.starts_with("/sys/fs/bpf") && p.join("east").exists());
            ensure!(found, "{:?}", traces(pid));
            Ok(())
        })?;
        std::thread::sleep(Duration::from_millis(200));
        kill(Pid::from_raw(pid as i32), signal)?;
        let status = eventually("the demo ends", || child.try_wait()?.context("still runs"))?;
        ensure!(status.code() == Some(128 + signal as i32), "{status}");
        ensure!(traces(pid).is_empty(), "left: {:?}", traces(pid));
    }
    Ok(())
}

#[test]
fn kept_it_can_be_explored_and_taken_down() -> Result<()> {
    let _turn = turn();
    let output = demo(&["--keep"])?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let down = || -> Result<()> {
        let name = text.split("--down ").nth(1).context("no command to take it down")?.trim().to_owned();
        ensure!(demo(&["--down", &name])?.wait()?.success());
        Ok(())
    };
    let explore = || -> Result<()> {
        ensure!(output.status.success(), "{text}");
        let commands: Vec<&str> =
            text.lines().map(str::trim).filter(|l| l.starts_with("nsenter") || l.starts_with("sh -c")).collect();
        ensure!(commands.len() >= 5, "{text}");
        for command in commands {
            let run = programs::script(format!("exec timeout 20 {command}"))?.output()?;
            ensure!(
                run.status.success() && !run.stdout.is_empty(),
                "{command}: {}",
                String::from_utf8_lossy(&run.stderr)
            );
        }
        Ok(())
    };
    let explored = explore();
    down()?;
    explored?;
    ensure!(traces(0).is_empty(), "left: {:?}", traces(0));
    Ok(())
}
