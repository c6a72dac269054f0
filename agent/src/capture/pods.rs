//! The captured pods of the node: enrolled, repaired, released and forgotten. One pod goes through
//!
//! ```text
//!            enroll              release                     forget
//!  unknown ─────────▶ captured ──────────▶ released ────────────────▶ unknown
//!                        ▲                  new connections are left alone; rule, route and listeners
//!                        └── enroll ─────── stay until the last captured connection has ended
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use agent_abi::{Kind, MAX_PODS, Place, Pod, Verdict, pod_flag};
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};
use tracing::{debug, warn};

use super::attach;
use super::bpf::Target;
use super::error::CaptureError;
use super::netns::{Netns, find_by_inode};
use super::network;
use super::object::{FINGERPRINT, LOOKUP, Programs};
use super::rtnl::Changes;
use super::sockets;
use super::tables::{Held, Room, Tables};

/// A pod that is to be captured.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Its addresses, most important first; all must be in the namespace.
    pub addresses: Vec<IpAddr>,
}

/// A captured pod. Its listeners are non-blocking, and stand on loopback addresses of the pod with ports of their own; what they
/// accept has the address that was really called as its local address. A connection whose local address is loopback was dialled
/// directly and is to be dropped.
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
    /// Plaintext connections to the pod that the agent must judge.
    pub plaintext: Vec<TcpListener>,
    /// Tunnels to the pod.
    pub hbone: Vec<TcpListener>,
}

/// What is known about a captured pod, for `culvert get captures`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// Id of the pod on this node.
    pub id: u32,
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// All addresses in the namespace.
    pub addresses: Vec<IpAddr>,
    /// Whether new connections are left alone.
    pub released: bool,
}

/// All captured pods, with everything that is needed to capture one.
pub(super) struct Pods {
    pub(super) tables: Tables,
    programs: Programs,
    /// [`LOOKUP`] or its variant for older kernels.
    lookup: &'static str,
    /// Folder for the links of pods.
    pins: PathBuf,
    /// [`pod_flag`]s of every pod.
    flags: u32,
    entries: BTreeMap<u32, Entry>,
    /// What an earlier agent left, by id, until it is taken over or forgotten.
    left: BTreeMap<u32, Held>,
    next_id: u32,
}

struct Entry {
    cookie: u64,
    netns: Arc<Netns>,
    preferred: Vec<IpAddr>,
    held: Held,
    pod: Pod,
    /// The rules in the kernel; `None` while they are those that an earlier agent left.
    rules: Option<PlaintextRules>,
    changes: Changes,
}

impl Pods {
    pub(super) fn new(tables: Tables, programs: Programs, lookup: &'static str, pins: PathBuf, flags: u32) -> Self {
        let next_id = tables.places().iter().map(|(_, place)| place.id).max().unwrap_or(0) + 1;
        let left = tables.held();
        Self { tables, programs, lookup, pins, flags, entries: BTreeMap::new(), left, next_id }
    }

    /// Captures a pod. One that is captured already, by this agent or an earlier one, keeps its id and gets new listeners.
    pub(super) fn enroll(&mut self, spec: &PodSpec) -> Result<CapturedPod, CaptureError> {
        let failed = |source| CaptureError::Netns { path: spec.netns.clone(), source };
        let netns = Arc::new(Netns::open(&spec.netns).map_err(failed)?);
        if netns.is_home().map_err(failed)? {
            return Err(CaptureError::HostNetwork { path: spec.netns.clone() });
        }
        let known = self.tables.place(netns.cookie());
        let place = known.unwrap_or_else(|| self.new_place(&netns));
        let mut held = match self.entries.get(&place.id) {
            Some(entry) => entry.held.clone(),
            None => self.left.remove(&place.id).unwrap_or_default(),
        };
        let done = self.build(spec, &netns, place, &mut held);
        match &done {
            Ok((_, entry)) => debug!(pod = place.id, netns = %entry.netns.path().display(), "enrolled"),
            // What was captured before stays as it was, and is tried again; what was not leaves no trace.
            Err(_) if known.is_some() => drop(self.left.insert(place.id, held)),
            Err(_) => self
                .erase(netns.cookie(), place.id, &netns, held)
                .unwrap_or_else(|error| warn!(%error, "undoing a failed enrolment")),
        }
        let (captured, entry) = done?;
        self.entries.insert(place.id, entry);
        Ok(captured)
    }

    fn new_place(&mut self, netns: &Netns) -> Place {
        let id = self.next_id;
        self.next_id += 1;
        let mut path = [0; 232];
        let name = netns.path().as_os_str().as_bytes();
        // A path that is too long is found again by its inode.
        if name.len() < path.len() {
            path[..name.len()].copy_from_slice(name);
        }
        Place { id, sysctls: 0, inode: netns.inode(), object: 0, path }
    }

