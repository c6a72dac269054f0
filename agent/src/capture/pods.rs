//! The captured pods of the node. The life of one pod:
//!
//! ```text
//!            enroll              release                     forget
//!  unknown ─────────▶ captured ──────────▶ released ────────────────▶ unknown
//!     │                  ▲                  new connections are left alone; rule, route and listeners
//!     │                  └── enroll ─────── stay until the last captured connection has ended
//!     └─ enroll fails ─▶ closed ── reopen ─▶ unknown      no new connection into it or out of it
//! ```
//!
//! Work in a pod's namespace may block for as long as the pod likes: meanwhile the registry is not locked, only that
//! one namespace is ([`Pods::work_in`]).

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_abi::{Kind, MAX_PODS, Place, Pod, Verdict, pod_flag};
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};
use parking_lot::{Condvar, Mutex};
use tracing::{debug, warn};

use super::attach;
use super::bpf::Target;
use super::claims::{self, Incumbent};
use super::error::CaptureError;
use super::netns::{Netns, find_by_inode};
use super::network::{self, Arranged};
use super::object::{FINGERPRINT, LOOKUP, Programs};
use super::quota::ADDRESSES;
use super::rtnl::Changes;
use super::sockets;
use super::tables::{Held, Room, Tables};

/// How long to wait for another operation in a namespace.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The parameters to capture a pod.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// The uid of the workload. A namespace has one owner.
    pub owner: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Its addresses, most important first; all must be in the namespace.
    pub addresses: Vec<IpAddr>,
}

/// A captured pod. Its listeners are non-blocking and bound to loopback addresses of the pod, with ports of their own;
/// the local address of an accepted connection is its original destination. A connection whose local address is
/// loopback was dialled directly and must be dropped.
#[derive(Debug)]
pub struct CapturedPod {
    /// Id of the pod on this node.
    pub id: u32,
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// Its network namespace.
    pub netns: Arc<Netns>,
    /// Connections that leave the pod.
    pub outbound: Vec<TcpListener>,
    /// Plaintext connections to the pod that the agent must authorize.
    pub plaintext: Vec<TcpListener>,
    /// HBONE connections to the pod.
    pub hbone: Vec<TcpListener>,
}

/// Why a pod could not be captured, and its state.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotCaptured {
    /// The error.
    pub error: CaptureError,
    /// Cookie of its namespace if that is closed now: until it is captured or reopened, it neither accepts nor opens
    /// new connections. `None` if nothing proves that the namespace is the pod's.
    pub closed: Option<u64>,
}

/// The state of a captured pod, for `culvert get captures`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// Id of the pod on this node.
    pub id: u32,
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// The addresses in the namespace that the eBPF programs know.
    pub addresses: Vec<IpAddr>,
    /// Whether new connections are no longer captured.
    pub released: bool,
    /// Whether new connections are refused.
    pub closed: bool,
    /// A problem, if any.
    pub note: Option<String>,
}

/// All captured pods, and what is needed to capture one.
pub(super) struct Pods {
    pub(super) registry: Mutex<Registry>,
    worked_in: Mutex<HashSet<u64>>,
    work_ended: Condvar,
    pub(super) programs: Programs,
    /// [`LOOKUP`] or its variant for older kernels.
    pub(super) lookup: &'static str,
    /// Directory for the links of pods.
    pins: PathBuf,
    /// [`pod_flag`]s of every pod.
    pub(super) flags: u32,
}

/// The state of all pods, and the eBPF maps.
pub(super) struct Registry {
    pub(super) tables: Tables,
    pub(super) entries: BTreeMap<u32, Entry>,
    /// Entries of an earlier agent by id, until they are taken over or forgotten.
    pub(super) left: BTreeMap<u32, Held>,
    next_id: u32,
    /// Whether the hand-over is over: captures of an earlier agent may be claimed.
    settled: bool,
}

