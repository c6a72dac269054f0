//! `bench fairness`: the latency of ten pods of a node while another pod takes all it can get.
//!
//! The node's agent has one half of the cores, the pods the other; there the ten have priority over the greedy one. So
//! the bench shows how the agent divides its CPU time, not how the kernel's scheduler does.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

use harness::eventually::eventually;
use harness::manifest::PodSpec;
use harness::mesh::{Mesh, MeshOptions, Pod};
use harness::net::{Net, Node, PodNet};
use harness::process::{Place, Process};

use crate::greedy::Attack;
use crate::load::Seen;
use crate::pods::Member;
use crate::report::Report;
use crate::stats::{Samples, report};
use crate::victims::Served;
use crate::{meter, phases};

/// Pods whose latency is measured.
const VICTIMS: usize = 10;
/// Port of the servers.
const PORT: u16 = 8080;
/// File descriptors of an agent: few enough for one pod to use up all of them.
const DESCRIPTORS: u64 = 8192;
/// Subjects in the order in which they are shown.
const SUBJECTS: [&str; 3] = ["none", "unlimited", "culvert"];
/// The ratios to report, as (numerator, denominator).
const PAIRS: [(&str, &str); 3] = [("unlimited", "none"), ("culvert", "none"), ("culvert", "unlimited")];
/// The flag that removes an agent's limits.
const UNLIMITED: [&str; 1] = ["--unfair"];
/// The attacks in order, each with its size.
const ATTACKS: [(Attack, usize); 4] =
    [(Attack::Bytes, 256), (Attack::Connections, 64), (Attack::Handshakes, 512), (Attack::Hold, 20_000)];
/// Duration of an attack before measuring begins.
const ONSET: Duration = Duration::from_millis(1500);

/// Options of the bench.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds that are measured in each phase
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Only these subjects, divided by commas
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<String>,
    /// Only these attacks, divided by commas
    #[arg(long, value_delimiter = ',', value_enum)]
    pub attacks: Vec<Attack>,
    /// Another flag of the agent called culvert, such as --flag=--threads=2
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub flag: Vec<String>,
}

/// Runs all rounds. Every round starts everything afresh; within it the subjects take turns, attack by attack.
pub fn run(options: &Options) -> Result<Report> {
    let machine = meter::machine();
    let mut samples = Samples::default();
    let wanted = |name: &str| options.subjects.is_empty() || options.subjects.iter().any(|subject| subject == name);
    let attacks: Vec<_> =
        ATTACKS.iter().filter(|(attack, _)| options.attacks.is_empty() || options.attacks.contains(attack)).collect();
    let steps = attacks.len() + 1;
    for round in 0..options.rounds {
        let subjects: Vec<&'static str> = SUBJECTS.into_iter().filter(|name| wanted(name)).collect();
        let labs: Vec<Lab> = subjects.iter().map(|name| Lab::new(name, &options.flag)).collect::<Result<_>>()?;
        for step in 0..steps {
            for turn in 0..labs.len() {
                let lab = &labs[(turn + round) % labs.len()];
                let attack = step.checked_sub(1).map(|index| attacks[index]);
                let name = attack.map_or_else(|| "calm".to_owned(), |(attack, _)| word(*attack));
                phases::progress(round, options.rounds, (step, steps), &format!("{name} {}", lab.name));
                let served = match attack {
                    None => lab.serve(options.seconds)?,
                    Some((attack, count)) => lab.attacked(*attack, *count, options.seconds, &mut samples)?,
                };
                add(&mut samples, &name, lab.name, served)?;
            }
        }
    }
    let mut report = report("fairness", machine, &samples, &SUBJECTS, &PAIRS);
    report.bars = report.rows.iter().map(|row| row.measure.clone()).filter(|measure| is_told(measure)).collect();
    report.bars.dedup();
    Ok(report)
}

/// Whether a measure is shown; the others are only in the JSON.
fn is_told(measure: &str) -> bool {
    ["_p50", "_p99", "_attack", "_failures"].iter().any(|end| measure.ends_with(end))
}

