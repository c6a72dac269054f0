//! Keeps captures intact: pods are checked periodically, and what somebody in or beside them has changed is repaired.
//! Until then the pod is closed.

use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use agent_abi::{Kind, ListenKey, pod_flag};

use super::error::CaptureError;
use super::network;
use super::pods::{PATIENCE, PodStatus, Pods, note};
use super::quota::ADDRESSES;
use super::rtnl::Changes;
use super::sockets;

/// None of the pod's addresses is in its namespace.
const NO_ADDRESS: u32 = 1;
/// A listener is missing.
const NO_LISTENER: u32 = 2;

/// A listener of the agent in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// What it is for.
    pub kind: Kind,
    /// Whether it is for IPv6.
    pub v6: bool,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Outbound => "outbound",
            Kind::Plaintext => "plaintext",
            Kind::Hbone => "HBONE",
        };
        write!(f, "{kind} listener for {}", if self.v6 { "IPv6" } else { "IPv4" })
    }
}

impl Pods {
    /// Checks a pod and repairs what is ours: `lo`, rule, route, sysctls, addresses, map entries, the program. Does
    /// nothing while another operation in the namespace is in progress.
    pub(super) fn repair(&self, id: u32) -> Result<(), CaptureError> {
        let Some(cookie) = self.registry.lock().entries.get(&id).map(|entry| entry.cookie) else {
            return Ok(());
        };
        let Some(_working) = self.work_in(cookie, Duration::ZERO) else { return Ok(()) };
        let seen = self.registry.lock().entries.get(&id).map(|entry| {
            entry.changes.drain();
            (Arc::clone(&entry.netns), entry.preferred.clone())
        });
        let Some((netns, preferred)) = seen else { return Ok(()) };
        let arranged = network::arrange(&netns, &preferred, ADDRESSES.most())?;
        let sysctls = network::set_sysctls(&netns)?;
        let program = match self.is_attached(&netns) {
            true => None,
            false => Some(self.programs.load_for_pod(self.lookup, id)?),
        };

        let mut registry = self.registry.lock();
        let registry = &mut *registry;
        let Some(entry) = registry.entries.get_mut(&id) else { return Ok(()) };
        let tables = &mut registry.tables;
        tables.set_own(id, &mut entry.held, &arranged.own)?;
        entry.note = note(&arranged, &entry.held);
        let homeless = arranged.missing.len() == preferred.len();
        let closing = entry.closing & !NO_ADDRESS | if homeless { NO_ADDRESS } else { 0 };
        if let Some(mut place) = tables.place(cookie)
            && place.sysctls | sysctls != place.sysctls
        {
            place.sysctls |= sysctls;
            tables.put_place(cookie, place)?;
        }
        // Entries that another agent has written meanwhile are newer than ours: only missing ones are written.
        let released = entry.pod.flags & pod_flag::RELEASED != 0;
        let missing = tables.pod_by_id(id).is_none() || !released && !tables.has_cookie(cookie);
        if let Some(program) = program {
            self.attach(self.lookup, &program, &netns)?;
        }
        registry.close_for(id, closing, missing)
    }

    /// The listeners that are missing in the kernel, with the ids of their pods. A listener that dies leaves its map by
    /// itself.
    pub(super) fn gone(&self) -> Vec<(u32, Listener)> {
        let registry = self.registry.lock();
        let present = registry.tables.listeners();
        let held = registry.entries.iter().filter(|(_, entry)| entry.pod.flags & pod_flag::RELEASED == 0);
        let all = held.flat_map(|(id, entry)| entry.ports.keys().map(move |(kind, v6)| (*id, *kind, *v6)));
        let gone = all.filter(|(id, kind, v6)| !present.contains(&(*id, key(*kind, *v6))));
        gone.filter_map(|(id, kind, v6)| Some((id, Listener { kind: kind_of(kind)?, v6 }))).collect()
    }

    /// Closes a pod while listeners are missing.
    pub(super) fn without_listener(&self, id: u32, missing: bool) -> Result<(), CaptureError> {
        let mut registry = self.registry.lock();
        let entry = registry.entries.get(&id).ok_or(CaptureError::UnknownPod(id))?;
        let closing = entry.closing & !NO_LISTENER | if missing { NO_LISTENER } else { 0 };
        registry.close_for(id, closing, false)
    }

    /// Recreates one listener of a pod.
    pub(super) fn listen_again(&self, id: u32, Listener { kind, v6 }: Listener) -> Result<TcpListener, CaptureError> {
        let seen = self.registry.lock().entries.get(&id).map(|entry| (entry.cookie, Arc::clone(&entry.netns)));
        let (cookie, netns) = seen.ok_or(CaptureError::UnknownPod(id))?;
        let busy = || CaptureError::Busy { path: netns.path().to_owned() };
        let _working = self.work_in(cookie, PATIENCE).ok_or_else(busy)?;
        let failed = |source| CaptureError::Network { path: netns.path().to_owned(), what: "listening", source };
        let listener = netns.run(|| sockets::listener(kind, v6)).and_then(|made| made).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let mut registry = self.registry.lock();
        let registry = &mut *registry;
        let entry = registry.entries.get_mut(&id).ok_or(CaptureError::UnknownPod(id))?;
        entry.ports.insert((kind as u32, v6), port);
        registry.tables.put_listener(id, kind, v6, &listener)?;
        registry.tables.set_binds(id, &mut entry.held, entry.ports.values().copied().collect())?;
        Ok(listener)
    }

    /// Runs `act` with the pod's change notifications.
    pub(super) fn with_changes<T>(&self, id: u32, act: impl FnOnce(&Changes) -> T) -> Option<T> {
        self.registry.lock().entries.get(&id).map(|entry| act(&entry.changes))
    }

    /// The state of all pods, by id.
    pub(super) fn status(&self) -> Vec<PodStatus> {
        let registry = self.registry.lock();
        let status = |(id, entry): (&u32, &super::pods::Entry)| PodStatus {
            id: *id,
            cookie: entry.cookie,
            netns: entry.netns.path().to_owned(),
            addresses: entry.held.own.clone(),
            released: entry.pod.flags & pod_flag::RELEASED != 0,
            closed: entry.pod.flags & pod_flag::CLOSED != 0,
            note: entry.note.clone(),
        };
        registry.entries.iter().map(status).collect()
    }
}

impl super::pods::Registry {
    /// Sets the reasons why a pod is closed; without any it is open. `anyway` writes the entry even if nothing has
    /// changed.
    fn close_for(&mut self, id: u32, closing: u32, anyway: bool) -> Result<(), CaptureError> {
        let Some(entry) = self.entries.get_mut(&id) else { return Ok(()) };
        let flags = entry.pod.flags & !pod_flag::CLOSED | if closing == 0 { 0 } else { pod_flag::CLOSED };
        // A pod that is closed for another reason (it could not be enrolled again) stays closed.
        let flags = if entry.closing == 0 && closing == 0 { entry.pod.flags } else { flags };
        let same = flags == entry.pod.flags;
        entry.closing = closing;
        entry.pod.flags = flags;
        if same && !anyway { Ok(()) } else { self.publish(id) }
    }
}

fn key(kind: u32, v6: bool) -> u32 {
    kind_of(kind).map_or(u32::MAX, |kind| ListenKey::new(0, kind, v6).kind)
}

fn kind_of(raw: u32) -> Option<Kind> {
    [Kind::Outbound, Kind::Plaintext, Kind::Hbone].into_iter().find(|kind| *kind as u32 == raw)
}