pub(super) struct Entry {
    pub(super) owner: String,
    pub(super) cookie: u64,
    pub(super) netns: Arc<Netns>,
    pub(super) preferred: Vec<IpAddr>,
    pub(super) held: Held,
    pub(super) pod: Pod,
    /// The rules in the kernel; `None` while they are those of an earlier agent.
    pub(super) rules: Option<PlaintextRules>,
    pub(super) changes: Changes,
    /// Ports of the listeners.
    pub(super) ports: BTreeMap<(u32, bool), u16>,
    /// Reasons why it is closed, as bits; 0 if it is not.
    pub(super) closing: u32,
    pub(super) note: Option<String>,
}

/// A listener in a pod.
struct Made {
    kind: Kind,
    v6: bool,
    listener: Option<TcpListener>,
}

/// Exclusive access to a namespace, until dropped.
pub(super) struct Working<'a> {
    pods: &'a Pods,
    cookie: u64,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.pods.worked_in.lock().remove(&self.cookie);
        self.pods.work_ended.notify_all();
    }
}

impl Pods {
    pub(super) fn new(mut tables: Tables, programs: Programs, lookup: &'static str, pins: PathBuf, flags: u32) -> Self {
        let next_id = tables.places().iter().map(|(_, place)| place.id).max().unwrap_or(0) + 1;
        let left = tables.held();
        let registry = Registry { tables, entries: BTreeMap::new(), left, next_id, settled: false };
        Self {
            registry: Mutex::new(registry),
            worked_in: Mutex::default(),
            work_ended: Condvar::new(),
            programs,
            lookup,
            pins,
            flags,
        }
    }