    /// Everything between a pod's namespace and its capture, in an order in which nothing is captured before it can be served.
    fn build(
        &mut self,
        spec: &PodSpec,
        netns: &Arc<Netns>,
        mut place: Place,
        held: &mut Held,
    ) -> Result<(CapturedPod, Entry), CaptureError> {
        let (id, cookie) = (place.id, netns.cookie());
        let failed = |source| CaptureError::Netns { path: spec.netns.clone(), source };
        // First of all, so that a crash from here on is cleaned up by whoever comes next.
        if self.tables.put_place(cookie, place)? == Room::Full {
            return Err(CaptureError::TooManyPods(MAX_PODS));
        }
        let changes = Changes::open(netns).map_err(failed)?;
        let addresses = network::arrange(netns, &spec.addresses)?;
        if let Some(missing) = spec.addresses.iter().find(|address| !addresses.contains(address)) {
            return Err(CaptureError::AddressMissing { path: spec.netns.clone(), address: *missing });
        }
        place.sysctls |= network::set_sysctls(netns)?;
        self.tables.put_place(cookie, place)?;
        self.tables.set_own(id, held, addresses)?;
        let captured = self.listen(id, netns, held)?;
        let left = self.tables.pod_by_id(id);
        let pod = Pod {
            id,
            flags: self.flags,
            generation: left.map_or(0, |pod| pod.generation),
            // Until somebody says what policy is, the agent judges.
            verdict: left.map_or(Verdict::Proxy as u32, |pod| pod.verdict),
        };
        self.tables.put_by_id(pod)?;
        self.attach(netns, &mut place)?;
        self.tables.put_by_cookie(cookie, pod)?;
        let entry = Entry {
            cookie,
            netns: Arc::clone(netns),
            preferred: spec.addresses.clone(),
            held: held.clone(),
            pod,
            rules: None,
            changes,
        };
        Ok((captured, entry))
    }

    /// Makes the agent's listeners in a pod. A pod without IPv6 has none for it.
    fn listen(&mut self, id: u32, netns: &Arc<Netns>, held: &mut Held) -> Result<CapturedPod, CaptureError> {
        let failed = |source| CaptureError::Network { path: netns.path().to_owned(), what: "listening", source };
        let mut captured = CapturedPod {
            id,
            cookie: netns.cookie(),
            netns: Arc::clone(netns),
            outbound: Vec::new(),
            plaintext: Vec::new(),
            hbone: Vec::new(),
        };
        let mut ports = Vec::new();
        for kind in [Kind::Outbound, Kind::Plaintext, Kind::Hbone] {
            for v6 in [false, true] {
                let listener = match netns.run(|| sockets::listener(kind, v6)).map_err(failed)? {
                    Err(error) if v6 => {
                        debug!(%error, netns = %netns.path().display(), "no IPv6 in this pod");
                        self.tables.remove_listener(id, kind, v6)?;
                        continue;
                    }
                    made => made.map_err(failed)?,
                };
                ports.push(listener.local_addr().map_err(failed)?.port());
                self.tables.put_listener(id, kind, v6, &listener)?;
                match kind {
                    Kind::Outbound => captured.outbound.push(listener),
                    Kind::Plaintext => captured.plaintext.push(listener),
                    Kind::Hbone => captured.hbone.push(listener),
                }
            }
        }
        self.tables.set_binds(id, held, ports)?;
        Ok(captured)
    }

    /// Attaches the pod's `sk_lookup` program, unless the one of this very build is there.
    fn attach(&mut self, netns: &Arc<Netns>, place: &mut Place) -> Result<(), CaptureError> {
        let pin = self.pin(netns.cookie());
        let target = Target::Netns(netns.inode() as u32);
        if place.object == self.fingerprint() && attach::is_attached(target, &pin) {
            return Ok(());
        }
        let program = self.programs.load_for_pod(self.lookup, place.id)?;
        attach::attach(self.lookup, &program, (netns.as_ref(), netns.path(), target), &pin)?;
        place.object = self.fingerprint();
        self.tables.put_place(netns.cookie(), *place).map(drop)
    }

    /// Tells the builds of both variants of the program apart.
    fn fingerprint(&self) -> u64 {
        if self.lookup == LOOKUP { FINGERPRINT } else { !FINGERPRINT }
    }

    fn pin(&self, cookie: u64) -> PathBuf {
        self.pins.join(cookie.to_string())
    }

