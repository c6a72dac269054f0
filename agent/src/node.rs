//! The state shared by all connections of this node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connections::Connections;
use crate::counters::Counters;
use mesh::state::store::Store;
use process::telemetry::access_log::AccessLog;
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

/// The state shared by all connections of this node. Built once, by `app`.
pub(crate) struct Node {
    /// The model of the mesh.
    pub(crate) store: Arc<Store>,
    /// Certificates of the captured workloads.
    pub(crate) keyring: Arc<Keyring>,
    /// Tunnels to other workloads.
    pub(crate) pool: Arc<Pool>,
    /// Connections carried by this process.
    pub(crate) connections: Arc<Connections>,
    /// Passthrough connections, which the kernel leaves to the application.
    pub(crate) passthrough: Arc<Passthrough>,
    /// The standard metrics.
    pub(crate) traffic: Arc<Traffic>,
    /// Metrics of our own.
    pub(crate) counters: Arc<Counters>,
    /// The access log.
    pub(crate) log: AccessLog,
    /// Settings of HBONE tunnels.
    pub(crate) tunnel_settings: transport::hbone::Settings,
    /// Idle timeouts of connections.
    pub(crate) timeouts: transport::net::copy::Timeouts,
    /// The captured workloads.
    pub(crate) pods: Arc<Pods>,
    /// Destroyed listeners of the captured workloads.
    pub(crate) lost: Arc<Lost>,
    /// Quotas of the captured workloads.
    pub(crate) quotas: Arc<Quotas>,
    /// Whether two captured workloads of this node are connected without a tunnel.
    pub(crate) direct: bool,
    /// The traffic runtime.
    pub(crate) runtime: Handle,
    /// Tasks that must end before the process exits.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the process drains: no new connections, no new streams.
    pub(crate) draining: CancellationToken,
    /// Origin of the clock of `Load`.
    pub(crate) started: Instant,
}

impl Node {
    /// The current time on the clock of `Load`.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Spawns a task of a connection of `pod` on the pod's fair queue. Draining waits for it.
    pub(crate) fn spawn_for(&self, pod: &Pod, future: impl Future<Output = ()> + Send + 'static) {
        pod.quota.fair_queue().spawn(self.tasks.track_future(future));
    }

    /// Spawns a handshake with `pod` on the pod's queue for handshakes. Draining waits for it.
    pub(crate) fn spawn_handshake(&self, pod: &Pod, future: impl Future<Output = ()> + Send + 'static) {
        pod.quota.handshake_queue().spawn(self.tasks.track_future(future));
    }

    /// Counts a refused connection of `pod`, and logs at most once a second.
    pub(crate) fn refused(&self, pod: &Pod, why: Full) {
        self.counters.refusals.limit_refused(why.reason());
        pod.tell_refused(why);
    }

    /// Spawns `future` on the traffic runtime. Draining waits for it.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(future, &self.runtime);
    }
}
