//! The benches run: shortest rounds, our own programs only. What they measure here is of no interest, only that they
//! do.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::programs;
use serde_json::Value;

/// Runs a bench, gives its JSON and its page.
fn bench(name: &str, arguments: &[&str]) -> Result<(Value, String)> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
    let mut command = programs::command(env!("CARGO_BIN_EXE_culvert-bench"))?;
    command.arg(name).args(arguments).args(["--rounds", "1", "-o", "json"]).env("CULVERT_BENCH_DIR", &directory);
    let output = command.output().context("starting culvert-bench")?;
    ensure!(output.status.success(), "bench {name}: {}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(directory.join(format!("{name}.html")))?;
    Ok((serde_json::from_slice(&output.stdout)?, page))
}

/// The median of a measure of a subject.
fn median(json: &Value, measure: &str, subject: &str) -> Result<f64> {
    let rows = json["rows"].as_array().context("no rows")?;
    let row = rows.iter().find(|row| row["measure"] == measure && row["subject"] == subject);
    row.and_then(|row| row["median"].as_f64()).with_context(|| format!("no {measure} of {subject}"))
}

#[test]
fn the_memory_bench_measures_a_node_with_and_without_a_mesh() -> Result<()> {
    let arguments = ["--pods", "3", "--services", "5", "--seconds", "0.3", "--rate", "60", "--rest", "0.1"];
    let subjects = ["--subjects", "none,culvert,culvert+waypoint"];
    let (json, page) = bench("memory", &[&arguments[..], &subjects].concat())?;
    for subject in ["culvert", "culvert+waypoint"] {
        ensure!(median(&json, "idle_private_s5_n3", subject)? > 1000.0);
        ensure!(median(&json, "after_pss_s5_n3", subject)? > 1000.0);
        ensure!(median(&json, "cpu_1000_requests_n3", subject)? > 0.0);
        ensure!(median(&json, "latency_p50_n3", subject)? > median(&json, "latency_p50_n3", "none")?);
    }
    ensure!(page.contains("<svg") && page.contains("Private memory at rest, 5 services"));
    Ok(())
}

#[test]
fn the_waypoint_bench_sees_each_change_of_a_route() -> Result<()> {
    let arguments = ["--subjects", "none,culvert", "--seconds", "0.3", "--connections", "8", "--routes", "150"];
    let (json, page) = bench("waypoint", &[&arguments[..], &["--changes", "2"]].concat())?;
    ensure!(median(&json, "requests_per_core", "culvert")? > 0.0);
    ensure!(median(&json, "memory_idle_150_routes_private", "culvert")? > 1000.0);
    for measure in ["change", "change_150_routes"] {
        ensure!(median(&json, measure, "culvert")? > 0.0);
    }
    ensure!(page.contains("70 % load: how long a request takes"));
    Ok(())
}
