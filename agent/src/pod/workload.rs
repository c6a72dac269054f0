//! One captured workload of this node, as those who carry its connections see it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use mesh::model::identity::Identity;
use mesh::model::name::WorkloadUid;
use mesh::model::workload::Workload;
use mesh::state::store::Store;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use transport::fair_queue::FairQueue;
use transport::net::buffers::Buffers;
use transport::net::handshakes::Begun;

use crate::capture::Netns;
use crate::pod::limits::Full;
use crate::pod::quota::Quota;

/// A captured workload. Every connection that is carried for it holds it: when only the reconciler does, none is open.
pub(crate) struct Pod {
    /// Key of the workload.
    pub(crate) uid: WorkloadUid,
    /// Number under which the kernel knows it.
    pub(crate) id: u32,
    /// Whose certificate it presents.
    pub(crate) identity: Identity,
    /// Its network namespace.
    pub(crate) netns: Arc<Netns>,
    /// Cancelled when new connections are no longer captured: what waits for more must not wait on.
    pub(crate) released: CancellationToken,
    /// What it holds of the agent.
    pub(crate) quota: Quota,
    /// The workload as it was when it was captured.
    enrolled_as: Arc<Workload>,
}

impl Pod {
    /// A workload that was captured under `id`.
    pub(crate) fn new(id: u32, netns: Arc<Netns>, workload: Arc<Workload>, quota: Quota) -> Arc<Self> {
        Arc::new(Self {
            uid: workload.uid.clone(),
            id,
            identity: workload.identity(),
            netns,
            released: CancellationToken::new(),
            quota,
            enrolled_as: workload,
        })
    }

    /// Kubernetes namespace of the workload.
    pub(crate) fn namespace(&self) -> &str {
        &self.enrolled_as.namespace
    }

    /// The workload as it is now; as it was when captured, if it is gone from the mesh while connections still are open.
    pub(crate) fn workload(&self, store: &Store) -> Arc<Workload> {
        store.snapshot().workload(&self.uid).cloned().unwrap_or_else(|| Arc::clone(&self.enrolled_as))
    }
}

/// One connection of a pod: it holds the pod, and its sockets are counted, until it is dropped.
pub(crate) struct SocketLease {
    pod: Arc<Pod>,
    sockets: usize,
}

/// A handshake that somebody has begun with a pod, counted until it is dropped.
pub(crate) struct Handshake {
    pod: Arc<Pod>,
    pub(crate) begun: Begun,
}

impl Pod {
    /// One more connection, which will have so many sockets.
    pub(crate) fn lease(self: &Arc<Self>, sockets: usize) -> Result<SocketLease, Full> {
        self.quota.acquire(sockets)?;
        Ok(SocketLease { pod: Arc::clone(self), sockets })
    }

    /// One more handshake with it.
    pub(crate) fn handshake(self: &Arc<Self>, peer: IpAddr) -> Result<Handshake, Full> {
        Ok(Handshake { begun: self.quota.handshake(peer)?, pod: Arc::clone(self) })
    }

    /// Says that something was refused, not more often than once in a second.
    pub(crate) fn tell_refused(&self, why: Full) {
        if let Some(count) = self.quota.refused() {
            warn!("{}: {why}: {count} connections refused since the last such line ({})", self.uid, why.reason());
        }
    }
}

impl SocketLease {
    /// It turns out to have more sockets.
    pub(crate) fn extend(&mut self, sockets: usize) {
        self.sockets += sockets;
        self.pod.quota.acquire_unchecked(sockets);
    }
}

impl Deref for SocketLease {
    type Target = Arc<Pod>;

    fn deref(&self) -> &Arc<Pod> {
        &self.pod
    }
}

impl Drop for SocketLease {
    fn drop(&mut self) {
        self.pod.quota.release(self.sockets);
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.pod.quota.handshake_ended();
    }
}

/// The captured workloads by uid, for those who only have that. It does not count as a user of the pod.
#[derive(Default)]
pub(crate) struct Pods(RwLock<HashMap<WorkloadUid, Weak<Pod>>>);

impl Pods {
    /// Learns of a workload; a later capture of the same workload takes the place of an earlier one.
    pub(crate) fn add(&self, pod: &Arc<Pod>) {
        let mut pods = self.0.write();
        pods.retain(|_, pod| pod.strong_count() > 0);
        pods.insert(pod.uid.clone(), Arc::downgrade(pod));
    }

    /// A workload whose new connections are captured here.
    pub(crate) fn captured(&self, uid: &WorkloadUid) -> Option<Arc<Pod>> {
        self.0.read().get(uid).and_then(Weak::upgrade).filter(|pod| !pod.released.is_cancelled())
    }

    /// Where the work of a workload takes its turns, if it is captured or still has connections.
    pub(crate) fn fair_queue(&self, uid: &WorkloadUid) -> Option<FairQueue> {
        self.0.read().get(uid).and_then(Weak::upgrade).map(|pod| pod.quota.fair_queue().clone())
    }

    /// What a workload may hold for readers that do not read, if it is captured or still has connections.
    pub(crate) fn buffers(&self, uid: &WorkloadUid) -> Option<Arc<Buffers>> {
        self.0.read().get(uid).and_then(Weak::upgrade).map(|pod| Arc::clone(pod.quota.buffers()))
    }

    /// The namespace of a workload that is captured, or still has connections.
    pub(crate) fn netns(&self, uid: &WorkloadUid) -> Option<Arc<Netns>> {
        self.0.read().get(uid).and_then(Weak::upgrade).map(|pod| Arc::clone(&pod.netns))
    }
}
