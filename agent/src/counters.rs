//! What the agent counts besides traffic between workloads.

use std::time::SystemTime;

use mesh::model::connection::Direction;
use mesh::model::identity::Identity;
use process::telemetry::refusals::Refusals;
use process::telemetry::registry::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// The counters of the agent.
#[derive(Clone, Default)]
pub(crate) struct Counters {
    /// `workload_manager_active_proxy_count`: workloads that are captured.
    pub(crate) active_proxies: Gauge,
    /// `workload_manager_pending_proxy_count`: workloads that ought to be captured and are not yet.
    pub(crate) pending_proxies: Gauge,
    /// `workload_manager_proxies_started_total`: workloads enrolled since the start.
    pub(crate) proxies_started: Counter,
    /// `workload_manager_proxies_stopped_total`: workloads released since the start.
    pub(crate) proxies_stopped: Counter,
    /// `culvert_config_problems`: objects and files of the configuration that are not in effect as written.
    pub(crate) config_problems: Gauge,
    /// `culvert_tunnels_open`: HBONE connections, each with any number of streams.
    pub(crate) tunnels_open: Gauge,
    /// `culvert_capture_refused_total`: plaintext connections that the kernel refused on the agent's behalf.
    pub(crate) capture_refused: Counter,
    /// `culvert_capture_probe_total`: connections of the kubelet, proven and passed.
    pub(crate) capture_probe: Counter,
    /// `culvert_bypassed_waypoint_total`: connections refused because they did not come through the waypoint.
    pub(crate) bypassed_waypoint: Counter,
    /// `culvert_captures_wanted`: workloads of this node that are to be captured.
    pub(crate) captures_wanted: Gauge,
    /// `culvert_reconcile_age_seconds`: how long ago all workloads of this node were last gone through.
    pub(crate) reconcile_age: Gauge,
    /// `culvert_listeners_lost_total`: listeners of the agent that somebody in a workload's network namespace
    /// destroyed.
    pub(crate) listeners_lost: Counter,
    /// Peers and connections turned away before anything else was known of them.
    pub(crate) refusals: Refusals,
    captures_closed: Family<Reason, Gauge>,
    captures_failed: Family<Reason, Gauge>,
    named_client_refusals: Family<Refused, Counter>,
    config_reload_failures: Family<File, Counter>,
    capture_passed: Family<Way, Counter>,
    certificate_expiration: Family<OfIdentity, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    refused: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct File {
    file: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfIdentity {
    identity: String,
}

impl Counters {
    /// Registers the counters.
    pub(crate) fn new(registry: &Registry) -> Self {
        let all = Self { refusals: Refusals::new(registry), ..Self::default() };
        registry.register(|r| {
            let workloads = r.sub_registry_with_prefix("workload_manager");
            workloads.register("active_proxy_count", "Workloads that are captured", all.active_proxies.clone());
            workloads.register(
                "pending_proxy_count",
                "Workloads that ought to be captured and are not yet",
                all.pending_proxies.clone(),
            );
            workloads.register("proxies_started", "Workloads enrolled since the start", all.proxies_started.clone());
            workloads.register("proxies_stopped", "Workloads released since the start", all.proxies_stopped.clone());
            let own = r.sub_registry_with_prefix("culvert");
            own.register(
                "captures_wanted",
                "Workloads of this node that are to be captured",
                all.captures_wanted.clone(),
            );
            own.register(
                "captures_closed",
                "Workloads that cannot be captured or served, and that no new connection enters or leaves",
                all.captures_closed.clone(),
            );
            own.register(
                "captures_failed",
                "Workloads that cannot be captured, and whose network namespace is not known to be theirs",
                all.captures_failed.clone(),
            );
            own.register(
                "listeners_lost",
                "Listeners of the agent that somebody in a workload's network namespace destroyed",
                all.listeners_lost.clone(),
            );
            own.register(
                "reconcile_age_seconds",
                "How long ago all workloads of this node were last gone through",
                all.reconcile_age.clone(),
            );
            own.register(
                "config_reload_failures",
                "Times that a file could not be read or understood",
                all.config_reload_failures.clone(),
            );
            own.register(
                "config_problems",
                "Objects and files of the configuration that are not in effect as written",
                all.config_problems.clone(),
            );
            own.register("tunnels_open", "HBONE connections open now", all.tunnels_open.clone());
            own.register(
                "capture_passed",
                "Connections that needed no proxy and stayed in the kernel",
                all.capture_passed.clone(),
            );
            own.register("capture_refused", "Plaintext connections refused in the kernel", all.capture_refused.clone());
            own.register(
                "bypassed_waypoint",
                "Connections refused because they did not come through the waypoint of their destination",
                all.bypassed_waypoint.clone(),
            );
            own.register(
                "named_client_refusals",
                "Connections refused whose peer names a client without being a waypoint of the port",
                all.named_client_refusals.clone(),
            );
            own.register("capture_probe", "Connections of the kubelet, proven and passed", all.capture_probe.clone());
            own.register(
                "certificate_expiration_timestamp_seconds",
                "When the certificate of an identity expires, in seconds since 1970",
                all.certificate_expiration.clone(),
            );
        });
        all
    }

    /// How many workloads are closed, and how many failed and open, by reason: one of a fixed set of words each, such
    /// as `address`.
    pub(crate) fn captures_unserved(&self, closed: &[(&'static str, i64)], failed: &[(&'static str, i64)]) {
        for (family, counts) in [(&self.captures_closed, closed), (&self.captures_failed, failed)] {
            family.clear();
            for (reason, count) in counts {
                family.get_or_create(&Reason { reason }).set(*count);
            }
        }
    }

    /// `culvert_named_client_refusals_total{refused}`: a peer named a client without being a waypoint of the port, and
    /// `refused`, `peer` or `client`, is the one of them whom policy refuses.
    pub(crate) fn named_client_refused(&self, refused: &'static str) {
        self.named_client_refusals.get_or_create(&Refused { refused }).inc();
    }

    /// A configuration file could not be read or understood; what it said before stays in effect.
    pub(crate) fn config_reload_failed(&self, file: &str) {
        self.config_reload_failures.get_or_create(&File { file: file.to_owned() }).inc();
    }

    /// A configuration file is gone, and so is what was counted about it.
    pub(crate) fn config_file_gone(&self, file: &str) {
        self.config_reload_failures.remove(&File { file: file.to_owned() });
    }

    /// `culvert_capture_passed_total{direction}`: connections that needed no proxy.
    pub(crate) fn capture_passed(&self, direction: Direction, connections: u64) {
        let direction = match direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        self.capture_passed.get_or_create(&Way { direction }).inc_by(connections);
    }

    /// An identity has a certificate that is valid until `expiry`.
    pub(crate) fn certificate_issued(&self, identity: &Identity, expiry: SystemTime) {
        let seconds = expiry.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let gauge = self.certificate_expiration.get_or_create_owned(&OfIdentity { identity: identity.to_string() });
        gauge.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// An identity has no certificate any more.
    pub(crate) fn certificate_forgotten(&self, identity: &Identity) {
        self.certificate_expiration.remove(&OfIdentity { identity: identity.to_string() });
    }
}
