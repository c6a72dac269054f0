//! `bench tunnel`: a client on one node and a server on another, without a mesh, between Envoy sidecars and between
//! agents. `bench same-node`: both on one node, without a mesh, through the agent's tunnel and directly through the
//! agent.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use harness::manifest::PodSpec;
use harness::mesh::{Mesh, MeshOptions, Pod};
use harness::net::{Host, Net, Node, PodNet};
use harness::process::{Place, Process};

use crate::phases::{self, BULK_1, BULK_8, CONNECTIONS, LATENCY, Options, Pace, REQUESTS, Subject};
use crate::report::Report;
use crate::stats::{Samples, report};
use crate::{envoy, meter, rules};

/// Port of the server.
const PORT: u16 = 8080;
/// Subjects in the order in which they are shown.
const SUBJECTS: [&str; 3] = ["none", "envoy", "culvert"];
/// Who is divided by whom.
const PAIRS: [(&str, &str); 3] = [("envoy", "none"), ("culvert", "none"), ("culvert", "envoy")];

/// Subjects of `bench same-node`.
const NEAR: [&str; 3] = ["none", "mtls", "direct"];
/// Who is divided by whom there.
const NEAR_PAIRS: [(&str, &str); 3] = [("mtls", "none"), ("direct", "none"), ("direct", "mtls")];

/// What is compared.
struct Contest {
    bench: &'static str,
    subjects: [&'static str; 3],
    labs: [fn() -> Result<Lab>; 3],
    pairs: [(&'static str, &'static str); 3],
}

/// Runs `bench tunnel`.
pub fn run(options: &Options) -> Result<Report> {
    let labs: [fn() -> Result<Lab>; 3] = [|| Lab::none(1), Lab::envoy, || Lab::culvert("culvert", 1, &[])];
    compete(options, &Contest { bench: "tunnel", subjects: SUBJECTS, labs, pairs: PAIRS })
}

/// Runs `bench same-node`.
pub fn run_same_node(options: &Options) -> Result<Report> {
    let labs: [fn() -> Result<Lab>; 3] = [
        || Lab::none(0),
        || Lab::culvert("mtls", 0, &["--same-node", "mtls"]),
        || Lab::culvert("direct", 0, &["--same-node", "direct"]),
    ];
    compete(options, &Contest { bench: "same-node", subjects: NEAR, labs, pairs: NEAR_PAIRS })
}

/// Runs all rounds. Every round starts everything afresh; within it the subjects take turns, phase by phase.
fn compete(options: &Options, contest: &Contest) -> Result<Report> {
    let machine = meter::machine();
    let mut samples = Samples::default();
    let pace = Pace { seconds: options.seconds.unwrap_or(2.0), whole_path: false };
    let rounds = options.rounds.unwrap_or(5);
    for round in 0..rounds {
        let wanted = contest.subjects.iter().zip(contest.labs).filter(|(name, _)| options.wants(name));
        let labs = wanted.map(|(_, make)| make()).collect::<Result<Vec<Lab>>>()?;
        let subjects: Vec<Subject> = labs.iter().map(Lab::subject).collect::<Result<_>>()?;
        subjects.iter().try_for_each(phases::wait_open)?;
        for subject in subjects.iter().filter(|subject| !subject.proxies.is_empty()) {
            phases::progress(round, rounds, (0, 6), &format!("memory {}", subject.name));
            phases::memory(subject, options.idle, &mut samples)?;
        }
        for (step, phase) in [BULK_1, BULK_8, LATENCY, REQUESTS, CONNECTIONS].into_iter().enumerate() {
            // Whoever goes first differs from round to round, so that no one always meets the machine as another left
            // it.
            for turn in 0..subjects.len() {
                let subject = &subjects[(turn + round) % subjects.len()];
                phases::progress(round, rounds, (step + 1, 6), &format!("{} {}", phase.measure, subject.name));
                phases::measure("", subject, phase, pace, &mut samples)?;
            }
        }
    }
    for measure in ["latency_p50", "latency_p99", "requests_p50", "requests_p99"] {
        samples.add_difference(measure, "us", &contest.subjects, "none");
    }
    Ok(report(contest.bench, machine, &samples, &contest.subjects, &contest.pairs))
}

/// Two nodes with a pod each, and what is between the pods. Its processes end and its namespaces go when it is dropped.
struct Lab {
    name: &'static str,
    client: Place,
    to: SocketAddr,
    server: Process,
    /// Envoys; agents belong to their mesh.
    sidecars: Vec<Process>,
    mesh: Option<Arc<Mesh>>,
    /// Pods outlive the processes in them: fields are dropped in order.
    _pods: Pods,
}

/// What keeps the pods' namespaces there.
enum Pods {
    Plain { _plain: Box<Plain> },
    Mesh { _pods: Box<[Pod; 2]> },
}

/// Two nodes and two pods; nothing else.
struct Plain {
    client: PodNet,
    server: PodNet,
    _nodes: [Arc<Node>; 2],
    net: Arc<Net>,
}

impl Plain {
    /// The server's pod is on the node of that number.
    fn new(server_node: usize) -> Result<Self> {
        let net = Net::new()?;
        let nodes = [net.node("east")?, net.node("west")?];
        let (client, server) = (nodes[0].pod("client")?, nodes[server_node].pod("server")?);
        prepare(&client)?;
        prepare(&server)?;
        Ok(Self { client, server, _nodes: nodes, net })
    }
}

impl Lab {
    /// No mesh.
    fn none(server_node: usize) -> Result<Self> {
        Self::plain("none", Plain::new(server_node)?, Vec::new())
    }

