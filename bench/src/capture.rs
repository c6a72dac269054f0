//! `bench capture`: the cost of redirecting a pod's connections to a proxy, independent of the proxy.
//!
//! There are three paths to the server. `captured`: connections that a proxy must carry, all through the same plain
//! forwarder. `passthrough`: outbound connections that need no proxy; iptables rules cannot tell and redirect them all
//! the same. `inbound`: allowed plaintext that arrives at a pod, likewise.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;

use harness::net::{Net, Node, PodNet};
use harness::process::{Place, Process};

use crate::phases::{self, BULK_1, BULK_8, CONNECTIONS, LATENCY, Options, Pace, Phase, Subject};
use crate::report::Report;
use crate::rules::{INBOUND_PORT, OUTBOUND_PORT};
use crate::stats::{Samples, report};
use crate::{meter, rules};

/// Port of the servers.
const PORT: u16 = 8080;
/// Subjects in the order in which they are shown. `none` has no capture: its `captured` clients dial the forwarder
/// itself.
const SUBJECTS: [&str; 3] = ["none", "iptables", "culvert"];
/// The ratios to report, as (numerator, denominator).
const PAIRS: [(&str, &str); 3] = [("iptables", "none"), ("culvert", "none"), ("culvert", "iptables")];
/// The three paths, with their phases.
const WAYS: [(&str, &[Phase]); 3] = [
    ("captured_", &[CONNECTIONS, LATENCY, BULK_1, BULK_8]),
    ("passthrough_", &[CONNECTIONS, LATENCY, BULK_1]),
    ("inbound_", &[CONNECTIONS, LATENCY, BULK_1]),
];

/// Makes the lab of one subject.
type Make = fn(&Arc<Net>) -> Result<Lab>;

/// Runs all rounds: many short ones, because the effect is small.
pub fn run(options: &Options) -> Result<Report> {
    let machine = meter::machine();
    let mut samples = Samples::default();
    let pace = Pace { seconds: options.seconds.unwrap_or(0.5), whole_path: true };
    let rounds = options.rounds.unwrap_or(10);
    let net = Net::new()?;
    let make: [Make; 3] = [Lab::none, Lab::iptables, Lab::culvert];
    let wanted = SUBJECTS.iter().zip(make).filter(|(name, _)| options.wants(name));
    let labs = wanted.map(|(_, make)| make(&net)).collect::<Result<Vec<Lab>>>()?;
    for (way, subject) in labs.iter().flat_map(|lab| &lab.ways).enumerate() {
        phases::wait_open(subject).map_err(|error| error.context(WAYS[way % WAYS.len()].0))?;
    }
    for round in 0..rounds {
        for (way, (prefix, phases)) in WAYS.iter().enumerate() {
            for phase in *phases {
                for turn in 0..labs.len() {
                    let subject = &labs[(turn + round) % labs.len()].ways[way];
                    let what = format!("{prefix}{} {}", phase.measure, subject.name);
                    phases::progress(round, rounds, (way, WAYS.len()), &what);
                    phases::measure(prefix, subject, *phase, pace, &mut samples)?;
                }
            }
        }
    }
    Ok(report("capture", machine, &samples, &SUBJECTS, &PAIRS))
}

/// One node with its pods; removed on drop.
struct Lab {
    /// One per path, in the order of [`WAYS`].
    ways: Vec<Subject>,
    _processes: Vec<Process>,
    _pods: Pods,
}

/// The pods of a lab, and their node.
struct Pods {
    /// Whose connections are captured.
    client: PodNet,
    /// The destinations: one server with a mesh address, one without.
    server: PodNet,
    outside: PodNet,
    /// Whose arriving connections are captured.
    inner: PodNet,
    node: Arc<Node>,
}

impl Pods {
    /// A node of their own, so that hooks on one node's cgroup do not cost the others anything.
    fn new(net: &Arc<Net>, node: &str) -> Result<Self> {
        let node = net.node(node)?;
        let pod = |name: &str| {
            let pod = node.pod(&format!("{}-{name}", node.name))?;
            pod.place.sysctl("net.ipv4.ip_local_port_range", "20000 65000")?;
            pod.place.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
            anyhow::Ok(pod)
        };
        Ok(Self {
            client: pod("client")?,
            server: pod("server")?,
            outside: pod("outside")?,
            inner: pod("inner")?,
            node,
        })
    }

    /// Where a forwarder of this pod runs: in its namespace, but in the cgroup of the agent.
    fn beside(&self, pod: &PodNet) -> Place {
        Place { netns: pod.place.netns.clone(), ..self.node.agent() }
    }
}

impl Lab {
    fn none(net: &Arc<Net>) -> Result<Self> {
        let pods = Pods::new(net, "bare")?;
        let dialled = pods.client.at(OUTBOUND_PORT);
        let arguments = ["dialled".to_owned(), dialled.to_string(), pods.server.at(PORT).to_string()];
        let forwarder = forwarder(&pods.beside(&pods.client), &arguments)?;
        Self::new("none", pods, dialled, vec![forwarder])
    }

    fn iptables(net: &Arc<Net>) -> Result<Self> {
        let pods = Pods::new(net, "ipt")?;
        let mut forwarders = Vec::new();
        for (pod, port) in [(&pods.client, OUTBOUND_PORT), (&pods.inner, INBOUND_PORT)] {
            let at = SocketAddr::from(([0, 0, 0, 0], port));
            forwarders.push(forwarder(&pods.beside(pod), &["redirected".to_owned(), at.to_string()])?);
            rules::ambient(&pod.place)?;
        }
        let to = pods.server.at(PORT);
        Self::new("iptables", pods, to, forwarders)
    }

    fn culvert(net: &Arc<Net>) -> Result<Self> {
        let pods = Pods::new(net, "hooks")?;
        let mut arguments = vec!["hooks".to_owned()];
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        add("--bpf-root", pods.node.pins().display().to_string());
        add("--pods", pods.node.kubepods().display().to_string());
        add("--own", pods.node.cgroup("agent").display().to_string());
        add("--mesh", format!("{}/32", pods.server.ip4));
        for pod in [&pods.client, &pods.inner] {
            add("--pod", format!("{},{}", pod.place.netns.display(), pod.ip4));
        }
        let forwarder = forwarder(&pods.node.agent(), &arguments)?;
        let to = pods.server.at(PORT);
        Self::new("culvert", pods, to, vec![forwarder])
    }

    /// Starts the servers and returns the paths.
    fn new(name: &'static str, pods: Pods, captured: SocketAddr, forwarders: Vec<Process>) -> Result<Self> {
        let proxies: Vec<u32> = forwarders.iter().map(Process::pid).collect();
        let mut processes = forwarders;
        let mut ways = Vec::new();
        for (client, server, to) in [
            (&pods.client, &pods.server, captured),
            (&pods.client, &pods.outside, pods.outside.at(PORT)),
            (&pods.outside, &pods.inner, pods.inner.at(PORT)),
        ] {
            let process = phases::server(&server.place, server.at(PORT))?;
            let (client, ends) = (client.place.clone(), vec![process.pid()]);
            ways.push(Subject { name, client, to, proxies: proxies.clone(), ends });
            processes.push(process);
        }
        Ok(Self { ways, _processes: processes, _pods: pods })
    }
}

fn forwarder(place: &Place, arguments: &[String]) -> Result<Process> {
    phases::role(place, &[&["forward".to_owned()], arguments].concat())
}
