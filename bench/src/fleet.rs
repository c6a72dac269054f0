//! A node full of pods with one of several meshes: none, a sidecar each, one agent, one agent and a waypoint.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use harness::agent::{Agent, AgentOptions, Ports};
use harness::apps;
use harness::eventually::eventually;
use harness::manifest::PodSpec;
use harness::mesh::{apply, private_directory};
use harness::net::{Net, Node, PodNet};
use harness::observe::get;
use harness::process::{Place, Process};

use crate::envoy::{Authority, copy};
use crate::load::Seen;
use crate::pods::Member;
use crate::rules::{self, INBOUND_PORT};
use crate::sidecar::{self, SERVICE_PORT, Service, Sidecar, TARGET_PORT};
use crate::{meter, phases};

/// Kubernetes namespace of everything.
const NAMESPACE: &str = "bench";
/// Most pods that one node's addresses suffice for, the waypoint's own counted.
pub const MOST_PODS: usize = 230;

/// The mesh of a fleet.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing.
    Bare,
    /// A sidecar in each.
    Sidecars(Sidecar),
    /// One agent.
    Agent,
    /// One agent, and a waypoint for all services.
    Waypoint,
}

impl Kind {
    /// Name of the subject.
    pub fn name(&self) -> &str {
        match self {
            Self::Bare => "none",
            Self::Sidecars(sidecar) => sidecar.name(),
            Self::Agent => "culvert",
            Self::Waypoint => "culvert+waypoint",
        }
    }
}

/// A node, its pods with a server each, and the mesh of the first [`Fleet::meshed`] of them.
pub struct Fleet {
    /// The mesh.
    pub kind: Kind,
    /// How many pods are in the mesh.
    pub meshed: usize,
    flags: Vec<String>,
    services: Vec<Service>,
    sidecars: Vec<Process>,
    agent: Option<Agent>,
    waypoint: Option<Process>,
    /// One process that serves in every pod.
    _server: Process,
    authority: Authority,
    /// Copies of the programs.
    programs: PathBuf,
    pods: Vec<PodNet>,
    /// Where the waypoint runs.
    hut: PodNet,
    node: Arc<Node>,
    net: Arc<Net>,
}

