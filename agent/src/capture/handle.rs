//! The capture of one node: opened once, shared by everything that enrolls pods.

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_abi::{Config, Counter, VERSION, config_flag, pod_flag};
use aya::maps::MapData;
use ipnet::IpNet;
use mesh::model::policy::PlaintextRules;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::{info, warn};

use super::attach;
use super::bpf::Target;
use super::cgroup::{self, Hierarchy};
use super::error::CaptureError;
use super::events::Events;
use super::object::{self, LOOKUP, LOOKUP_BY_TUPLE, Programs};
use super::pods::{CapturedPod, NotCaptured, PodSpec, PodStatus, Pods};
use super::tables::{Room, Tables};
use super::upkeep::Listener;
use super::watch::Watch;

/// Settings of capture.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Directory on bpffs; everything is pinned below `<bpf_root>/v<abi version>`. Two agents on one kernel need two.
    pub bpf_root: PathBuf,
    /// Cgroup to which the programs of pods are attached. `None`: the group of all pods on a pure cgroup2 machine, else
    /// the root.
    pub attach_cgroup: Option<PathBuf>,
    /// The agent's own group. `None`: one is created below the current one.
    pub agent_cgroup: Option<PathBuf>,
    /// Name of the node; names the agent's own group.
    pub node: String,
    /// Group of the kubelet, whose connections always reach the pods. `None`: none is exempt.
    pub kubelet_cgroup: Option<PathBuf>,
    /// Whether enrolled pods are cut off while no agent runs; otherwise their traffic passes through.
    pub fail_closed: bool,
    /// Whether all outbound connections are captured, not only those to mesh addresses.
    pub proxy_all: bool,
    /// Use the program for kernels before 5.17 on any kernel (tests).
    pub by_tuple: bool,
}

impl CaptureConfig {
    /// The defaults: fail closed, capture connections to the mesh, no kubelet.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            bpf_root: PathBuf::from("/sys/fs/bpf/culvert"),
            attach_cgroup: None,
            agent_cgroup: None,
            node: node.into(),
            kubelet_cgroup: None,
            fail_closed: true,
            proxy_all: false,
            by_tuple: false,
        }
    }
}

/// Counters of the eBPF programs since they were first loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events lost because the ring buffer was full.
    pub events_lost: u64,
    /// New connections without an agent: refused when failing closed, else passed through.
    pub no_agent: u64,
    /// Connections of a pod that could not be redirected to `lo`.
    pub not_turned: u64,
    /// Attempts of a pod to bind a port of the agent.
    pub bind_refused: u64,
    /// Refused connections of pods that should be captured and cannot be.
    pub closed: u64,
}

/// The paths of the pins.
pub(super) struct Pins {
    pub(super) root: PathBuf,
    pub(super) maps: PathBuf,
    pub(super) links: PathBuf,
    pub(super) pods: PathBuf,
}

impl Pins {
    pub(super) fn new(bpf_root: &Path) -> Self {
        let root = bpf_root.join(format!("v{VERSION}"));
        Self { maps: root.join("maps"), links: root.join("links"), pods: root.join("pods"), root }
    }
}

/// The capture of one node. Methods that enter a pod's namespace (`enroll`, `forget`, `retain`, `repair`,
/// `listen_again`) may block for as long as the pod likes, without blocking those for other pods; the others wait for
/// the kernel, a few milliseconds at most. Dropping it leaves everything in place for the next agent.
pub struct Capture {
    pods: Arc<Pods>,
    watch: Watch,
    pins: Pins,
    /// The programs and the groups that they are attached to.
    attached: Vec<(&'static str, PathBuf)>,
}

impl Capture {
    /// Loads and attaches the programs of the node, or takes over those of an earlier agent. Pods that it had captured
    /// stay captured; `enroll` them again, then `retain`.
    pub fn open(config: CaptureConfig) -> Result<Self, CaptureError> {
        if !object::is_embedded() {
            return Err(CaptureError::NoObject);
        }
        let hierarchy = Hierarchy::find_or_mount()?;
        let own = hierarchy.join_own(config.agent_cgroup.as_deref(), &config.node)?;
        let pins = Pins::new(&config.bpf_root);
        for directory in [&pins.maps, &pins.links, &pins.pods] {
            make_directory(directory)?;
        }
        let mut programs = object::open(&pins.maps)?;
        let mut tables = Tables::new(&mut programs.maps)?;
        introduce(&mut tables, cgroup::id(&own)?)?;
        let lookup = choose_lookup(&programs, config.by_tuple)?;
        let target = config.attach_cgroup.clone().unwrap_or_else(|| hierarchy.pods());
        let announced = (lookup == LOOKUP_BY_TUPLE).then(|| own.clone());
        let mut attached = Vec::new();
        for (name, group) in ["outbound4", "outbound6", "bind4", "bind6", "account"]
            .map(|name| (name, Some(target.clone())))
            .into_iter()
            .chain([("origin", config.kubelet_cgroup.clone()), ("agent_origin", announced)])
        {
            attach_to_cgroup(&programs, name, group.as_deref(), &pins.links)?;
            attached.extend(group.map(|group| (name, group)));
        }
        info!(pins = %pins.root.display(), pods = %target.display(), agent = %own.display(), lookup, "capture is open");
        let flags = if config.fail_closed { pod_flag::FAIL_CLOSED } else { 0 }
            | if config.proxy_all { pod_flag::PROXY_ALL } else { 0 };
        let pods = Arc::new(Pods::new(tables, programs, lookup, pins.pods.clone(), flags));
        let watch = Watch::start(Arc::clone(&pods)).map_err(CaptureError::file("epoll"))?;
        Ok(Self { pods, watch, pins, attached })
    }

