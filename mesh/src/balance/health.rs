//! Pure. Which endpoints get traffic by their readiness, as in kube-proxy (KEP-1669).

use crate::model::service::LoadBalancing;
use crate::model::workload::Health;

/// The endpoints that get traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// All: the service publishes endpoints that are not ready.
    All,
    /// The ready ones.
    Ready,
    /// None is ready: those that are terminating and still serve.
    Terminating,
}

impl Admitted {
    /// The endpoints that get traffic among those with these states: the endpoints of the service that have the port
    /// and are within reach (`internalTrafficPolicy: Local` leaves out all others first, ready or not).
    pub fn among(healths: impl IntoIterator<Item = Health>, balancing: &LoadBalancing) -> Self {
        if balancing.allow_unhealthy {
            Self::All
        } else if healths.into_iter().any(|health| health == Health::Healthy) {
            Self::Ready
        } else {
            Self::Terminating
        }
    }

    /// Whether an endpoint in this state gets traffic.
    pub fn admits(self, health: Health) -> bool {
        match self {
            Self::All => true,
            Self::Ready => health == Health::Healthy,
            Self::Terminating => health == Health::Terminating,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Health::{Healthy, Terminating, Unhealthy};
    use super::*;

    #[test]
    fn those_that_end_serve_only_where_nobody_is_ready() {
        for (healths, wanted) in [
            (&[Healthy, Terminating, Unhealthy][..], &[Healthy][..]),
            (&[Terminating, Unhealthy], &[Terminating]),
            (&[Unhealthy], &[]),
            (&[], &[]),
        ] {
            let admitted = Admitted::among(healths.iter().copied(), &LoadBalancing::default());
            let got: Vec<Health> = healths.iter().copied().filter(|health| admitted.admits(*health)).collect();
            assert_eq!(got, wanted, "{healths:?}");
        }
        let all = LoadBalancing { allow_unhealthy: true, ..LoadBalancing::default() };
        let admitted = Admitted::among([Healthy], &all);
        assert!([Healthy, Terminating, Unhealthy].into_iter().all(|health| admitted.admits(health)));
    }
}