impl Fleet {
    /// Makes the node and its pods; an agent gets these flags. Nothing is meshed yet.
    pub fn new(kind: Kind, pods: usize, flags: &[&str]) -> Result<Self> {
        ensure!((2..=MOST_PODS).contains(&pods), "a node holds 2 to {MOST_PODS} pods here");
        let net = Net::new()?;
        let node = net.node("node")?;
        let mut made = Vec::new();
        for index in 0..pods {
            let pod = node.pod(&format!("pod-{index}"))?;
            ensure!(pod.ip4 == address(index), "pod {index} has address {}", pod.ip4);
            if matches!(kind, Kind::Sidecars(_)) {
                rules::sidecar(&pod.place)?;
            }
            made.push(pod);
        }
        let hut = node.pod("waypoint")?;
        let members = made.iter().map(|pod| member(pod, pod.at(TARGET_PORT), String::new())).collect::<Vec<_>>();
        let plan = net.run.files().join("servers.json");
        fs::write(&plan, serde_json::to_vec(&members)?)?;
        let server = phases::role(&node.place, &["listen-pods".to_owned(), plan.display().to_string()])?;
        let programs = net.run.files().join("bin");
        for (program, variable) in [("culvert", "CULVERT_BIN"), ("culvert-waypoint", "CULVERT_WAYPOINT_BIN")] {
            copy(&apps::binary(program, variable)?, &programs)?;
        }
        let kind = match kind {
            Kind::Sidecars(Sidecar::Envoy(name, program)) => {
                Kind::Sidecars(Sidecar::Envoy(name, copy(&program, &programs)?))
            }
            other => other,
        };
        Ok(Self {
            kind,
            meshed: 0,
            // As the sidecars, which write no access log either.
            flags: ["--log", "warn"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect(),
            services: Vec::new(),
            sidecars: Vec::new(),
            agent: None,
            waypoint: None,
            _server: server,
            authority: Authority::new()?,
            programs,
            pods: made,
            hut,
            node,
            net,
        })
    }

    /// Restarts with this many services, and no pod in the mesh.
    pub fn restart(&mut self, services: usize) -> Result<()> {
        self.sidecars.clear();
        self.waypoint = None;
        if let Some(agent) = self.agent.take() {
            agent.kill()?;
        }
        self.meshed = 0;
        self.services = make_services(services, self.pods.len());
        match self.kind {
            Kind::Bare | Kind::Sidecars(_) => Ok(()),
            Kind::Agent | Kind::Waypoint => self.start_agent(),
        }
    }

    fn start_agent(&mut self) -> Result<()> {
        let (manifests, ca_dir) = (self.net.run.files().join("manifests"), self.net.run.files().join("ca"));
        let _absent = fs::remove_dir_all(&manifests);
        fs::create_dir_all(&manifests)?;
        private_directory(&ca_dir)?;
        let has_waypoint = matches!(self.kind, Kind::Waypoint);
        apply(&manifests, "services.yaml", &service_manifests(&self.services, self.pods.len(), has_waypoint))?;
        if has_waypoint {
            apply(&manifests, "gateway.yaml", &gateway(&self.hut, &self.node.name))?;
        }
        let options = AgentOptions {
            program: self.programs.join("culvert"),
            manifests: manifests.clone(),
            ca_dir: ca_dir.clone(),
            flags: self.flags.clone(),
            log_format: "json".to_owned(),
            open_files: None,
            ports: Ports::default(),
        };
        self.agent = Some(Agent::start(&self.node, options, self.net.run.files())?);
        if has_waypoint {
            let place = Place { cgroup: self.node.cgroup("waypoint"), ..self.hut.place.clone() };
            let mut command = place.command(self.programs.join("culvert-waypoint"))?;
            command.args(["--gateway", &format!("{NAMESPACE}/waypoint"), "--log", "warn"]);
            command.arg("--manifests").arg(&manifests).arg("--ca-dir").arg(&ca_dir);
            command.args(["--listen", &self.hut.at(15008).to_string()]);
            self.waypoint = Some(Process::logging(&place, command, &self.net.run.files().join("waypoint.log"))?);
            eventually("the waypoint is ready", || get(&self.hut.place, 15021, "/healthz/ready"))
                .with_context(|| self.log("waypoint.log"))?;
        }
        Ok(())
    }

    /// Brings more pods into the mesh and waits until they are.
    pub fn grow(&mut self, to: usize) -> Result<()> {
        match self.kind.clone() {
            Kind::Bare => {}
            Kind::Sidecars(sidecar) => {
                for index in self.meshed..to {
                    self.start_sidecar(&sidecar, index)?;
                }
                for index in self.meshed..to {
                    self.wait_sidecar(index)?;
                }
            }
            Kind::Agent | Kind::Waypoint => self.enroll(to)?,
        }
        self.meshed = to;
        Ok(())
    }

    fn start_sidecar(&mut self, sidecar: &Sidecar, index: usize) -> Result<()> {
        let pod = &self.pods[index];
        let directory = self.net.run.files().join(&pod.name);
        let place = Place { cgroup: pod.place.cgroup.join("sidecar"), ..pod.place.clone() };
        let account = account(index);
        let about = sidecar::Pod { place: &place, account: &account, ip: pod.ip4, directory: &directory };
        let process = sidecar.start(&about, &self.services, &self.authority)?;
        self.sidecars.push(process);
        Ok(())
    }

    /// Waits until the sidecar listens, in the pod as everyone who wants something of it.
    fn wait_sidecar(&mut self, index: usize) -> Result<()> {
        let pod = &self.pods[index];
        let process = self.sidecars.get_mut(index).context("a pod without a sidecar")?;
        let log = || fs::read_to_string(self.net.run.files().join(&pod.name).join("sidecar.log")).unwrap_or_default();
        let at = SocketAddr::from(([127, 0, 0, 1], INBOUND_PORT));
        let ended = eventually(&format!("the sidecar of {}", pod.name), || {
            if let Some(status) = process.ended()? {
                return Ok(Some(status));
            }
            let timeout = Duration::from_secs(1);
            pod.place.inside(|| std::net::TcpStream::connect_timeout(&at, timeout))??;
            Ok(None)
        })
        .with_context(log)?;
        match ended {
            Some(status) => bail!("the sidecar of {} ended: {status}: {}", pod.name, log()),
            None => Ok(()),
        }
    }

    fn enroll(&self, to: usize) -> Result<()> {
        let agent = self.agent.as_ref().context("the agent is not running")?;
        let mut manifest = String::new();
        for (index, pod) in self.pods.iter().enumerate().take(to).skip(self.meshed) {
            let spec = PodSpec::new(NAMESPACE, &account(index));
            write!(manifest, "---\n{}", spec.yaml(&self.node.name, &pod.place.netns, &[pod.ip4.into()]))?;
        }
        apply(&agent.options().manifests, &format!("pods-{to}.yaml"), &manifest)?;
        eventually(&format!("{to} pods are captured"), || {
            let dump = agent.dump()?;
            let captures = dump["captures"].as_array().context("no captures in the dump")?;
            let done = captures.iter().filter(|capture| capture["state"] == "captured").count();
            ensure!(done == to, "{done} are");
            Ok(())
        })
    }

    /// The processes of the mesh.
    pub fn proxies(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        if !self.sidecars.is_empty() {
            // All that runs in the sidecars' cgroups: a sidecar may have started others.
            for pod in &self.pods[..self.meshed] {
                let text = fs::read_to_string(pod.place.cgroup.join("sidecar/cgroup.procs"))?;
                pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            }
        }
        if let Some(agent) = &self.agent {
            pids.push(agent.pid()?);
        }
        pids.extend(self.waypoint.iter().map(Process::pid));
        Ok(pids)
    }

    /// Memory of the mesh.
    pub fn memory(&self) -> Result<meter::Memory> {
        meter::memory_of(&self.proxies()?)
    }

    /// Starts the load of all meshed pods: each pod asks the next one's service. Without seconds: one request each.
    pub fn load(&self, pods: usize, rate: f64, seconds: f64) -> Result<Process> {
        let targets = pods.min(self.services.len().max(2));
        let members: Vec<Member> = (0..pods)
            .map(|index| {
                let to = (index + 1) % targets;
                let pod = &self.pods[index];
                match self.kind {
                    Kind::Bare => member(pod, self.pods[to].at(TARGET_PORT), account(to)),
                    _ => {
                        let service = &self.services[to];
                        member(pod, SocketAddr::from((service.vip, SERVICE_PORT)), service.host())
                    }
                }
            })
            .collect();
        let plan = self.net.run.files().join("clients.json");
        fs::write(&plan, serde_json::to_vec(&members)?)?;
        // Below the pods' cgroup, where connections are captured.
        let place = Place {
            netns: self.node.place.netns.clone(),
            cgroup: self.node.kubepods().join("clients"),
            outlive: false,
        };
        let own = std::env::current_exe().context("own path")?;
        let words = [
            "load-pods",
            "--plan",
            &plan.display().to_string(),
            "--rate",
            &rate.to_string(),
            "--seconds",
            &seconds.to_string(),
        ]
        .map(str::to_owned);
        Process::talking(&place, own, &words)
    }

    /// Waits until a request of every pod goes through.
    pub fn wait_open(&self, pods: usize) -> Result<()> {
        eventually(&format!("a way from each of {pods} pods of {}", self.kind.name()), || {
            let load = self.load(pods, 0.0, 0.0)?;
            load.read::<Seen>(Duration::from_secs(30)).map(|_| ())
        })
        .with_context(|| {
            format!("{}{}", self.log("waypoint.log"), self.agent.as_ref().map(Agent::log_tail).unwrap_or_default())
        })
    }

    /// Freezes or thaws all its processes.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let directory = self.net.run.cgroup();
        fs::write(directory.join("cgroup.freeze"), if frozen { "1" } else { "0" }).context("freezing a fleet")?;
        let wanted = format!("frozen {}", u8::from(frozen));
        eventually("the fleet is frozen or not", || {
            ensure!(fs::read_to_string(directory.join("cgroup.events"))?.contains(&wanted), "not yet");
            Ok(())
        })
    }

    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.net.run.files().join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

fn member(pod: &PodNet, at: SocketAddr, host: String) -> Member {
    Member { netns: pod.place.netns.clone(), at, host }
}

/// Address of a pod, as [`Node::pod`] gives them out.
fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, (10 + index) as u8)
}

