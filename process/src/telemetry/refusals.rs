//! Peers and connections that a program turned away before anything else was known of them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::registry::Registry;

/// Counts what was turned away. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    peers: Family<Reason, Counter>,
    limits: Family<Reason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Refusals {
    /// Registers `culvert_peer_refusals_total{reason}` and `culvert_limit_refusals_total{reason}`.
    pub fn new(registry: &Registry) -> Self {
        let all = Self::default();
        registry.register(|r| {
            let own = r.sub_registry_with_prefix("culvert");
            own.register("peer_refusals", "Peers turned away before they named a workload", all.peers.clone());
            own.register(
                "limit_refusals",
                "Connections refused because a workload or a peer has as many as it may",
                all.limits.clone(),
            );
        });
        all
    }

    /// A peer was turned away: `reason` is one of a fixed set of words, such as `tls_handshake` or `header_too_large`.
    pub fn peer_refused(&self, reason: &'static str) {
        self.peers.get_or_create(&Reason { reason }).inc();
    }

    /// A connection was refused because a workload or a peer has as many as it may: `reason` says of what.
    pub fn limit_refused(&self, reason: &'static str) {
        self.limits.get_or_create(&Reason { reason }).inc();
    }
}