fn word(attack: Attack) -> String {
    attack.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn add(samples: &mut Samples, phase: &str, subject: &str, served: Served) -> Result<()> {
    let may_fail = subject == "unlimited";
    if let Some(failure) = served.failure.filter(|_| !may_fail) {
        bail!("{phase} of {subject}: {} of the ten's requests failed, the first: {failure}", served.failures);
    }
    ensure!(served.requests.units > 0 || may_fail, "{phase} of {subject}: nothing happened");
    for (what, seen, longest) in [
        ("latency", &served.requests, served.longest_request_ns),
        ("opening", &served.openings, served.longest_opening_ns),
    ] {
        let mut add = |end: &str, value: u64| {
            samples.add(&format!("{phase}_{what}_{end}"), "us", subject, value as f64 / 1000.0);
        };
        // Where nothing was served there is no time to tell.
        if seen.units > 0 {
            add("p50", seen.p50_ns);
            add("p99", seen.p99_ns);
            add("max", longest);
        }
    }
    if may_fail {
        samples.add(&format!("{phase}_failures"), "", subject, served.failures as f64);
    }
    if !served.requests.quantiles.is_empty() && served.requests.units > 0 {
        samples.add_distribution(phase, subject, served.requests.quantiles);
    }
    Ok(())
}

/// The cores of the agent, and those of the pods.
fn cores() -> [Range<usize>; 2] {
    let all = thread::available_parallelism().map_or(1, usize::from);
    let half = (all / 2).max(1);
    [0..half, if all > half { half..all } else { 0..half }]
}

/// As taskset(1) reads them.
fn list(cores: &Range<usize>) -> String {
    format!("{}-{}", cores.start, cores.end - 1)
}

/// A node with its pods. Its processes end and its namespaces go when it is dropped.
struct Lab {
    name: &'static str,
    _servers: [Process; 2],
    pods: Pods,
    mesh: Option<Arc<Mesh>>,
    net: Arc<Net>,
}

/// Thirteen pods: those whose service is measured, the greedy one, the one that it calls, and a stranger to the mesh.
enum Pods {
    Plain(Vec<PodNet>),
    Mesh(Vec<Pod>),
}

impl Pods {
    fn names() -> Vec<String> {
        let victims = (0..VICTIMS).map(|index| format!("victim-{index}"));
        victims.chain(["greedy", "sink", "stranger"].map(str::to_owned)).collect()
    }

    fn get(&self, index: usize) -> &PodNet {
        match self {
            Self::Plain(pods) => &pods[index],
            Self::Mesh(pods) => &pods[index],
        }
    }

    fn victims(&self) -> impl Iterator<Item = &PodNet> {
        (0..VICTIMS).map(|index| self.get(index))
    }

    fn greedy(&self) -> &PodNet {
        self.get(VICTIMS)
    }

    fn sink(&self) -> &PodNet {
        self.get(VICTIMS + 1)
    }

    fn stranger(&self) -> &PodNet {
        self.get(VICTIMS + 2)
    }
}

impl Lab {
    fn new(name: &'static str, flags: &[String]) -> Result<Self> {
        let (net, mesh, pods) = match name {
            "none" => {
                let net = Net::new()?;
                let node = net.node("east")?;
                let pods = Pods::names().iter().map(|name| node.pod(name)).collect::<Result<_>>()?;
                (net, None, Pods::Plain(pods))
            }
            _ => {
                let more = if name == "unlimited" { UNLIMITED.map(str::to_owned).to_vec() } else { flags.to_vec() };
                let (mesh, pods) = Self::meshed(more)?;
                (mesh.net.clone(), Some(mesh), Pods::Mesh(pods))
            }
        };
        for pod in pods.victims().chain([pods.greedy(), pods.sink(), pods.stranger()]) {
            pod.place.sysctl("net.ipv4.ip_local_port_range", "10000 65000")?;
            pod.place.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
        }
        let servers: Vec<Member> = pods.victims().map(|pod| member(pod, pod.at(PORT))).collect();
        let plan = write(&net, "servers.json", &servers)?;
        let node = &pods.greedy().node;
        let victims = ready(pinned(&node.place, true, &["listen-pods", &plan])?)?;
        let sink = ready(pinned(&pods.sink().place, false, &["serve", &pods.sink().at(PORT).to_string()])?)?;
        // Each asks the next one.
        let next = |index: usize| pods.get((index + 1) % VICTIMS).at(PORT);
        let clients: Vec<Member> = pods.victims().enumerate().map(|(index, pod)| member(pod, next(index))).collect();
        write(&net, "clients.json", &clients)?;
        let lab = Self { name, _servers: [victims, sink], pods, mesh, net };
        eventually(&format!("ways between the pods of {name}"), || {
            let served = lab.serve(0.2)?;
            ensure!(served.failures == 0, "{:?}", served.failure);
            Ok(())
        })?;
        Ok(lab)
    }

    /// A node whose agent has its half of the cores.
    fn meshed(more: Vec<String>) -> Result<(Arc<Mesh>, Vec<Pod>)> {
        let [own, _] = cores();
        let mut flags = ["--threads", &own.len().to_string(), "--log", "info,access=off"].map(str::to_owned).to_vec();
        flags.extend(more);
        let options = MeshOptions { nodes: 1, flags, open_files: Some(DESCRIPTORS), ..MeshOptions::default() };
        let mesh = Mesh::with(options)?;
        let agent = mesh.agents.first().context("a node without an agent")?;
        let pinning = ["-a", "-p", "-c", &list(&own), &agent.pid()?.to_string()];
        agent.node.place.run("taskset", &pinning).context("giving the agent its cores")?;
        let mut pods = Vec::new();
        for name in Pods::names() {
            let spec = PodSpec::new("bench", &name);
            pods.push(mesh.pod(if name == "stranger" { spec.plain() } else { spec })?);
        }
        Ok((mesh, pods))
    }

    /// Measures the ten pods for `seconds`.
    fn serve(&self, seconds: f64) -> Result<Served> {
        let node: &Arc<Node> = &self.pods.greedy().node;
        // Below the pods' cgroup, where connections are captured.
        let place = Place { cgroup: node.kubepods().join("clients"), ..node.place.clone() };
        let plan = self.net.run.files().join("clients.json").display().to_string();
        let clients = pinned(&place, true, &["victims", "--plan", &plan, "--seconds", &seconds.to_string()])?;
        clients.read(Duration::from_secs_f64(seconds + 60.0)).with_context(|| self.agent_log())
    }

    /// Measures the ten pods during an attack.
    fn attacked(&self, attack: Attack, count: usize, seconds: f64, samples: &mut Samples) -> Result<Served> {
        let to: Vec<SocketAddr> = match attack {
            // Without a mesh nobody answers a handshake: the servers close connections that they do not understand.
            Attack::Handshakes if self.mesh.is_none() => self.pods.victims().map(|pod| pod.at(PORT)).collect(),
            Attack::Handshakes => self.pods.victims().map(|pod| pod.at(15008)).collect(),
            _ => vec![self.pods.sink().at(PORT)],
        };
        let from = if attack == Attack::Handshakes { self.pods.stranger() } else { self.pods.greedy() };
        let to = to.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        let name = word(attack);
        let words = ["greedy", "--to", &to, "--attack", &name, "--count", &count.to_string()];
        let mut greedy = pinned(&from.place, false, &words)?;
        greedy.read::<Seen>(Duration::from_secs(10)).with_context(|| format!("{name} did not begin"))?;
        thread::sleep(ONSET);
        let served = self.serve(seconds)?;
        greedy.close_stdin();
        let got: Seen = greedy.read(Duration::from_secs(60)).with_context(|| format!("{name} did not end"))?;
        let amount = match attack {
            Attack::Bytes => got.units as f64 * 8.0 / got.seconds / 1e9,
            Attack::Hold => got.units as f64,
            Attack::Connections | Attack::Handshakes => got.units as f64 / got.seconds,
        };
        samples.add(&format!("{name}_attack"), attack.unit(), self.name, amount);
        self.rest(&mut greedy)?;
        Ok(served)
    }

    /// Waits until the effects of an attack are over.
    fn rest(&self, greedy: &mut Process) -> Result<()> {
        let started = Instant::now();
        while greedy.ended()?.is_none() {
            ensure!(started.elapsed() < Duration::from_secs(60), "the greedy pod does not stop");
            thread::sleep(Duration::from_millis(20));
        }
        let agent = self.mesh.as_ref().and_then(|mesh| mesh.agents.first());
        if let Some(agent) = agent {
            eventually(&format!("{} has forgotten the attack", self.name), || {
                let held = agent.dump()?["connections"].as_array().map_or(0, Vec::len);
                ensure!(held < 10, "{held} connections are open");
                Ok(())
            })?;
        }
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    fn agent_log(&self) -> String {
        let agents = self.mesh.iter().flat_map(|mesh| &mesh.agents);
        agents.map(|agent| agent.log_tail()).collect()
    }
}

fn member(pod: &PodNet, at: SocketAddr) -> Member {
    Member { netns: pod.place.netns.clone(), at, host: "victim".to_owned() }
}

fn write(net: &Net, name: &str, members: &[Member]) -> Result<String> {
    let path = net.run.files().join(name);
    fs::write(&path, serde_json::to_vec(members)?).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.display().to_string())
}

/// Starts this program in a role on the pods' cores, with or without priority.
fn pinned(place: &Place, first: bool, words: &[&str]) -> Result<Process> {
    let [_, pods] = cores();
    let own = std::env::current_exe().context("own path")?.display().to_string();
    let mut arguments = vec!["-c".to_owned(), list(&pods)];
    if first {
        arguments.extend(["chrt", "-r", "2"].map(str::to_owned));
    }
    arguments.push(own);
    arguments.extend(words.iter().map(|&word| word.to_owned()));
    Process::talking(place, "taskset", &arguments)
}

/// Waits for the line by which a role says that it is ready.
fn ready(process: Process) -> Result<Process> {
    process.read_line(Duration::from_secs(10))?.context("a server did not start")?;
    Ok(process)
}
