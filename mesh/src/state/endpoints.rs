//! The endpoints of a service, with their load and passive health.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::model::service::ServicePort;
use crate::model::workload::{Health, Workload};

/// An endpoint: one workload serving one service.
#[derive(Debug)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Service ports and the ports on this workload.
    pub ports: Box<[ServicePort]>,
    /// Its readiness in the service.
    pub health: Health,
    /// Its load, shared by all service entries and snapshots that contain the endpoint.
    pub load: Arc<Load>,
}

impl Endpoint {
    /// The port on the workload behind a service port.
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        self.ports.iter().find(|p| p.service_port == service_port).map(|p| p.target_port).filter(|p| *p != 0)
    }
}

/// Active connections and passive health of an endpoint.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicU32,
    failures: AtomicU32,
    /// Milliseconds on the caller's clock.
    avoid_until: AtomicU64,
}

/// Counts one connection to an endpoint until dropped.
#[derive(Debug)]
pub struct Busy(Arc<Load>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

const FIRST_PENALTY_MS: u64 = 500;
const LONGEST_PENALTY_MS: u64 = 30_000;

impl Load {
    /// Active connections.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts one more connection until the result is dropped.
    pub fn start(self: &Arc<Self>) -> Busy {
        self.active.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Records a successful connect, which ends the avoidance.
    pub fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.avoid_until.store(0, Ordering::Relaxed);
        }
    }

    /// Records a failed connect: the endpoint is avoided for a time that doubles with each failure, up to 30 s. `now`
    /// counts from any fixed instant.
    pub fn failed(&self, now: Duration) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let penalty = (FIRST_PENALTY_MS << failures).min(LONGEST_PENALTY_MS);
        let until = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_add(penalty);
        self.avoid_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Whether the endpoint is avoided.
    pub fn is_avoided(&self, now: Duration) -> bool {
        u128::from(self.avoid_until.load(Ordering::Relaxed)) > now.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_endpoint_is_avoided_ever_longer_until_it_works() {
        let load = Load::default();
        let at = Duration::from_millis;
        load.failed(at(0));
        assert!(load.is_avoided(at(499)) && !load.is_avoided(at(500)));
        load.failed(at(500));
        assert!(load.is_avoided(at(1499)) && !load.is_avoided(at(1500)));
        for _ in 0..40 {
            load.failed(at(1500));
        }
        assert!(load.is_avoided(at(31_499)) && !load.is_avoided(at(31_500)));
        load.succeeded();
        assert!(!load.is_avoided(at(1500)));
    }

    #[test]
    fn a_connection_counts_until_it_ends() {
        let load = Arc::new(Load::default());
        let busy = load.start();
        assert_eq!(load.active(), 1);
        drop(busy);
        assert_eq!(load.active(), 0);
    }
}
