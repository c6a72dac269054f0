//! The standard request metrics of a waypoint, with Istio's names, labels and order: `reporter="waypoint"`, each
//! request once. A request costs one look-up; series that nobody adds to for ten minutes go away.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mesh::model::identity::Identity;
use mesh::model::service::ServiceKey;
use mesh::model::workload::Workload;
use process::telemetry::family::{Family, LabelSet, Tally};
use process::telemetry::registry::{Registry, Source};
use process::telemetry::sample::{Buckets, Collector, Kind, Labels, LabelsBuilder, Metric, Value};

use super::facts::{Facts, Outcome};
use crate::config::address_of;
use crate::rejection::HttpFlag;
use crate::request::grpc::GrpcCode;

/// Upper bounds of the buckets of duration, in milliseconds (Istio's).
const MILLIS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// Upper bounds of the buckets of sizes, in bytes.
const BYTES: [f64; 19] = MILLIS;
/// Most series; what comes beyond is counted under one label set without workloads.
const MOST: usize = 20_000;

/// The request metrics.
pub struct Requests {
    family: Family<Kept, Counts>,
}

/// A request as its series is found by it.
struct Key<'a>(&'a Facts);

/// What a series was found by.
struct Kept {
    source: Option<Arc<Workload>>,
    destination: Option<Arc<Workload>>,
    /// Only of a source that is no workload: of others it is the workload's own.
    identity: Option<Identity>,
    service: ServiceKey,
    rest: Rest,
}

/// What is compared by value, and costs nothing to copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Rest {
    status: u16,
    flag: HttpFlag,
    grpc: Option<GrpcCode>,
    is_grpc: bool,
    mutual_tls: bool,
    mirror: bool,
}

impl Key<'_> {
    fn identity(&self) -> Option<&Identity> {
        self.0.source.is_none().then_some(&self.0.source_identity)
    }

    fn rest(&self) -> Rest {
        let Facts { outcome: Outcome { status, flag, grpc, .. }, grpc: is_grpc, mutual_tls, mirror, .. } = self.0;
        let (status, flag, grpc) = (*status, *flag, *grpc);
        Rest { status, flag, grpc, is_grpc: *is_grpc, mutual_tls: *mutual_tls, mirror: *mirror }
    }
}

fn address(workload: Option<&Arc<Workload>>) -> Option<*const Workload> {
    workload.map(Arc::as_ptr)
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        address(self.0.source.as_ref()).hash(state);
        address(self.0.destination.as_ref()).hash(state);
        self.identity().hash(state);
        self.0.service.hash(state);
        self.rest().hash(state);
    }
}

impl LabelSet for Key<'_> {
    type Kept = Kept;

    fn keep(&self) -> Kept {
        Kept {
            source: self.0.source.clone(),
            destination: self.0.destination.clone(),
            identity: self.identity().cloned(),
            service: self.0.service.clone(),
            rest: self.rest(),
        }
    }

    fn is(&self, kept: &Kept) -> bool {
        address(self.0.source.as_ref()) == address(kept.source.as_ref())
            && address(self.0.destination.as_ref()) == address(kept.destination.as_ref())
            && self.identity() == kept.identity.as_ref()
            && self.0.service == kept.service
            && self.rest() == kept.rest
    }

    fn render(&self) -> Labels {
        labels(self.0, self.0.source.as_deref(), self.0.destination.as_deref())
    }

    fn render_rest(&self) -> Labels {
        labels(self.0, None, None)
    }
}

struct Counts {
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl Tally for Counts {}

struct Histogram {
    buckets: [AtomicU64; MILLIS.len() + 1],
    // In thousandths.
    sum: AtomicU64,
}

impl Histogram {
    fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; MILLIS.len() + 1], sum: AtomicU64::new(0) }
    }

    fn observe(&self, bounds: &[f64; MILLIS.len()], value: f64) {
        let at = bounds.partition_point(|bound| *bound < value);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1000.0) as u64, Ordering::Relaxed);
    }

    fn counts(&self) -> [u64; MILLIS.len() + 1] {
        std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed))
    }

    fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / 1000.0
    }
}