    /// Captures a pod. A pod that is captured already keeps its id and gets new listeners. Plaintext to a newly
    /// captured pod goes to its plaintext listener until `set_plaintext` is called. May block.
    ///
    /// # Errors
    /// The pod is not captured, and closed if it can be reached.
    pub fn enroll(&self, pod: &PodSpec) -> Result<CapturedPod, NotCaptured> {
        let captured = self.pods.enroll(pod)?;
        if let Err(error) = self.watch.add(&self.pods, captured.id) {
            warn!(%error, netns = %pod.netns.display(), "changes in a pod are noticed only periodically");
        }
        Ok(captured)
    }

    /// Reopens a namespace that was closed because its pod could not be captured. Returns the id of a pod that is
    /// released by it, for which `forget` is due.
    pub fn reopen(&self, cookie: u64) -> Result<Option<u32>, CaptureError> {
        self.pods.reopen(cookie)
    }

    /// Checks a pod and repairs what somebody has changed.
    pub fn repair(&self, pod_id: u32) -> Result<(), CaptureError> {
        self.pods.repair(pod_id)
    }

    /// The listeners that are missing in the kernel, with the ids of their pods.
    pub fn gone(&self) -> Vec<(u32, Listener)> {
        self.pods.gone()
    }

    /// Repairs attachments of the cgroup programs.
    pub fn repair_node(&self) -> Result<(), CaptureError> {
        for (name, group) in &self.attached {
            let target = Target::Cgroup(cgroup::id(group)?);
            if !attach::is_attached(target, &self.pins.links.join(name)) {
                warn!("the program `{name}` was detached from {}: attaching it again", group.display());
                make_directory(&self.pins.links)?;
                attach_to_cgroup(&self.pods.programs, name, Some(group), &self.pins.links)?;
            }
        }
        Ok(())
    }

    /// Marks listeners of a pod as missing, which closes the pod, or as complete.
    pub fn without_listener(&self, pod_id: u32, missing: bool) -> Result<(), CaptureError> {
        self.pods.without_listener(pod_id, missing)
    }

    /// Recreates one listener of a pod.
    pub fn listen_again(&self, pod_id: u32, listener: Listener) -> Result<TcpListener, CaptureError> {
        self.pods.listen_again(pod_id, listener)
    }

    /// Ends the hand-over: until now only its owner may claim a namespace that an earlier agent had captured; from now
    /// on any pod that proves ownership.
    pub fn settle(&self) {
        self.pods.settle();
    }

    /// Sets the plaintext rules of a pod, atomically.
    pub fn set_plaintext(&self, pod_id: u32, rules: &PlaintextRules) -> Result<(), CaptureError> {
        self.pods.registry.lock().set_plaintext(pod_id, rules)
    }

    /// Adds and removes mesh addresses: outbound connections to any other address pass through.
    pub fn update_mesh(&self, add: &[IpNet], remove: &[IpNet]) -> Result<(), CaptureError> {
        let mut pods = self.pods.registry.lock();
        for net in remove {
            pods.tables.remove_mesh(*net)?;
        }
        for net in add {
            if pods.tables.add_mesh(*net)? == Room::Full {
                return overflow(&mut pods.tables);
            }
        }
        Ok(())
    }

    /// Replaces all mesh addresses, including those that an earlier agent left.
    pub fn replace_mesh(&self, all: &[IpNet]) -> Result<(), CaptureError> {
        let wanted: HashSet<&IpNet> = all.iter().collect();
        let mut pods = self.pods.registry.lock();
        let (present, stale): (HashSet<_>, HashSet<_>) =
            pods.tables.mesh().into_iter().partition(|net| wanted.contains(net));
        for net in &stale {
            pods.tables.remove_mesh(*net)?;
        }
        for net in all.iter().filter(|net| !present.contains(net)) {
            if pods.tables.add_mesh(*net)? == Room::Full {
                return overflow(&mut pods.tables);
            }
        }
        let config = pods.tables.config()?;
        pods.tables.set_config(Config { flags: config.flags & !config_flag::MESH_OVERFLOW, ..config })
    }

