//! A mesh on one machine: nodes with agents, one directory of manifests and one CA for all, and pods that come and go.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};

use super::agent::{Agent, AgentOptions, Ports};
use super::apps::{self, Hold, Load, Server, Talk, WebLoad};
use super::eventually::eventually;
use super::manifest::PodSpec;
use super::net::{Net, Node, PodNet};
use super::peer::{Outcome, WebAnswer};
use super::pki::Authority;

/// Options of a mesh.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// How many nodes.
    pub nodes: usize,
    /// Flags for every agent.
    pub flags: Vec<String>,
    /// Soft limit of open files of every agent.
    pub open_files: Option<u64>,
    /// `text` or `json`; what reads logs expects `json`.
    pub log_format: String,
    /// Files put into the CA directory before the agents start.
    pub ca_files: Vec<(String, String)>,
    /// Manifests there before the agents start.
    pub manifests: Vec<(String, String)>,
}

impl Default for MeshOptions {
    fn default() -> Self {
        Self {
            nodes: 2,
            flags: Vec::new(),
            open_files: None,
            log_format: "json".to_owned(),
            ca_files: Vec::new(),
            manifests: Vec::new(),
        }
    }
}

/// Nodes, agents, manifests.
#[derive(Debug)]
pub struct Mesh {
    /// The agents, one per node. Declared first: they end before their nodes do.
    pub agents: Vec<Agent>,
    /// The nodes.
    pub nodes: Vec<Arc<Node>>,
    /// The directory of manifests.
    pub manifests: PathBuf,
    /// The directory of the CA.
    pub ca_dir: PathBuf,
    /// The network.
    pub net: Arc<Net>,
    next: AtomicU32,
}

impl Mesh {
    /// Two nodes with an agent each.
    pub fn start() -> Result<Arc<Self>> {
        Self::with(MeshOptions::default())
    }

    /// Nodes with an agent each, all ready.
    pub fn with(options: MeshOptions) -> Result<Arc<Self>> {
        let mesh = Self::prepare(options)?;
        for agent in &mesh.agents {
            agent.launch()?;
        }
        for agent in &mesh.agents {
            agent.wait_ready()?;
        }
        Ok(mesh)
    }

    /// Everything but the agents started.
    pub fn prepare(options: MeshOptions) -> Result<Arc<Self>> {
        let net = Net::new()?;
        let manifests = net.run.files().join("manifests");
        let ca_dir = net.run.files().join("ca");
        fs::create_dir_all(&manifests)?;
        private_directory(&ca_dir)?;
        for (name, text) in &options.ca_files {
            write_private(&ca_dir.join(name), text)?;
        }
        let names = ["east", "west", "north", "south"];
        let mut nodes = Vec::new();
        for &name in names.iter().take(options.nodes) {
            nodes.push(net.node(name)?);
        }
        let agent_options = AgentOptions {
            program: apps::binary("culvert", "CULVERT_BIN")?,
            manifests: manifests.clone(),
            ca_dir: ca_dir.clone(),
            flags: options.flags,
            log_format: options.log_format,
            open_files: options.open_files,
            ports: Ports::default(),
        };
        let files = net.run.files();
        let agents = nodes.iter().map(|n| Agent::prepare(n, agent_options.clone(), files.clone())).collect();
        let mesh = Self { agents, nodes, manifests, ca_dir, net, next: AtomicU32::new(0) };
        for (name, text) in &options.manifests {
            mesh.apply(name, text)?;
        }
        Ok(Arc::new(mesh))
    }

    /// The mesh that the tests of one program share: started on first use, removed at exit. Tests keep apart by using
    /// Kubernetes namespaces of their own.
    pub fn shared() -> Result<Arc<Self>> {
        Self::shared_with(MeshOptions::default())
    }

    /// Like [`Mesh::shared`]; the first caller's options apply.
    pub fn shared_with(options: MeshOptions) -> Result<Arc<Self>> {
        static SHARED: Mutex<Option<Result<Arc<Mesh>, String>>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared
            .get_or_insert_with(|| Self::with(options).map_err(|e| format!("{e:#}")))
            .clone()
            .map_err(anyhow::Error::msg)
    }

