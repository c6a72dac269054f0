//! `bench connections`: the cost of very many open connections for two agents and for other clients.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit};

use crate::load::Seen;
use crate::phases::{self, BULK_1, CONNECTIONS, LATENCY, Pace, Subject};
use crate::pods::Member;
use crate::report::Report;
use crate::stats::{Samples, report};
use crate::tunnel::prepare;
use crate::{meter, show};
use harness::eventually::within;
use harness::manifest::PodSpec;
use harness::mesh::{Mesh, MeshOptions, Pod};
use harness::process::{Place, Process};

/// Port of the servers.
const PORT: u16 = 8080;
/// Without and with the open connections.
const SUBJECTS: [&str; 2] = ["none_open", "open"];
/// Pods that serve the open connections.
const SERVERS: usize = 10;
/// Descriptors that a process needs beside those of the open connections.
const SPARE: u64 = 200;
/// The number of open connections that are used again.
const ASKED: usize = 2000;
/// Drain deadline of an agent, in seconds.
const DRAIN: u64 = 3;
/// Idle time before memory is read.
const REST: Duration = Duration::from_secs(6);
/// Timeout for opening all of them.
const PATIENCE: Duration = Duration::from_secs(600);

/// Options of the bench.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many connections are held open
    #[arg(long, default_value_t = 50_000)]
    pub idle: usize,
    /// Pods that they come from
    #[arg(long, default_value_t = 50)]
    pub pods: usize,
    /// How often everything is measured
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Seconds of each phase
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// Runs all rounds.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.pods > 0 && options.idle / options.pods <= 40_000, "a pod has 40,000 ports: more pods, please");
    ensure!(options.pods <= 150, "a node holds 150 pods here");
    let machine = meter::machine();
    let mut samples = Samples::default();
    let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // An agent keeps an eighth back, and of the rest each serving pod has at most what is left for the others:
    // docs/limits.md, "One pod among many".
    let parts = SERVERS.min(options.pods) as u64;
    let most = ((descriptors - descriptors / 8) / (parts + 1) * parts).saturating_sub(SPARE);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (asked, options) = (options.idle, &Options { idle: options.idle.min(most), ..options.clone() });
    for round in 0..options.rounds {
        Lab::new(options)?.run(options, round, &mut samples)?;
    }
    let mut report = report("connections", machine, &samples, &SUBJECTS, &[(SUBJECTS[1], SUBJECTS[0])]);
    report.notes = vec![format!(
        "{} connections from {} pods of one node to {SERVERS} pods of another, each with one request when it is opened. \
         `shutdown` counts from SIGTERM to the end of the client side's agent, which gives open connections {DRAIN} s.",
        options.idle, options.pods
    )];
    if asked > options.idle {
        report.notes.push(format!(
            "{asked} were asked for: no process here may have more than {descriptors} descriptors (ulimit -Hn), and an \
             agent needs one for each connection and keeps a share for other pods."
        ));
    }
    show::done("measured");
    Ok(report)
}

/// Two agents, the pods of the open connections, and two pods that are measured.
struct Lab {
    held: Option<Process>,
    subject: Subject,
    _server: Process,
    _servers: Process,
    mesh: Arc<Mesh>,
    clients: Vec<Pod>,
    servers: Vec<Pod>,
    _measured: [Pod; 2],
}

impl Lab {
    fn new(options: &Options) -> Result<Self> {
        let flags = vec!["--drain".to_owned(), DRAIN.to_string()];
        let mesh = Mesh::with(MeshOptions { flags, ..MeshOptions::default() })?;
        let pods = |count: usize, name: &str, node: usize| {
            let one = |number| mesh.pod(PodSpec::new("bench", &format!("{name}-{number}")).on(node));
            (0..count).map(one).collect::<Result<Vec<Pod>>>()
        };
        let (clients, servers) = (pods(options.pods, "client", 0)?, pods(SERVERS, "server", 1)?);
        let measured =
            [mesh.pod(PodSpec::new("bench", "measured"))?, mesh.pod(PodSpec::new("bench", "measured-server").on(1))?];
        clients.iter().chain(&measured).try_for_each(|pod| prepare(pod))?;
        for agent in &mesh.agents {
            agent.culvert_ok(&["log", "warn"]).context("turning the access log off")?;
        }
        let to = measured[1].at(PORT);
        let server = phases::server(&measured[1].place, to)?;
        let proxies = mesh.agents.iter().map(harness::agent::Agent::pid).collect::<Result<Vec<u32>>>()?;
        let ends = vec![server.pid()];
        let subject = Subject { name: SUBJECTS[0], client: measured[0].place.clone(), to, proxies, ends };
        phases::wait_open(&subject)?;
        let plan = plan(&mesh, "servers.json", servers.iter().map(|pod| (pod, pod)))?;
        let all_servers = phases::role(&place(&mesh, 1), &["serve-pods".to_owned(), plan])?;
        Ok(Self {
            held: None,
            subject,
            _server: server,
            _servers: all_servers,
            mesh,
            clients,
            servers,
            _measured: measured,
        })
    }

