//! `bench scale`: what a large mesh costs each node: its load, its memory, one change, one look-up.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::library::Measured;
use crate::many::{self, Size};
use crate::report::Report;
use crate::stats::{Samples, report};
use crate::{meter, phases, show};
use harness::agent::Agent;
use harness::eventually::within;
use harness::mesh::{Mesh, MeshOptions, apply};
use harness::process::Process;

/// How long a load may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long an agent is watched that nothing happens to: two looks at everything.
const IDLE: Duration = Duration::from_secs(20);

/// What is asked of the bench.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Workloads of the largest mesh; smaller ones have a tenth, and a hundredth
    #[arg(long, default_value_t = 100_000)]
    pub workloads: usize,
    /// Its services
    #[arg(long, default_value_t = 10_000)]
    pub services: usize,
    /// How often everything is measured
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// How many changes of each kind are timed
    #[arg(long, default_value_t = 21)]
    pub changes: usize,
}

/// Measures each size.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.services > 0 && options.workloads >= options.services, "a service without a workload");
    ensure!((1..=10_000).contains(&options.changes), "1 to 10,000 changes");
    let machine = meter::machine();
    let mut samples = Samples::default();
    let sizes: Vec<Size> = [100, 10, 1]
        .map(|part| Size { workloads: options.workloads / part, services: (options.services / part).max(1) })
        .into_iter()
        .filter(|size| size.workloads >= size.services)
        .collect();
    let names: Vec<String> = sizes.iter().map(|size| size.workloads.to_string()).collect();
    for round in 0..options.rounds {
        for (step, (size, name)) in sizes.iter().zip(&names).enumerate() {
            phases::progress(round, options.rounds, (step, sizes.len()), &format!("{name} workloads"));
            one(*size, options.changes, name, &mut samples).with_context(|| format!("{name} workloads"))?;
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let pairs: Vec<(&str, &str)> = names.iter().skip(1).map(|name| (*name, names[0])).collect();
    let mut report = report("scale", machine, &samples, &names, &pairs);
    report.notes = vec![
        format!(
            "The subjects are numbers of workloads, all enrolled, with a service for every {}: a file for each service \
             and its pods.",
            options.workloads / options.services
        ),
        "Of a change, 30 ms are the wait for the last write. `library_…` is measured within one process, `agent_…` is \
         the real agent."
            .to_owned(),
    ];
    show::done("measured");
    Ok(report)
}

fn one(size: Size, changes: usize, name: &str, samples: &mut Samples) -> Result<()> {
    let flags = vec!["--log".to_owned(), "warn".to_owned()];
    let mesh = Mesh::prepare(MeshOptions { nodes: 1, flags, ..MeshOptions::default() })?;
    let agent = &mesh.agents[0];
    let rest = started(agent)?.1;
    stopped(agent)?;
    fs::write(mesh.manifests.join("namespaces.yaml"), many::namespaces())?;
    for service in 0..size.services {
        fs::write(mesh.manifests.join(many::file_name(service)), size.file(service, 80, "v1"))?;
    }
    library(&mesh, size, changes, name, samples)?;
    let (ready, held) = started(agent)?;
    let mut add = |measure: &str, unit: &str, value: f64| samples.add(measure, unit, name, value);
    let per_workload = |kib: u64| kib as f64 * 1024.0 / size.workloads as f64;
    add("agent_ready", "s", ready);
    add("agent_private", "KiB", held.private as f64);
    add("agent_workload", "B", per_workload(held.private.saturating_sub(rest.private)));
    let pid = agent.pid()?;
    let before = meter::cpu(pid)?;
    thread::sleep(IDLE);
    add("agent_idle_cpu", "ms/s", (meter::cpu(pid)? - before) as f64 / 1e6 / IDLE.as_secs_f64());
    for kind in ["pod", "service"] {
        let before = meter::cpu(pid)?;
        for round in 0..changes {
            let number = u16::try_from(round)?;
            let (port, version) =
                if kind == "pod" { (80, format!("a{round}")) } else { (9000 + number, "v1".to_owned()) };
            apply(&mesh.manifests, &many::file_name(0), &size.file(0, port, &version))?;
            thread::sleep(Duration::from_millis(250));
        }
        // What a change brings about later belongs to it.
        thread::sleep(Duration::from_secs(1));
        add(&format!("agent_{kind}_cpu"), "us/each", (meter::cpu(pid)? - before) as f64 / 1e3 / changes as f64);
    }
    let log = agent.log_text();
    ensure!(!log.contains("ERROR") && !log.contains("\"error\""), "the agent's log has errors:\n{}", agent.log_tail());
    stopped(agent)
}

/// Starts an agent: seconds until it was ready, and its memory when it had come to rest.
fn started(agent: &Agent) -> Result<(f64, meter::Memory)> {
    let begin = Instant::now();
    agent.launch()?;
    let runs = within(PATIENCE, "the agent is ready", || {
        if !agent.is_running() {
            return Ok(false);
        }
        let (status, text) = agent.admin("GET", "/healthz/ready")?;
        ensure!(status == 200, "{text}");
        Ok(true)
    })?;
    ensure!(runs, "the agent ended: {}", agent.log_tail());
    let ready = begin.elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs(3));
    Ok((ready, meter::memory_of(&[agent.pid()?])?))
}

fn stopped(agent: &Agent) -> Result<()> {
    agent.terminate()?;
    agent.wait_end()?;
    Ok(())
}

/// The same directory in a process that measures itself.
fn library(mesh: &Mesh, size: Size, changes: usize, name: &str, samples: &mut Samples) -> Result<()> {
    let place = mesh.nodes[0].agent();
    let numbers = [("--workloads", size.workloads), ("--services", size.services), ("--changes", changes)];
    let mut arguments = vec!["scaled".to_owned(), mesh.manifests.display().to_string()];
    arguments.extend(numbers.iter().flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]));
    let process = Process::talking(&place, std::env::current_exe()?, &arguments)?;
    let seen: Measured = process.read(PATIENCE).context("the process that measures itself")?;
    let mut add = |measure: &str, unit: &str, value: f64| samples.add(measure, unit, name, value);
    let per_workload = |bytes: f64| bytes / size.workloads as f64;
    add("library_load", "s", seen.load);
    add("library_load_cpu", "s", seen.load_cpu);
    add("library_apply", "ms", seen.apply * 1e3);
    add("library_workload", "B", per_workload(seen.all));
    add("library_workload_store", "B", per_workload(seen.store));
    add("library_workload_source", "B", per_workload(seen.all - seen.store));
    seen.pod.iter().for_each(|time| add("library_pod", "us", *time));
    seen.service.iter().for_each(|time| add("library_service", "us", *time));
    add("library_pod_cpu", "us/each", seen.pod_cpu);
    add("library_service_cpu", "us/each", seen.service_cpu);
    add("lookup_address", "ns", seen.by_address);
    add("lookup_vip", "ns", seen.by_vip);
    add("lookup_host", "ns", seen.by_host);
    Ok(())
}