    /// Locks a namespace, within `patience`.
    pub(super) fn work_in(&self, cookie: u64, patience: Duration) -> Option<Working<'_>> {
        let until = Instant::now() + patience;
        let mut worked_in = self.worked_in.lock();
        while !worked_in.insert(cookie) {
            if self.work_ended.wait_until(&mut worked_in, until).timed_out() {
                return None;
            }
        }
        Some(Working { pods: self, cookie })
    }

    /// Captures a pod. A pod that is captured already, by this agent or an earlier one, keeps its id and gets new
    /// listeners. A pod that cannot be captured is closed, if it can prove that the namespace is its own.
    pub(super) fn enroll(&self, spec: &PodSpec) -> Result<CapturedPod, NotCaptured> {
        let open = |error| NotCaptured { error, closed: None };
        let failed = |source| CaptureError::Netns { path: spec.netns.clone(), source };
        let netns = Arc::new(Netns::open(&spec.netns).map_err(failed).map_err(open)?);
        if netns.is_of_the_node().map_err(failed).map_err(open)? {
            return Err(open(CaptureError::HostNetwork { path: spec.netns.clone() }));
        }
        claims::eligible(&spec.owner, &spec.addresses).map_err(open)?;
        let working = self.work_in(netns.cookie(), PATIENCE);
        let _working = working.ok_or_else(|| open(CaptureError::Busy { path: spec.netns.clone() }))?;
        let (place, known, mut held) = match self.claim(spec, &netns) {
            Ok(claimed) => claimed,
            Err(error @ CaptureError::Claimed { .. }) => return Err(open(error)),
            Err(error) => return Err(self.close(spec, &netns, error)),
        };
        match self.build(spec, &netns, place, &mut held) {
            Ok(captured) => {
                debug!(pod = place.id, netns = %netns.path().display(), "enrolled");
                Ok(captured)
            }
            Err(error) if known => Err(self.close_known(spec, &netns, (place, held), error)),
            Err(error) => {
                let failed = self.close(spec, &netns, error);
                self.erase(netns.cookie(), place.id, &netns, (held, failed.closed.is_some()))
                    .unwrap_or_else(|error| warn!(%error, "undoing a failed enrollment"));
                Err(failed)
            }
        }
    }

    /// The entry of a pod, new or existing; also whether it existed, and what the maps hold for it.
    fn claim(&self, spec: &PodSpec, netns: &Netns) -> Result<(Place, bool, Held), CaptureError> {
        let mut registry = self.registry.lock();
        let Some(mut place) = registry.tables.place(netns.cookie()) else {
            let place = registry.new_place(&spec.owner, netns);
            // Written first, so that the next agent can clean up after a crash.
            return match registry.tables.put_place(netns.cookie(), place)? {
                Room::Found => Ok((place, false, Held::default())),
                Room::Full => Err(CaptureError::TooManyPods(MAX_PODS)),
            };
        };
        let entry = registry.entries.get(&place.id);
        let incumbent = match entry {
            Some(entry) if entry.pod.flags & pod_flag::RELEASED != 0 => Incumbent::Nobody,
            Some(entry) => Incumbent::Captured(&entry.owner),
            None if registry.settled => Incumbent::Nobody,
            None => Incumbent::Left(place.owner),
        };
        if !claims::may_have(&spec.owner, incumbent) {
            let owner = match incumbent {
                Incumbent::Captured(owner) => owner.to_owned(),
                _ => "the workload that was captured there before this agent started".to_owned(),
            };
            let (path, claimant) = (spec.netns.clone(), spec.owner.clone());
            return Err(CaptureError::Claimed { path, owner, claimant });
        }
        let held = entry.map(|entry| entry.held.clone());
        let held = held.unwrap_or_else(|| registry.left.remove(&place.id).unwrap_or_default());
        place.owner = claims::digest_of(&spec.owner);
        Ok((place, true, held))
    }

    /// All steps of a capture, in an order in which nothing is captured before it can be served.
    fn build(
        &self,
        spec: &PodSpec,
        netns: &Arc<Netns>,
        mut place: Place,
        held: &mut Held,
    ) -> Result<CapturedPod, CaptureError> {
        let (id, cookie) = (place.id, netns.cookie());
        let failed = |source| CaptureError::Netns { path: spec.netns.clone(), source };
        let changes = Changes::open(netns).map_err(failed)?;
        let arranged = network::arrange(netns, &spec.addresses, ADDRESSES.most())?;
        if let Some(missing) = arranged.missing.first() {
            return Err(CaptureError::AddressMissing { path: spec.netns.clone(), address: *missing });
        }
        place.sysctls |= network::set_sysctls(netns)?;
        let made = listen(netns)?;
        let program = match place.object == self.fingerprint() && self.is_attached(netns) {
            true => None,
            false => Some(self.programs.load_for_pod(self.lookup, id)?),
        };

        let mut registry = self.registry.lock();
        let registry = &mut *registry;
        let tables = &mut registry.tables;
        tables.put_place(cookie, place)?;
        if tables.set_own(id, held, &arranged.own)? < spec.addresses.len() {
            return Err(CaptureError::Full { map: "OWN" });
        }
        let mut captured = CapturedPod {
            id,
            cookie,
            netns: Arc::clone(netns),
            outbound: Vec::new(),
            plaintext: Vec::new(),
            hbone: Vec::new(),
        };
        let ports = introduce(tables, made, held, &mut captured)?;
        let left = tables.pod_by_id(id);
        let pod = Pod {
            id,
            flags: self.flags,
            generation: left.map_or(0, |pod| pod.generation),
            // Until policy is set, the agent authorizes.
            verdict: left.map_or(Verdict::Proxy as u32, |pod| pod.verdict),
        };
        tables.put_by_id(pod)?;
        if let Some(program) = program {
            self.attach(self.lookup, &program, netns)?;
            tables.put_place(cookie, Place { object: self.fingerprint(), ..place })?;
        }
        tables.put_by_cookie(cookie, pod)?;
        tables.remove_closed(cookie)?;
        let entry = Entry {
            owner: spec.owner.clone(),
            cookie,
            netns: Arc::clone(netns),
            preferred: spec.addresses.clone(),
            note: note(&arranged, held),
            held: held.clone(),
            pod,
            rules: None,
            changes,
            ports,
            closing: 0,
        };
        registry.entries.insert(id, entry);
        Ok(captured)
    }

    /// Ends the hand-over: captures of an earlier agent may be claimed by any pod that proves ownership.
    pub(super) fn settle(&self) {
        self.registry.lock().settled = true;
    }

    pub(super) fn is_attached(&self, netns: &Netns) -> bool {
        attach::is_attached(Target::Netns(netns.inode() as u32), &self.pin(netns.cookie()))
    }

    /// Attaches a program to the pod, replacing the current one.
    pub(super) fn attach(&self, name: &str, program: &OwnedFd, netns: &Netns) -> Result<(), CaptureError> {
        let target = Target::Netns(netns.inode() as u32);
        attach::attach(name, program, (netns, netns.path(), target), &self.pin(netns.cookie()))
    }

    /// Fingerprint that also distinguishes the two variants of the program.
    pub(super) fn fingerprint(&self) -> u64 {
        if self.lookup == LOOKUP { FINGERPRINT } else { !FINGERPRINT }
    }

    pub(super) fn pin(&self, cookie: u64) -> PathBuf {
        self.pins.join(cookie.to_string())
    }

    /// Stops capturing new connections of a pod. Those in the handshake still reach their listeners.
    pub(super) fn release(&self, id: u32) -> Result<(), CaptureError> {
        self.registry.lock().release(id)
    }

    /// Removes all state of a released pod; a pod that was captured again is left alone. Open captured connections
    /// would break: their responses need the rule.
    pub(super) fn forget(&self, id: u32) -> Result<(), CaptureError> {
        let netns = self.registry.lock().entries.get(&id).map(|entry| Arc::clone(&entry.netns));
        let netns = netns.ok_or(CaptureError::UnknownPod(id))?;
        let busy = || CaptureError::Busy { path: netns.path().to_owned() };
        let _working = self.work_in(netns.cookie(), PATIENCE).ok_or_else(busy)?;
        let entry = {
            let mut registry = self.registry.lock();
            let entry = registry.entries.get(&id).ok_or(CaptureError::UnknownPod(id))?;
            if entry.pod.flags & pod_flag::RELEASED == 0 {
                return Ok(());
            }
            registry.entries.remove(&id).ok_or(CaptureError::UnknownPod(id))?
        };
        self.erase(entry.cookie, id, &netns, (entry.held, false))
    }

    /// Forgets the pods whose cookies are not in `live`, those of an earlier agent included. A failure does not keep
    /// the others.
    pub(super) fn retain(&self, live: &[u64]) -> Result<(), CaptureError> {
        let mut outcome = Ok(());
        let (places, closed) = {
            let registry = self.registry.lock();
            (registry.tables.places(), registry.tables.closed())
        };
        for cookie in closed.into_iter().filter(|cookie| !live.contains(cookie)) {
            let done = self.registry.lock().tables.remove_closed(cookie);
            outcome = outcome.and(done.and_then(|()| attach::detach(&self.pin(cookie))));
        }
        for (cookie, place) in places.into_iter().filter(|(cookie, _)| !live.contains(cookie)) {
            let Some(_working) = self.work_in(cookie, PATIENCE) else { continue };
            let (entry, held) = {
                let mut registry = self.registry.lock();
                (registry.entries.remove(&place.id), registry.left.remove(&place.id).unwrap_or_default())
            };
            let done = match entry {
                Some(entry) => self.erase(cookie, place.id, &entry.netns, (entry.held, false)),
                None => match find(cookie, &place) {
                    Some(netns) => self.erase(cookie, place.id, &netns, (held, false)),
                    None => self.erase_tables(&mut self.registry.lock().tables, cookie, place.id, (held, false)),
                },
            };
            outcome = outcome.and(done);
        }
        outcome
    }

    /// Cookies of the entries with these paths.
    pub(super) fn left_at(&self, paths: &[PathBuf]) -> Vec<u64> {
        let places = self.registry.lock().tables.places();
        let at = |place: &Place| paths.contains(&path_of(place));
        places.iter().filter(|(_, place)| at(place)).map(|(cookie, _)| *cookie).collect()
    }

    fn erase(&self, cookie: u64, id: u32, netns: &Netns, (held, closed): (Held, bool)) -> Result<(), CaptureError> {
        let sysctls = {
            let tables = &mut self.registry.lock().tables;
            tables.remove_by_cookie(cookie)?;
            tables.place(cookie).map_or(0, |place| place.sysctls)
        };
        let undone = network::dismantle(netns).and_then(|()| network::restore_sysctls(netns, sysctls));
        self.erase_tables(&mut self.registry.lock().tables, cookie, id, (held, closed))?;
        let path = netns.path().to_owned();
        undone.map_err(|source| CaptureError::Network { path, what: "removing rule and route", source })
    }

    /// Removes a pod from the maps; a pod that was `closed` keeps the program that closes it.
    pub(super) fn erase_tables(
        &self,
        tables: &mut Tables,
        cookie: u64,
        id: u32,
        (mut held, closed): (Held, bool),
    ) -> Result<(), CaptureError> {
        tables.remove_by_cookie(cookie)?;
        if !closed {
            attach::detach(&self.pin(cookie))?;
            tables.remove_closed(cookie)?;
        }
        tables.remove_by_id(id)?;
        tables.remove_listeners(id)?;
        tables.drop_held(id, &mut held)?;
        tables.remove_place(cookie)
    }
}

