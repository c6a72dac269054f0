//! Closes pods that should be captured and cannot be: such a pod neither accepts nor opens new connections until it is
//! captured or no longer in the mesh. The kubelet still reaches it, and it reaches itself.

use std::sync::Arc;

use agent_abi::{Place, Pod, Verdict, pod_flag};
use tracing::warn;

use super::attach;
use super::error::CaptureError;
use super::netns::Netns;
use super::network;
use super::object::SHUT;
use super::pods::{NotCaptured, PATIENCE, PodSpec, Pods};
use super::tables::{Held, Room};

impl Pods {
    /// Closes a pod that could not be captured, if it can prove that the namespace is its own: otherwise anybody could
    /// take others down.
    pub(super) fn close(&self, spec: &PodSpec, netns: &Netns, error: CaptureError) -> NotCaptured {
        if !shows(spec, netns) {
            return NotCaptured { error, closed: None };
        }
        let close = || -> Result<(), CaptureError> {
            let program = self.programs.load(SHUT)?;
            let tables = &mut self.registry.lock().tables;
            if tables.put_closed(netns.cookie())? == Room::Full {
                warn!(netns = %netns.path().display(), "no room to close a pod's way out: only its way in is closed");
            }
            self.attach(SHUT, &program, netns)
        };
        match close() {
            Ok(()) => NotCaptured { error, closed: Some(netns.cookie()) },
            Err(another) => {
                warn!(netns = %netns.path().display(), %another, "closing a pod that cannot be captured");
                NotCaptured { error, closed: None }
            }
        }
    }

    /// Closes a pod that is in the tables already, under the same condition.
    pub(super) fn close_known(
        &self,
        spec: &PodSpec,
        netns: &Arc<Netns>,
        (place, held): (Place, Held),
        error: CaptureError,
    ) -> NotCaptured {
        let shown = shows(spec, netns);
        let mut registry = self.registry.lock();
        let (id, cookie) = (place.id, netns.cookie());
        let registry = &mut *registry;
        let before = match registry.entries.get_mut(&id) {
            Some(entry) => {
                entry.held = held;
                Some(entry.pod)
            }
            None => {
                registry.left.insert(id, held);
                registry.tables.pod_by_id(id)
            }
        };
        if !shown {
            return NotCaptured { error, closed: None };
        }
        let pod = before.unwrap_or(Pod { id, flags: self.flags, generation: 0, verdict: Verdict::Refuse as u32 });
        let pod = Pod { flags: pod.flags & !pod_flag::RELEASED | pod_flag::CLOSED, ..pod };
        if let Some(entry) = registry.entries.get_mut(&id) {
            entry.owner.clone_from(&spec.owner);
            entry.pod = pod;
        }
        let tables = &mut registry.tables;
        let done = tables.put_by_id(pod).and_then(|()| tables.put_by_cookie(cookie, pod));
        if let Err(another) = &done {
            warn!(netns = %netns.path().display(), %another, "closing a pod that cannot be captured");
        }
        NotCaptured { error, closed: done.is_ok().then_some(cookie) }
    }

    /// Reopens a closed namespace whose pod is no longer to be captured. Returns the pod's id if it had been captured
    /// before: it is released now, and `forget` is due. A pod that was captured again meanwhile is left alone.
    pub(super) fn reopen(&self, cookie: u64) -> Result<Option<u32>, CaptureError> {
        let busy = || CaptureError::Busy { path: format!("the network namespace with the cookie {cookie}").into() };
        let _working = self.work_in(cookie, PATIENCE).ok_or_else(busy)?;
        let mut registry = self.registry.lock();
        let registry = &mut *registry;
        let Some(id) = registry.tables.place(cookie).map(|place| place.id) else {
            if !registry.tables.is_closed(cookie) {
                return Ok(None);
            }
            attach::detach(&self.pin(cookie))?;
            return registry.tables.remove_closed(cookie).map(|()| None);
        };
        match registry.entries.get(&id).map(|entry| entry.pod.flags & (pod_flag::CLOSED | pod_flag::RELEASED)) {
            None => {
                let held = registry.left.remove(&id).unwrap_or_default();
                self.erase_tables(&mut registry.tables, cookie, id, (held, false)).map(|()| None)
            }
            Some(0) => Ok(None),
            Some(_) => registry.release(id).map(|()| Some(id)),
        }
    }
}

/// Whether one of the pod's addresses is in the namespace.
fn shows(spec: &PodSpec, netns: &Netns) -> bool {
    match network::shown(netns, &spec.addresses) {
        Ok(arranged) => arranged.own.iter().any(|ip| spec.addresses.contains(ip)),
        Err(error) => {
            warn!(netns = %netns.path().display(), %error, "reading the addresses of a pod that cannot be captured");
            false
        }
    }
}
