//! What every connection of this node shares.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connections::Connections;
use mesh::state::store::Store;
use process::telemetry::access_log::AccessLog;
use process::telemetry::counters::Counters;
use process::telemetry::traffic::Traffic;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::hbone::Pool;
use transport::keyring::Keyring;

use crate::listen::lost::Lost;
use crate::passthrough::connections::Passthrough;
use crate::pod::limits::Full;
use crate::pod::quota::Quotas;
use crate::pod::workload::{Pod, Pods};

/// What every connection of this node shares. Built once, by `app`.
pub(crate) struct Node {
    /// What we know of the mesh.
    pub(crate) store: Arc<Store>,
    /// Certificates of the captured workloads.
    pub(crate) keyring: Arc<Keyring>,
    /// Tunnels to other workloads.
    pub(crate) pool: Arc<Pool>,
    /// Connections that pass through this process.
    pub(crate) connections: Arc<Connections>,
    /// Connections that the kernel leaves to the application.
    pub(crate) passthrough: Arc<Passthrough>,
    /// The standard metrics.
    pub(crate) traffic: Arc<Traffic>,
    /// Our own metrics.
    pub(crate) counters: Arc<Counters>,
    /// The access log.
    pub(crate) log: AccessLog,
    /// How tunnels are set up.
    pub(crate) tunnel_settings: transport::hbone::Settings,
    /// When a connection that does nothing is cut.
    pub(crate) timeouts: transport::net::copy::Timeouts,
    /// The captured workloads.
    pub(crate) pods: Arc<Pods>,
    /// Listeners of theirs that somebody has destroyed.
    pub(crate) lost: Arc<Lost>,
    /// What the captured workloads hold of all this, and what they may.
    pub(crate) quotas: Arc<Quotas>,
    /// Whether two captured workloads are connected without a tunnel between them.
    pub(crate) direct: bool,
    /// The runtime that carries traffic.
    pub(crate) runtime: Handle,
    /// What is still to be finished before the process may exit.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the process drains: no new connections, no new streams.
    pub(crate) draining: CancellationToken,
    /// Origin of the clock that `Load` counts on.
    pub(crate) started: Instant,
}

impl Node {
    /// Now, on the clock that `Load` counts on.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs what belongs to a connection of `pod`: it takes turns with the pod's other connections, and the pod with other pods.
    /// The process waits for it when it drains.
    pub(crate) fn spawn_for(&self, pod: &Pod, future: impl Future<Output = ()> + Send + 'static) {
        pod.quota.fair_queue().spawn(self.tasks.track_future(future));
    }

    /// The same for a handshake with `pod`.
    pub(crate) fn spawn_handshake(&self, pod: &Pod, future: impl Future<Output = ()> + Send + 'static) {
        pod.quota.handshake_queue().spawn(self.tasks.track_future(future));
    }

    /// Counts a connection of `pod` that was refused, and now and then says so.
    pub(crate) fn refused(&self, pod: &Pod, why: Full) {
        self.counters.limit_refused(why.reason());
        pod.tell_refused(why);
    }

    /// Runs `future` on the traffic runtime; the process waits for it when it drains.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(future, &self.runtime);
    }
}