impl Requests {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Arc<Self> {
        let requests = Arc::new(Self { family: Family::new(MOST) });
        registry.add(Arc::clone(&requests) as Arc<dyn Source>);
        requests
    }

    /// Counts a request that has ended.
    pub fn record(&self, record: &Facts) {
        let took = record.began.elapsed().as_secs_f64() * 1000.0;
        let new =
            || Counts { duration: Histogram::new(), request_bytes: Histogram::new(), response_bytes: Histogram::new() };
        self.family.with(&Key(record), new, |counts| {
            counts.duration.observe(&MILLIS, took);
            counts.request_bytes.observe(&BYTES, record.received() as f64);
            counts.response_bytes.observe(&BYTES, record.sent as f64);
        });
    }
}

fn labels(record: &Facts, source: Option<&Workload>, destination: Option<&Workload>) -> Labels {
    let mut out = LabelsBuilder::default();
    let mut put = |name: &str, value: &str| out.put(name, value);
    put("reporter", "waypoint");
    let principal = record.source_identity.to_string();
    side(&mut put, "source", source, &principal);
    let service = &record.service;
    // A workload that was called by its own address is no service.
    let host = if address_of(service).is_some() { "" } else { &*service.hostname };
    put("destination_service", host);
    put("destination_service_name", host.split('.').next().unwrap_or_default());
    put("destination_service_namespace", &service.namespace);
    let principal = destination.filter(|w| w.is_enrolled()).map(|w| w.identity().to_string());
    side(&mut put, "destination", destination, principal.as_deref().unwrap_or_default());
    put("request_protocol", if record.grpc { "grpc" } else { "http" });
    put("response_code", &record.outcome.status.to_string());
    put("grpc_response_status", &record.outcome.grpc.map(|code| code.0.to_string()).unwrap_or_default());
    put("response_flags", record.outcome.flag.as_str());
    put("connection_security_policy", if record.mutual_tls { "mutual_tls" } else { "none" });
    if record.mirror {
        put("mirror", "true");
    }
    out.build()
}

fn side(put: &mut impl FnMut(&str, &str), which: &str, workload: Option<&Workload>, principal: &str) {
    let field = |value: fn(&Workload) -> &str| workload.map_or("", value);
    for (name, value) in [
        ("workload", field(|w| &w.workload_name)),
        ("workload_namespace", field(|w| &w.namespace)),
        ("principal", principal),
        ("app", field(|w| &w.canonical_name)),
        ("version", field(|w| &w.canonical_revision)),
        ("cluster", field(|w| &w.cluster)),
        ("canonical_service", field(|w| &w.canonical_name)),
        ("canonical_revision", field(|w| &w.canonical_revision)),
    ] {
        put(&format!("{which}_{name}"), value);
    }
}

type Pick = fn(&Counts) -> &Histogram;

const HISTOGRAMS: [(&str, &str, &[f64], Pick); 3] = [
    ("istio_request_duration_milliseconds", "Duration of requests", &MILLIS, |counts| &counts.duration),
    ("istio_request_bytes", "Size of request bodies", &BYTES, |counts| &counts.request_bytes),
    ("istio_response_bytes", "Size of response bodies", &BYTES, |counts| &counts.response_bytes),
];

impl Source for Requests {
    fn collect(&self, now: Instant, to: &mut dyn Collector) {
        self.family.expire(now);
        let all = self.family.series();
        to.metric(&Metric { name: "istio_requests", help: "Requests that have ended", kind: Kind::Counter });
        for (labels, counts) in &all {
            to.sample(labels, Value::Integer(counts.duration.counts().iter().sum()));
        }
        for (name, help, bounds, pick) in HISTOGRAMS {
            to.metric(&Metric { name, help, kind: Kind::Histogram });
            for (labels, counts) in &all {
                let histogram = pick(counts);
                let buckets = Buckets { bounds, counts: &histogram.counts(), sum: histogram.sum() };
                to.sample(labels, Value::Buckets(buckets));
            }
        }
    }
}
