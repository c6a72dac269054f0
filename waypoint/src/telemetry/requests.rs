//! The standard request metrics of a waypoint, with Istio's names, labels and order: `reporter="waypoint"`, each request
//! once. A request costs one look-up; series that nobody adds to for ten minutes go away.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh::model::service::ServiceKey;
use mesh::model::workload::Workload;
use parking_lot::RwLock;
use process::telemetry::line::write_quoted;
use process::telemetry::registry::{Registry, Source};

use super::facts::Facts;
use crate::config::address_of;

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
/// How long a series stays that nobody adds to.
const IDLE: Duration = Duration::from_secs(600);
/// Most series; what comes beyond is counted under one label set without workloads.
const MOST: usize = 20_000;

/// The request metrics.
pub struct Requests {
    series: RwLock<HashMap<Key, Arc<Series>>>,
    hasher: RandomState,
    began: Instant,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    hash: u64,
    source: usize,
    destination: usize,
    identity: String,
    service: ServiceKey,
    status: u16,
    flag: &'static str,
    grpc: Option<u8>,
    is_grpc: bool,
    mutual_tls: bool,
    mirror: bool,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

struct Series {
    labels: String,
    // Held so that no other workload object comes to lie at the address in the key.
    _source: Option<Arc<Workload>>,
    _destination: Option<Arc<Workload>>,
    count: AtomicU64,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    touched: AtomicU64,
}

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

    fn encode(&self, out: &mut String, name: &str, labels: &str, bounds: &[f64; MILLIS.len()]) {
        let mut total = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            total += bucket.load(Ordering::Relaxed);
            let bound = bounds.get(at).map_or_else(|| "+Inf".to_owned(), |bound| format!("{bound:?}"));
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1000.0;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {total}");
    }
}

impl Requests {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Arc<Self> {
        let requests = Arc::new(Self { series: RwLock::default(), hasher: RandomState::new(), began: Instant::now() });
        registry.add(Arc::clone(&requests) as Arc<dyn Source>);
        requests
    }

    /// Counts a request that has ended.
    pub fn record(&self, record: &Facts) {
        let now = Instant::now();
        let series = self.series(record);
        series.count.fetch_add(1, Ordering::Relaxed);
        series.duration.observe(&MILLIS, now.duration_since(record.began).as_secs_f64() * 1000.0);
        series.request_bytes.observe(&BYTES, record.received() as f64);
        series.response_bytes.observe(&BYTES, record.sent as f64);
        series.touched.store(now.duration_since(self.began).as_secs(), Ordering::Relaxed);
    }

    fn series(&self, record: &Facts) -> Arc<Series> {
        let address = |workload: &Option<Arc<Workload>>| workload.as_ref().map_or(0, |w| Arc::as_ptr(w) as usize);
        let mut key = Key {
            hash: 0,
            source: address(&record.source),
            destination: address(&record.destination),
            identity: if record.source.is_some() { String::new() } else { record.source_identity.to_string() },
            service: record.service.clone(),
            status: record.outcome.status,
            flag: record.outcome.flag,
            grpc: record.outcome.grpc.map(|code| code.0),
            is_grpc: record.grpc,
            mutual_tls: record.mutual_tls,
            mirror: record.mirror,
        };
        let parts =
            (key.source, key.destination, &key.identity, &key.service, key.status, key.flag, key.grpc, key.mirror);
        key.hash = self.hasher.hash_one(parts);
        if let Some(series) = self.series.read().get(&key) {
            return Arc::clone(series);
        }
        let mut all = self.series.write();
        let full = all.len() >= MOST;
        if full {
            (key.source, key.destination, key.identity, key.hash) = (0, 0, String::new(), u64::from(key.status));
        }
        let make = || {
            let (source, destination) =
                if full { (None, None) } else { (record.source.clone(), record.destination.clone()) };
            Arc::new(Series {
                labels: labels(record, source.as_deref(), destination.as_deref()),
                _source: source,
                _destination: destination,
                count: AtomicU64::new(0),
                duration: Histogram::new(),
                request_bytes: Histogram::new(),
                response_bytes: Histogram::new(),
                touched: AtomicU64::new(0),
            })
        };
        Arc::clone(all.entry(key).or_insert_with(make))
    }
}

fn labels(record: &Facts, source: Option<&Workload>, destination: Option<&Workload>) -> String {
    let mut out = String::with_capacity(1024);
    let mut put = |name: &str, value: &str| {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{comma}{name}=");
        write_quoted(&mut out, if value.is_empty() { "unknown" } else { value });
    };
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
    put("response_flags", record.outcome.flag);
    put("connection_security_policy", if record.mutual_tls { "mutual_tls" } else { "none" });
    if record.mirror {
        put("mirror", "true");
    }
    out
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

impl Source for Requests {
    fn encode(&self, out: &mut String, now: Instant) {
        let seconds = now.saturating_duration_since(self.began).as_secs();
        self.series.write().retain(|_, series| {
            Arc::strong_count(series) > 1 || seconds < series.touched.load(Ordering::Relaxed) + IDLE.as_secs()
        });
        let all: Vec<Arc<Series>> = self.series.read().values().cloned().collect();
        let _ = writeln!(out, "# HELP istio_requests Requests that have ended.\n# TYPE istio_requests counter");
        for series in &all {
            let _ = writeln!(out, "istio_requests_total{{{}}} {}", series.labels, series.count.load(Ordering::Relaxed));
        }
        type Pick = fn(&Series) -> &Histogram;
        let histograms: [(&str, &str, &[f64; MILLIS.len()], Pick); 3] = [
            ("istio_request_duration_milliseconds", "Duration of requests.", &MILLIS, |series| &series.duration),
            ("istio_request_bytes", "Size of request bodies.", &BYTES, |series| &series.request_bytes),
            ("istio_response_bytes", "Size of response bodies.", &BYTES, |series| &series.response_bytes),
        ];
        for (name, help, bounds, pick) in histograms {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
            for series in &all {
                pick(series).encode(out, name, &series.labels, bounds);
            }
        }
    }
}