    fn run(mut self, options: &Options, round: usize, samples: &mut Samples) -> Result<()> {
        let step = |step: usize, what: &str| phases::progress(round, options.rounds, (step, 6), what);
        step(0, "none open");
        self.measure(options, samples)?;
        thread::sleep(REST);
        let rest = self.memory()?;
        step(1, "opening");
        let seen = self.open(options)?;
        let mut add = |measure: &str, unit: &str, value: f64| samples.add(measure, unit, SUBJECTS[1], value);
        add("opened", "1/s", seen.units as f64 / seen.seconds);
        thread::sleep(REST);
        for (side, (rest, held)) in ["client", "server"].into_iter().zip(rest.iter().zip(self.memory()?)) {
            let each = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1024.0 / options.idle as f64;
            add(&format!("memory_connection_{side}"), "B", each(held.private, rest.private));
            add(&format!("memory_{side}"), "KiB", held.private as f64);
        }
        step(2, "all open");
        self.subject.name = SUBJECTS[1];
        self.measure(options, samples)?;
        let held = self.held.as_mut().context("nothing is held")?;
        held.write_line(&ASKED.to_string())?;
        let asked: Seen = held.read(Duration::from_secs(120)).context("the open connections were asked")?;
        samples.add("old_connection_p50", "us", SUBJECTS[1], asked.p50_ns as f64 / 1e3);
        samples.add("old_connection_p99", "us", SUBJECTS[1], asked.p99_ns as f64 / 1e3);
        step(3, "closing");
        let mut add = |measure: &str, unit: &str, value: f64| samples.add(measure, unit, SUBJECTS[1], value);
        add("closed", "s", self.close()?);
        thread::sleep(REST);
        for (side, after) in ["client", "server"].into_iter().zip(self.memory()?) {
            add(&format!("memory_after_{side}"), "KiB", after.private as f64);
        }
        step(4, "opening again");
        self.open(options)?;
        step(5, "shutdown");
        let begin = Instant::now();
        self.mesh.agents[0].terminate()?;
        let limit = Duration::from_secs(DRAIN + 60);
        within(limit, "the agent ends", || {
            ensure!(!self.mesh.agents[0].is_running(), "still runs");
            Ok(())
        })?;
        add("shutdown", "s", begin.elapsed().as_secs_f64());
        self.mesh.agents[0].wait_end()?;
        self.held = None;
        Ok(())
    }

    /// The latency of an unrelated client.
    fn measure(&self, options: &Options, samples: &mut Samples) -> Result<()> {
        let pace = Pace { seconds: options.seconds, whole_path: false };
        [LATENCY, CONNECTIONS, BULK_1]
            .into_iter()
            .try_for_each(|phase| phases::measure("", &self.subject, phase, pace, samples))
    }

    fn memory(&self) -> Result<Vec<meter::Memory>> {
        self.subject.proxies.iter().map(|pid| meter::memory_of(&[*pid])).collect()
    }

    fn open(&mut self, options: &Options) -> Result<Seen> {
        let ways = self.clients.iter().enumerate().map(|(number, client)| (client, &self.servers[number % SERVERS]));
        let plan = plan(&self.mesh, "clients.json", ways)?;
        let words = ["hold", "--plan", &plan, "--count", &options.idle.to_string()].map(str::to_owned);
        let held = Process::talking(&place(&self.mesh, 0), std::env::current_exe()?, &words)?;
        let seen: Seen = held.read(PATIENCE).context("the connections did not open")?;
        self.held = Some(held);
        ensure!(seen.units == options.idle as u64, "{} of {} connections opened", seen.units, options.idle);
        Ok(seen)
    }

    /// Closes all at once; returns the seconds until the agents list none.
    fn close(&mut self) -> Result<f64> {
        let begin = Instant::now();
        let held = self.held.as_mut().context("nothing is held")?;
        held.close_stdin();
        within(PATIENCE, "the agents know of no connection", || {
            ensure!(held.ended()?.is_some(), "the client still runs");
            for agent in &self.mesh.agents {
                let dump = agent.dump()?;
                let open = dump["connections"].as_array().context("no connections in the dump")?.len();
                ensure!(open == 0, "{open} are still open");
            }
            Ok(())
        })?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

/// Writes a plan: each pod with what it dials, or where it listens.
fn plan<'a>(mesh: &Mesh, name: &str, ways: impl Iterator<Item = (&'a Pod, &'a Pod)>) -> Result<String> {
    let member =
        |(from, to): (&Pod, &Pod)| Member { netns: from.place.netns.clone(), at: to.at(PORT), host: String::new() };
    let members: Vec<Member> = ways.map(member).collect();
    let path = mesh.net.run.files().join(name);
    fs::write(&path, serde_json::to_vec(&members)?)?;
    Ok(path.display().to_string())
}

/// Below the pods' cgroup of a node, where connections are captured.
fn place(mesh: &Mesh, node: usize) -> Place {
    let node = &mesh.nodes[node];
    Place { netns: node.place.netns.clone(), cgroup: node.kubepods().join("many"), outlive: false }
}