    /// Stops capturing new connections of a pod; captured ones continue and still need the agent. `forget` it when the
    /// last one has ended.
    pub fn release(&self, pod_id: u32) -> Result<(), CaptureError> {
        self.pods.release(pod_id)
    }

    /// Removes all state of a released pod; open captured connections would break. A pod that was captured again is
    /// left alone.
    pub fn forget(&self, pod_id: u32) -> Result<(), CaptureError> {
        self.pods.forget(pod_id)
    }

    /// Forgets all pods except those with these netns cookies: after the first reconciliation, the stale ones of an
    /// earlier agent.
    pub fn retain(&self, live: &[u64]) -> Result<(), CaptureError> {
        self.pods.retain(live)
    }

    /// Cookies of the namespaces that an agent captured at these paths.
    pub fn left_at(&self, paths: &[PathBuf]) -> Vec<u64> {
        self.pods.left_at(paths)
    }

    /// The events of passthrough connections. One reader at a time.
    pub fn events(&self) -> Result<Events, CaptureError> {
        let map = MapData::from_pin(self.pins.maps.join("EVENTS")).map_err(CaptureError::map("EVENTS"))?;
        Events::new(map)
    }

    /// The captured pods, by id.
    pub fn pods(&self) -> Vec<PodStatus> {
        self.pods.status()
    }

    /// The counters of the eBPF programs.
    pub fn counters(&self) -> Result<Counters, CaptureError> {
        let tables = &self.pods.registry.lock().tables;
        Ok(Counters {
            events_lost: tables.counter(Counter::EventsLost)?,
            no_agent: tables.counter(Counter::NoAgent)?,
            not_turned: tables.counter(Counter::NotTurned)?,
            bind_refused: tables.counter(Counter::BindRefused)?,
            closed: tables.counter(Counter::Closed)?,
        })
    }
}

/// Creates a directory on bpffs, which is mounted at its usual place if it is not.
fn make_directory(directory: &Path) -> Result<(), CaptureError> {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let is_bpf = |path: &Path| statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !is_bpf(existing) && directory.starts_with("/sys/fs/bpf") {
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .map_err(|errno| CaptureError::file("/sys/fs/bpf")(errno.into()))?;
        info!("mounted bpffs at /sys/fs/bpf");
    }
    fs::create_dir_all(directory).map_err(CaptureError::file(directory))?;
    if !is_bpf(directory) {
        let source = std::io::Error::other("not on a BPF file system (mount -t bpf)");
        return Err(CaptureError::File { path: directory.to_owned(), source });
    }
    Ok(())
}

/// Tells the programs the agent's cgroup; the previous agent's stays exempt, for it may be draining.
fn introduce(tables: &mut Tables, group: u64) -> Result<(), CaptureError> {
    let before = tables.config()?;
    let agents = if before.agents[0] == group { before.agents } else { [group, before.agents[0]] };
    tables.set_config(Config { agents, flags: before.flags, version: VERSION })
}

/// Finds out which variant of the pods' program this kernel accepts.
fn choose_lookup(programs: &Programs, by_tuple: bool) -> Result<&'static str, CaptureError> {
    if !by_tuple {
        match programs.load_for_pod(LOOKUP, 0) {
            Ok(_) => return Ok(LOOKUP),
            Err(error) => info!(%error, "this kernel does not tell sk_lookup the interface; using the older variant"),
        }
    }
    programs.load_for_pod(LOOKUP_BY_TUPLE, 0).map(|_| LOOKUP_BY_TUPLE)
}

/// Attaches a program to a cgroup; with `None`, detaches it.
fn attach_to_cgroup(programs: &Programs, name: &str, group: Option<&Path>, pins: &Path) -> Result<(), CaptureError> {
    let pin = pins.join(name);
    let Some(path) = group else { return attach::detach(&pin) };
    let target = Target::Cgroup(cgroup::id(path)?);
    attach::attach(name, &programs.load(name)?, (cgroup::open(path)?, path, target), &pin)
}

/// Out of room for mesh addresses: from now on every outbound connection is captured, which is slower but correct.
fn overflow(tables: &mut Tables) -> Result<(), CaptureError> {
    let config = tables.config()?;
    if config.flags & config_flag::MESH_OVERFLOW == 0 {
        warn!("the mesh has more addresses than the kernel holds; capturing every outbound connection");
    }
    tables.set_config(Config { flags: config.flags | config_flag::MESH_OVERFLOW, ..config })
}
