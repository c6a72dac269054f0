//! Pure. Which endpoints may be given traffic by their health, as kube-proxy decides it (KEP-1669).

use crate::model::service::LoadBalancing;
use crate::model::workload::Health;

/// Who may be given traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Everyone: the service publishes what is not ready.
    All,
    /// Those that are ready.
    Ready,
    /// Nobody is ready: those that are being deleted and still serve.
    Terminating,
}

impl Admitted {
    /// Who may be given traffic among endpoints of such health: those of the service that have the port and are within reach
    /// (`internalTrafficPolicy: Local` leaves out all others first, ready or not).
    pub fn among(healths: impl IntoIterator<Item = Health>, balancing: &LoadBalancing) -> Self {
        if balancing.allow_unhealthy {
            Self::All
        } else if healths.into_iter().any(|health| health == Health::Healthy) {
            Self::Ready
        } else {
            Self::Terminating
        }
    }

    /// Whether an endpoint of this health is among them.
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