    /// A sidecar in each pod and the rules that bring it the pod's traffic.
    fn envoy() -> Result<Self> {
        let plain = Plain::new(1)?;
        let authority = envoy::Authority::new()?;
        let mut sidecars = Vec::new();
        for pod in [&plain.client, &plain.server] {
            let directory = plain.net.run.files().join(format!("envoy-{}", pod.name));
            sidecars.push(envoy::start(&pod.place, &pod.name, &authority, &directory)?);
            rules::sidecar(&pod.place)?;
        }
        Self::plain("envoy", plain, sidecars)
    }

    fn plain(name: &'static str, plain: Plain, sidecars: Vec<Process>) -> Result<Self> {
        let to = plain.server.at(PORT);
        let server = phases::server(&plain.server.place, to)?;
        let client = plain.client.place.clone();
        Ok(Self { name, client, to, server, sidecars, mesh: None, _pods: Pods::Plain { _plain: Box::new(plain) } })
    }

    /// A node with an agent for each, or for both, of two enrolled pods.
    fn culvert(name: &'static str, server_node: usize, flags: &[&str]) -> Result<Self> {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mesh = Mesh::with(MeshOptions { nodes: server_node + 1, flags, ..MeshOptions::default() })?;
        let client = mesh.pod(PodSpec::new("bench", "client"))?;
        let server = mesh.pod(PodSpec::new("bench", "server").on(server_node))?;
        prepare(&client)?;
        prepare(&server)?;
        for agent in &mesh.agents {
            // As the sidecars, which write no access log either.
            agent.culvert_ok(&["log", "warn"]).context("turning the access log off")?;
        }
        Ok(Self {
            name,
            client: client.place.clone(),
            to: server.at(PORT),
            server: phases::server(&server.place, server.at(PORT))?,
            sidecars: Vec::new(),
            mesh: Some(mesh),
            _pods: Pods::Mesh { _pods: Box::new([client, server]) },
        })
    }

    fn subject(&self) -> Result<Subject> {
        let mut proxies: Vec<u32> = self.sidecars.iter().map(Process::pid).collect();
        for agent in self.mesh.iter().flat_map(|mesh| &mesh.agents) {
            proxies.push(agent.pid()?);
        }
        Ok(Subject {
            name: self.name,
            client: self.client.clone(),
            to: self.to,
            proxies,
            ends: vec![self.server.pid()],
        })
    }
}

/// Lets a client open and close connections without running out of ports.
pub fn prepare(pod: &Host) -> Result<()> {
    pod.place.sysctl("net.ipv4.ip_local_port_range", "10000 65000")?;
    pod.place.sysctl("net.ipv4.tcp_tw_reuse", "1")
}
