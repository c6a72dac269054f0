//! One captured workload of this node.

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

/// A captured workload. Each of its connections holds a reference: if only the reconciler does, none is open.
pub(crate) struct Pod {
    /// Key of the workload.
    pub(crate) uid: WorkloadUid,
    /// Id of the capture.
    pub(crate) id: u32,
    /// The identity whose certificate it presents.
    pub(crate) identity: Identity,
    /// Its network namespace.
    pub(crate) netns: Arc<Netns>,
    /// Cancelled when new connections are no longer captured; tasks that wait for more connections end.
    pub(crate) released: CancellationToken,
    /// Its quota.
    pub(crate) quota: Quota,
    /// The workload at the time of its capture.
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

    /// The current workload; that of the time of capture if it is gone from the mesh while connections are open.
    pub(crate) fn workload(&self, store: &Store) -> Arc<Workload> {
        store.snapshot().workload(&self.uid).cloned().unwrap_or_else(|| Arc::clone(&self.enrolled_as))
    }
}

/// A connection's lease on sockets of its pod's quota, and a reference to the pod; released on drop.
pub(crate) struct SocketLease {
    pod: Arc<Pod>,
    sockets: usize,
}

/// An inbound handshake of a pod, counted until dropped.
pub(crate) struct Handshake {
    pod: Arc<Pod>,
    pub(crate) begun: Begun,
}

impl Pod {
    /// Leases `sockets` sockets for one more connection.
    pub(crate) fn lease(self: &Arc<Self>, sockets: usize) -> Result<SocketLease, Full> {
        self.quota.acquire(sockets)?;
        Ok(SocketLease { pod: Arc::clone(self), sockets })
    }

    /// Begins one more inbound handshake.
    pub(crate) fn handshake(self: &Arc<Self>, peer: IpAddr) -> Result<Handshake, Full> {
        Ok(Handshake { begun: self.quota.handshake(peer)?, pod: Arc::clone(self) })
    }

    /// Logs refusals, at most once a second.
    pub(crate) fn tell_refused(&self, why: Full) {
        if let Some(count) = self.quota.refused() {
            warn!("{}: {why}: {count} connections refused since the last such line ({})", self.uid, why.reason());
        }
    }
}

impl SocketLease {
    /// Extends the lease by sockets that are open already.
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

/// The captured workloads by uid. It does not keep a pod alive.
#[derive(Default)]
pub(crate) struct Pods(RwLock<HashMap<WorkloadUid, Weak<Pod>>>);

impl Pods {
    /// Adds a workload; a later capture of the same workload replaces an earlier one.
    pub(crate) fn add(&self, pod: &Arc<Pod>) {
        let mut pods = self.0.write();
        pods.retain(|_, pod| pod.strong_count() > 0);
        pods.insert(pod.uid.clone(), Arc::downgrade(pod));
    }

    /// The workload, if its new connections are captured.
    pub(crate) fn captured(&self, uid: &WorkloadUid) -> Option<Arc<Pod>> {
        self.0.read().get(uid).and_then(Weak::upgrade).filter(|pod| !pod.released.is_cancelled())
    }

    /// The fair queue of a workload that is captured or still has connections.
    pub(crate) fn fair_queue(&self, uid: &WorkloadUid) -> Option<FairQueue> {
        self.0.read().get(uid).and_then(Weak::upgrade).map(|pod| pod.quota.fair_queue().clone())
    }

    /// The buffers of a workload that is captured or still has connections.
    pub(crate) fn buffers(&self, uid: &WorkloadUid) -> Option<Arc<Buffers>> {
        self.0.read().get(uid).and_then(Weak::upgrade).map(|pod| Arc::clone(pod.quota.buffers()))
    }

    /// The network namespace of a workload that is captured or still has connections.
    pub(crate) fn netns(&self, uid: &WorkloadUid) -> Option<Arc<Netns>> {
        self.0.read().get(uid).and_then(Weak::upgrade).map(|pod| Arc::clone(&pod.netns))
    }
}