    /// Like [`Mesh::shared`], with a CA that the tests can sign with. A program uses this one or the other.
    pub fn shared_with_ca() -> Result<(Arc<Self>, &'static Authority)> {
        static CA: OnceLock<Result<Authority, String>> = OnceLock::new();
        let made = CA.get_or_init(|| Authority::new("Test").map_err(|e| format!("{e:#}")));
        let ca = made.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok((Self::shared_with(MeshOptions { ca_files: ca.files(), ..MeshOptions::default() })?, ca))
    }

    /// A Kubernetes namespace that no other test uses.
    pub fn namespace(&self, stem: &str) -> String {
        format!("{stem}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A VIP pair that no other service has.
    pub fn vips(&self) -> (String, String) {
        let n = self.next.fetch_add(1, Ordering::Relaxed) + 10;
        (format!("10.96.{}.{}", n / 200, n % 200 + 10), format!("fd00:96::{n:x}"))
    }

    /// Writes a manifest atomically.
    pub fn apply(&self, name: &str, text: &str) -> Result<()> {
        apply(&self.manifests, name, text)
    }

    /// Removes a manifest.
    pub fn withdraw(&self, name: &str) -> Result<()> {
        let path = self.manifests.join(name);
        fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    /// Adds a pod to its node and to the manifests, and waits until every agent knows it and its own has captured it.
    pub fn pod(self: &Arc<Self>, spec: PodSpec) -> Result<Pod> {
        let pod = self.pod_unseen(spec)?;
        pod.apply(&pod.spec)?;
        pod.settled()?;
        Ok(pod)
    }

    /// Adds a pod to its node without a manifest.
    pub fn pod_unseen(self: &Arc<Self>, spec: PodSpec) -> Result<Pod> {
        let node = self.nodes.get(spec.node).context("no such node")?;
        let net = node.pod(&format!("{}.{}", spec.namespace, spec.name))?;
        let file = format!("pod-{}-{}.yaml", spec.namespace, spec.name);
        Ok(Pod { spec, net: Some(net), file, mesh: self.clone() })
    }

    /// Waits until an agent's state satisfies a condition on every running agent.
    pub fn on_every_agent(&self, what: &str, ask: impl Fn(&Agent) -> Result<()>) -> Result<()> {
        for agent in self.agents.iter().filter(|a| a.is_running()) {
            eventually(&format!("{what} ({})", agent.node.name), || ask(agent))?;
        }
        Ok(())
    }

    /// Applies a manifest and waits until every agent's configuration dump mentions `mark`.
    pub fn apply_seen(&self, name: &str, text: &str, mark: &str) -> Result<()> {
        self.apply(name, text)?;
        self.on_every_agent(&format!("{name} is known"), |agent| {
            ensure!(agent.dump()?.to_string().contains(mark), "{mark} is not in the configuration dump");
            Ok(())
        })
    }
}

/// A pod of the mesh; removed with its manifest on drop.
#[derive(Debug)]
pub struct Pod {
    /// Its specification.
    pub spec: PodSpec,
    net: Option<PodNet>,
    file: String,
    mesh: Arc<Mesh>,
}

impl Deref for Pod {
    type Target = PodNet;

    fn deref(&self) -> &PodNet {
        self.net.as_ref().expect("a pod has its network until it is dropped")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _absent = fs::remove_file(self.mesh.manifests.join(&self.file));
        self.net = None;
    }
}

impl Pod {
    /// Writes its manifest from a changed specification; does not wait.
    pub fn apply(&self, spec: &PodSpec) -> Result<()> {
        self.mesh.apply(&self.file, &spec.yaml(&self.node.name, &self.place.netns, &self.ips()))
    }

    /// Removes its manifest; the pod itself stays.
    pub fn withdraw(&self) -> Result<()> {
        self.mesh.withdraw(&self.file)
    }

    /// The agent of its node.
    pub fn agent(&self) -> &Agent {
        &self.mesh.agents[self.spec.node]
    }

    /// Its uid in the model.
    pub fn uid(&self) -> String {
        format!("Kubernetes//Pod/{}/{}", self.spec.namespace, self.spec.name)
    }

    /// Its SPIFFE ID.
    pub fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.spec.namespace, self.spec.service_account)
    }

    /// Waits until all agents know the current pod, and its own has captured it if it is enrolled.
    pub fn settled(&self) -> Result<()> {
        let (uid, enrolled) = (self.uid(), self.spec.enrolled);
        self.mesh.on_every_agent(&format!("{uid} is known"), |agent| {
            let dump = agent.dump()?;
            let workloads = dump["workloads"].as_array().context("no workloads in the dump")?;
            let found = workloads.iter().find(|w| w["uid"] == uid.as_str()).context("unknown workload")?;
            let captured = found["protocol"] == "HBONE" && found["nativeTunnel"] != true;
            ensure!(captured == enrolled, "{uid} is known as {found}");
            Ok(())
        })?;
        self.captured(enrolled)
    }

    /// Waits until the pod is captured, or is not.
    pub fn captured(&self, wanted: bool) -> Result<()> {
        let (uid, agent) = (self.uid(), self.agent());
        if !agent.is_running() {
            return Ok(());
        }
        eventually(&format!("{uid} is captured: {wanted}"), || {
            let dump = agent.dump()?;
            let captures = dump["captures"].as_array().context("no captures in the dump")?;
            let found = captures.iter().find(|c| c["workloadUid"] == uid.as_str());
            // A released pod may stay listed until its captured connections have ended.
            let matches = match found.map(|c| c["state"].as_str().unwrap_or_default()) {
                Some("captured") => wanted,
                Some("releasing") | None => !wanted,
                Some(_) => false,
            };
            ensure!(matches, "captures: {captures:?}");
            Ok(())
        })
    }

    /// Starts a server: `mode:port` each.
    pub fn serve(&self, specs: &[&str]) -> Result<Server> {
        Server::start(&self.place, &self.spec.name, specs)
    }

    /// Starts an HTTP server that asks another before it answers: `ADDRESS:PORT[,forward]`.
    pub fn serve_next(&self, next: &str, specs: &[&str]) -> Result<Server> {
        Server::start_with(&self.place, &self.spec.name, &["--next", next], specs)
    }

    /// Makes one HTTP request.
    pub fn fetch(&self, target: SocketAddr, options: &[&str]) -> Result<WebAnswer> {
        apps::fetch(&self.place, target, options)
    }

    /// Starts sending HTTP requests at a rate.
    pub fn web_load(&self, target: SocketAddr, rate: u32, options: &[&str]) -> Result<WebLoad> {
        WebLoad::start(&self.place, target, rate, options)
    }

    /// Makes one call.
    pub fn call(&self, target: SocketAddr, exchange: &[&str]) -> Result<Outcome> {
        apps::call(&self.place, target, exchange, &[])
    }

    /// Makes one call that must succeed.
    pub fn call_ok(&self, target: SocketAddr, exchange: &[&str]) -> Result<Outcome> {
        let outcome = self.call(target, exchange)?;
        ensure!(outcome.ok, "{} calls {target} {exchange:?}: {outcome:?}", self.spec.name);
        Ok(outcome)
    }

    /// Makes one call that must fail.
    pub fn call_refused(&self, target: SocketAddr, exchange: &[&str]) -> Result<Outcome> {
        let outcome = self.call(target, exchange)?;
        ensure!(!outcome.ok, "{} calls {target} {exchange:?} and must not get through: {outcome:?}", self.spec.name);
        Ok(outcome)
    }

    /// Opens a conversation.
    pub fn talk(&self, target: SocketAddr) -> Result<Talk> {
        Talk::open(&self.place, target, &[])
    }

    /// Starts a load generator.
    pub fn load(&self, target: SocketAddr, threads: u32) -> Result<Load> {
        Load::start(&self.place, target, threads)
    }

    /// Holds idle connections.
    pub fn hold(&self, target: SocketAddr, connections: u32) -> Result<Hold> {
        Hold::open(&self.place, target, connections)
    }
}

/// Writes a file atomically: beside it, then renamed.
pub fn apply(directory: &Path, name: &str, text: &str) -> Result<()> {
    let (hidden, path) = (directory.join(format!(".{name}.new")), directory.join(name));
    let mut file = fs::File::create(&hidden).with_context(|| hidden.display().to_string())?;
    file.write_all(text.as_bytes())?;
    fs::rename(&hidden, &path).with_context(|| path.display().to_string())
}

/// A directory that only its owner can read, as the CA demands.
pub fn private_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| path.display().to_string())
}

/// A file that only its owner can read.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}