impl Registry {
    fn new_place(&mut self, owner: &str, netns: &Netns) -> Place {
        let id = self.next_id;
        self.next_id += 1;
        let mut path = [0; 216];
        let name = netns.path().as_os_str().as_bytes();
        // A path that is too long is found by its inode instead.
        if name.len() < path.len() {
            path[..name.len()].copy_from_slice(name);
        }
        Place { id, sysctls: 0, inode: netns.inode(), object: 0, path, owner: claims::digest_of(owner) }
    }

    pub(super) fn release(&mut self, id: u32) -> Result<(), CaptureError> {
        let entry = self.entries.get_mut(&id).ok_or(CaptureError::UnknownPod(id))?;
        self.tables.remove_by_cookie(entry.cookie)?;
        entry.closing = 0;
        entry.pod.flags = entry.pod.flags & !pod_flag::CLOSED | pod_flag::RELEASED;
        self.tables.put_by_id(entry.pod)
    }

    /// Writes a pod's entry for the eBPF programs.
    pub(super) fn publish(&mut self, id: u32) -> Result<(), CaptureError> {
        let entry = self.entries.get(&id).ok_or(CaptureError::UnknownPod(id))?;
        self.tables.put_by_id(entry.pod)?;
        match entry.pod.flags & pod_flag::RELEASED {
            0 => self.tables.put_by_cookie(entry.cookie, entry.pod),
            _ => Ok(()),
        }
    }