/// Service account and label of a pod, and the name of its service.
fn account(index: usize) -> String {
    format!("svc-{index}")
}

/// The services that everything knows. The first have the node's pods behind them, the others two pods each elsewhere.
fn make_services(count: usize, pods: usize) -> Vec<Service> {
    let two = |index: usize| [(index / 250) as u8, (index % 250) as u8 + 1];
    (0..count)
        .map(|index| {
            let [high, low] = two(index);
            let endpoints = if index < pods {
                vec![address(index)]
            } else {
                vec![Ipv4Addr::new(10, 100, high, low), Ipv4Addr::new(10, 101, high, low)]
            };
            Service { name: account(index), vip: Ipv4Addr::new(10, 96, high, low), endpoints }
        })
        .collect()
}

fn service_manifests(services: &[Service], pods: usize, waypoint: bool) -> String {
    let label = if waypoint { "\n  labels:\n    istio.io/use-waypoint: waypoint" } else { "" };
    let mut yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}{label}\n");
    for (index, service) in services.iter().enumerate() {
        let (name, vip) = (&service.name, service.vip.to_string());
        let port = ("http", SERVICE_PORT, "8080");
        let _ok = write!(yaml, "---\n{}", harness::manifest::service(NAMESPACE, name, name, &[&vip], &[port]));
        for (number, ip) in service.endpoints.iter().enumerate().filter(|_| index >= pods) {
            let spec = PodSpec::new(NAMESPACE, &format!("{name}-{number}")).account(name).label("app", name);
            // The label of the name is its own, and `app` must be the service's.
            let pod = spec.yaml("elsewhere", Path::new("/run/netns/none"), &[(*ip).into()]);
            let pod = pod.replacen(&format!("    app: {name}-{number}\n"), "", 1);
            let _ok = write!(yaml, "---\n{pod}");
        }
    }
    yaml
}