    /// Judges plaintext to a pod by `rules` from now on, all of them at once.
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
        self.tables.put_by_id(entry.pod)?;
        if entry.pod.flags & pod_flag::RELEASED == 0 {
            self.tables.put_by_cookie(entry.cookie, entry.pod)?;
        }
        entry.rules = Some(rules.clone());
        self.tables.keep_verdicts(id, &mut entry.held, Some(generation))
    }

    /// Leaves new connections of a pod alone. Those on their way still reach their listeners.
    pub(super) fn release(&mut self, id: u32) -> Result<(), CaptureError> {
        let entry = self.entries.get_mut(&id).ok_or(CaptureError::UnknownPod(id))?;
        self.tables.remove_by_cookie(entry.cookie)?;
        entry.pod.flags |= pod_flag::RELEASED;
        self.tables.put_by_id(entry.pod)
    }

    /// Removes every trace of a pod. Captured connections that are still open would be cut: their answers need the rule.
    pub(super) fn forget(&mut self, id: u32) -> Result<(), CaptureError> {
        let entry = self.entries.remove(&id).ok_or(CaptureError::UnknownPod(id))?;
        self.erase(entry.cookie, id, &entry.netns, entry.held)
    }

    /// Forgets the pods whose cookies are not in `live`, those of an earlier agent included. One that fails does not keep the others.
    pub(super) fn retain(&mut self, live: &[u64]) -> Result<(), CaptureError> {
        let mut outcome = Ok(());
        for (cookie, place) in self.tables.places() {
            if live.contains(&cookie) {
                continue;
            }
            let done = match self.entries.remove(&place.id) {
                Some(entry) => self.erase(cookie, place.id, &entry.netns, entry.held),
                None => {
                    let held = self.left.remove(&place.id).unwrap_or_default();
                    match find(cookie, &place) {
                        Some(netns) => self.erase(cookie, place.id, &netns, held),
                        None => self.erase_tables(cookie, place.id, held),
                    }
                }
            };
            outcome = outcome.and(done);
        }
        outcome
    }

    fn erase(&mut self, cookie: u64, id: u32, netns: &Netns, held: Held) -> Result<(), CaptureError> {
        let sysctls = self.tables.place(cookie).map_or(0, |place| place.sysctls);
        self.tables.remove_by_cookie(cookie)?;
        let undone = network::dismantle(netns).and_then(|()| network::restore_sysctls(netns, sysctls));
        self.erase_tables(cookie, id, held)?;
        let path = netns.path().to_owned();
        undone.map_err(|source| CaptureError::Network { path, what: "removing rule and route", source })
    }

    fn erase_tables(&mut self, cookie: u64, id: u32, mut held: Held) -> Result<(), CaptureError> {
        self.tables.remove_by_cookie(cookie)?;
        attach::detach(&self.pin(cookie))?;
        self.tables.remove_by_id(id)?;
        self.tables.remove_listeners(id)?;
        self.tables.drop_held(id, &mut held)?;
        self.tables.remove_place(cookie)
    }

    /// Looks at a pod whose addresses, rules or routes have changed, and puts right what is ours.
    pub(super) fn repair(&mut self, id: u32) -> Result<(), CaptureError> {
        let Some(entry) = self.entries.get_mut(&id) else { return Ok(()) };
        entry.changes.drain();
        let addresses = network::arrange(&entry.netns, &entry.preferred)?;
        self.tables.set_own(id, &mut entry.held, addresses)
    }

    /// What tells that a pod wants repair.
    pub(super) fn changes(&self, id: u32) -> Option<&Changes> {
        self.entries.get(&id).map(|entry| &entry.changes)
    }

    /// All pods, by id.
    pub(super) fn status(&self) -> Vec<PodStatus> {
        let status = |(id, entry): (&u32, &Entry)| PodStatus {
            id: *id,
            cookie: entry.cookie,
            netns: entry.netns.path().to_owned(),
            addresses: entry.held.own.clone(),
            released: entry.pod.flags & pod_flag::RELEASED != 0,
        };
        self.entries.iter().map(status).collect()
    }
}

fn raw(verdict: PlaintextVerdict) -> Verdict {
    match verdict {
        PlaintextVerdict::Pass => Verdict::Pass,
        PlaintextVerdict::Refuse => Verdict::Refuse,
        PlaintextVerdict::Proxy => Verdict::Proxy,
    }
}

/// The network namespace of a pod that an earlier agent enrolled, if it is still there.
pub(super) fn find(cookie: u64, place: &Place) -> Option<Netns> {
    let end = place.path.iter().position(|byte| *byte == 0).unwrap_or(place.path.len());
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&place.path[..end]));
    let same = |path: PathBuf| Netns::open(&path).ok().filter(|netns| netns.cookie() == cookie);
    same(path).or_else(|| find_by_inode(place.inode).and_then(same))
}