    /// Sets the plaintext rules of a pod, atomically.
    pub(super) fn set_plaintext(&mut self, id: u32, rules: &PlaintextRules) -> Result<(), CaptureError> {
        let entry = self.entries.get_mut(&id).ok_or(CaptureError::UnknownPod(id))?;
        if entry.rules.as_ref() == Some(rules) {
            return Ok(());
        }
        let generation = entry.pod.generation.wrapping_add(1);
        let mut default = raw(rules.default);
        for (port, verdict) in &rules.ports {
            if self.tables.put_verdict(id, &mut entry.held, (generation, *port), raw(*verdict))? == Room::Full {
                warn!(pod = id, "no room for verdicts on ports: the agent judges all plaintext to this pod");
                self.tables.keep_verdicts(id, &mut entry.held, Some(entry.pod.generation))?;
                default = Verdict::Proxy;
                break;
            }
        }
        entry.pod = Pod { generation, verdict: default as u32, ..entry.pod };
        self.publish(id)?;
        let entry = self.entries.get_mut(&id).ok_or(CaptureError::UnknownPod(id))?;
        entry.rules = Some(rules.clone());
        self.tables.keep_verdicts(id, &mut entry.held, Some(generation))
    }
}

/// Creates the agent's listeners in a pod; none for IPv6 if the pod has no IPv6.
fn listen(netns: &Netns) -> Result<Vec<Made>, CaptureError> {
    let failed = |source| CaptureError::Network { path: netns.path().to_owned(), what: "listening", source };
    let mut all = Vec::new();
    for kind in [Kind::Outbound, Kind::Plaintext, Kind::Hbone] {
        for v6 in [false, true] {
            let listener = match netns.run(|| sockets::listener(kind, v6)).map_err(failed)? {
                Err(error) if v6 => {
                    debug!(%error, netns = %netns.path().display(), "no IPv6 in this pod");
                    None
                }
                made => Some(made.map_err(failed)?),
            };
            all.push(Made { kind, v6, listener });
        }
    }
    Ok(all)
}