fn gateway(hut: &PodNet, node: &str) -> String {
    let spec = PodSpec::new(NAMESPACE, "waypoint").plain().label("gateway.networking.k8s.io/gateway-name", "waypoint");
    let pod = spec.yaml(node, &hut.place.netns, &[hut.ip4.into()]);
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: waypoint\n  namespace: {NAMESPACE}\n  \
         labels:\n    istio.io/waypoint-for: service\nspec:\n  gatewayClassName: culvert-waypoint\n  listeners:\n  - name: mesh\n    \
         port: 15008\n    protocol: HBONE\nstatus:\n  addresses:\n  - type: IPAddress\n    value: {}\n---\n{pod}",
        hut.ip4
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_beyond_the_nodes_pods_are_elsewhere() {
        let services = make_services(300, 100);
        assert_eq!(services[99].endpoints, [address(99)]);
        assert_eq!(services[299].endpoints, [Ipv4Addr::new(10, 100, 1, 50), Ipv4Addr::new(10, 101, 1, 50)]);
        assert_eq!(services[299].vip, Ipv4Addr::new(10, 96, 1, 50));
    }

    #[test]
    fn manifests_name_every_service_and_the_pods_elsewhere() {
        let yaml = service_manifests(&make_services(12, 10), 10, true);
        assert_eq!(yaml.matches("kind: Service").count(), 12);
        assert_eq!(yaml.matches("kind: Pod").count(), 4);
        assert_eq!(yaml.matches("app: svc-11\n").count() + yaml.matches("app: \"svc-11\"\n").count(), 3, "{yaml}");
        assert!(yaml.contains("istio.io/use-waypoint: waypoint"));
    }
}