/// Registers listeners in the maps. Returns their ports.
fn introduce(
    tables: &mut Tables,
    made: Vec<Made>,
    held: &mut Held,
    captured: &mut CapturedPod,
) -> Result<BTreeMap<(u32, bool), u16>, CaptureError> {
    let mut ports = BTreeMap::new();
    for Made { kind, v6, listener } in made {
        let Some(listener) = listener else {
            tables.remove_listener(captured.id, kind, v6)?;
            continue;
        };
        let path = captured.netns.path();
        let failed = |source| CaptureError::Network { path: path.to_owned(), what: "listening", source };
        ports.insert((kind as u32, v6), listener.local_addr().map_err(failed)?.port());
        tables.put_listener(captured.id, kind, v6, &listener)?;
        match kind {
            Kind::Outbound => captured.outbound.push(listener),
            Kind::Plaintext => captured.plaintext.push(listener),
            Kind::Hbone => captured.hbone.push(listener),
        }
    }
    tables.set_binds(captured.id, held, ports.values().copied().collect())?;
    Ok(ports)
}

/// The problem with a pod's addresses, if any.
pub(super) fn note(arranged: &Arranged, held: &Held) -> Option<String> {
    if !arranged.missing.is_empty() {
        let missing: Vec<String> = arranged.missing.iter().map(ToString::to_string).collect();
        return Some(format!("its address {} is no longer in its network namespace", missing.join(", ")));
    }
    let beyond = arranged.beyond + arranged.own.len().saturating_sub(held.own.len());
    let quota = held.own.len();
    (beyond > 0).then(|| format!("{beyond} or more of its addresses are over its quota of {quota}, and not served"))
}

fn raw(verdict: PlaintextVerdict) -> Verdict {
    match verdict {
        PlaintextVerdict::Pass => Verdict::Pass,
        PlaintextVerdict::Refuse => Verdict::Refuse,
        PlaintextVerdict::Proxy => Verdict::Proxy,
    }
}

/// The network namespace of a pod of an earlier agent, if it still exists.
pub(super) fn find(cookie: u64, place: &Place) -> Option<Netns> {
    let same = |path: PathBuf| Netns::open(&path).ok().filter(|netns| netns.cookie() == cookie);
    same(path_of(place)).or_else(|| find_by_inode(place.inode).and_then(same))
}

fn path_of(place: &Place) -> PathBuf {
    let end = place.path.iter().position(|byte| *byte == 0).unwrap_or(place.path.len());
    PathBuf::from(std::ffi::OsStr::from_bytes(&place.path[..end]))
}
