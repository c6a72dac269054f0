//! The standard TCP metrics: who talks to whom, how often and how much.
//!
//! Names, labels and their order are ztunnel's, so that Kiali and Grafana work unchanged; unlike there, series go away
//! again. What a connection costs here: one lookup when it opens, two atomic additions per batch of bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::family::{Family, LabelSet, Series, Tally};
use super::labels::{ConnectionLabels, reporter};
use super::registry::{Registry, Source};
use super::sample::{Collector, Kind, Labels, LabelsBuilder, Metric, Value};
use mesh::model::connection::{Direction, ResponseFlag};
use transport::net::copy::Count;

/// The standard TCP metrics of this process.
pub struct Traffic {
    family: Family<(ConnectionLabels, ResponseFlag), Counts>,
}

struct Counts {
    direction: Direction,
    opened: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    /// Bytes of the response, whichever side reports (istio/istio#32399).
    sent: AtomicU64,
    /// Bytes of the request.
    received: AtomicU64,
}

/// What a series is found by.
#[derive(Hash)]
struct Key<'a>(&'a ConnectionLabels, ResponseFlag);

impl LabelSet for Key<'_> {
    type Kept = (ConnectionLabels, ResponseFlag);

    fn keep(&self) -> Self::Kept {
        (self.0.clone(), self.1)
    }

    fn is(&self, (labels, flag): &Self::Kept) -> bool {
        self.1 == *flag && self.0 == labels
    }

    fn render(&self) -> Labels {
        self.0.render(self.1)
    }
}

impl Traffic {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Arc<Self> {
        let traffic = Arc::new(Self { family: Family::new(usize::MAX) });
        registry.add(Arc::clone(&traffic) as Arc<dyn Source>);
        traffic
    }

    /// Counts a connection as opened, and as closed when the meter is dropped.
    pub fn open(&self, labels: &ConnectionLabels) -> ConnectionMeter {
        let series = self.count(labels, ResponseFlag::None, |counts| &counts.opened);
        ConnectionMeter { series, sent: AtomicU64::new(0), received: AtomicU64::new(0) }
    }

    /// Counts a connection that could not be made or was refused, and why.
    pub fn failed(&self, labels: &ConnectionLabels, flag: ResponseFlag) {
        self.count(labels, flag, |counts| &counts.failed);
    }

    fn count(
        &self,
        labels: &ConnectionLabels,
        flag: ResponseFlag,
        counter: fn(&Counts) -> &AtomicU64,
    ) -> Arc<Series<Counts>> {
        let new = || Counts::new(labels.direction);
        self.family.with(&Key(labels, flag), new, |counts| _ = counter(counts).fetch_add(1, Relaxed))
    }
}

impl Counts {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    fn open(&self) -> u64 {
        // `closed` first: in the other order a connection that opens and closes in between would look open for ever.
        let closed = self.closed.load(Relaxed);
        self.opened.load(Relaxed).saturating_sub(closed)
    }

    fn was_opened(&self) -> bool {
        self.opened.load(Relaxed) > 0
    }

    /// Where bytes count that go `way`, seen from the workload.
    fn request_or_response(&self, way: Direction) -> &AtomicU64 {
        if way == self.direction { &self.received } else { &self.sent }
    }
}

impl Tally for Counts {
    fn is_open(&self) -> bool {
        self.open() > 0
    }
}

/// Counts one connection: opened when made, closed when dropped, bytes in between.
///
/// The words are those of the workload on our side: it sent, it received. The metrics turn them so that for both
/// reporters "received" is the request and "sent" the response; the access log does not.
pub struct ConnectionMeter {
    series: Arc<Series<Counts>>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl ConnectionMeter {
    /// The workload on our side has sent `bytes` more.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
        self.series.request_or_response(Direction::Outbound).fetch_add(bytes, Relaxed);
    }

    /// The workload on our side has received `bytes` more.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
        self.series.request_or_response(Direction::Inbound).fetch_add(bytes, Relaxed);
    }

    /// Bytes that the workload on our side has sent.
    pub fn bytes_sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Bytes that the workload on our side has received.
    pub fn bytes_received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

/// The first end of a copy is the workload: what is sent from there is what the workload sends.
impl Count for ConnectionMeter {
    fn sent(&self, bytes: u64) {
        self.sent(bytes);
    }

    fn received(&self, bytes: u64) {
        self.received(bytes);
    }

    fn sum(&self) -> u64 {
        self.bytes_sent().wrapping_add(self.bytes_received())
    }
}

impl Drop for ConnectionMeter {
    fn drop(&mut self) {
        self.series.touch();
        self.series.closed.fetch_add(1, Relaxed);
    }
}

/// One metric: name without `_total`, help text, which counter, and whether a series shows it.
type Shown = (&'static str, &'static str, fn(&Counts) -> &AtomicU64, fn(&Counts) -> bool);

const METRICS: [Shown; 5] = [
    ("istio_tcp_connections_opened", "The total number of TCP connections opened", |c| &c.opened, Counts::was_opened),
    ("istio_tcp_connections_closed", "The total number of TCP connections closed", |c| &c.closed, Counts::was_opened),
    ("istio_tcp_sent_bytes", "Bytes of responses on TCP connections", |c| &c.sent, Counts::was_opened),
    ("istio_tcp_received_bytes", "Bytes of requests on TCP connections", |c| &c.received, Counts::was_opened),
    (
        "istio_tcp_connections_failed",
        "TCP connections that were refused or could not be made, by response_flags",
        |c| &c.failed,
        |c| c.failed.load(Relaxed) > 0,
    ),
];

impl Source for Traffic {
    fn collect(&self, now: Instant, to: &mut dyn Collector) {
        self.family.expire(now);
        let all = self.family.series();
        for (name, help, counter, shows) in METRICS {
            to.metric(&Metric { name, help, kind: Kind::Counter });
            for (labels, counts) in all.iter().filter(|(_, counts)| shows(counts)) {
                to.sample(labels, Value::Integer(counter(counts).load(Relaxed)));
            }
        }
        to.metric(&Metric { name: "istio_tcp_sockets_open", help: "Connections open now", kind: Kind::Gauge });
        for direction in [Direction::Outbound, Direction::Inbound] {
            let of_direction = all.iter().map(|(_, counts)| counts).filter(|counts| counts.direction == direction);
            let mut labels = LabelsBuilder::default();
            labels.put("reporter", reporter(direction));
            to.sample(&labels.build(), Value::Integer(of_direction.map(|counts| counts.open()).sum()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::openmetrics::OpenMetrics;
    use mesh::model::identity::Identity;
    use mesh::model::workload::Workload;

    fn traffic() -> (Arc<Registry>, Arc<Traffic>) {
        let registry = Registry::new("test", "0");
        let traffic = Traffic::new(&registry);
        (registry, traffic)
    }

    fn between(direction: Direction, source: &Arc<Workload>, destination: &Arc<Workload>) -> ConnectionLabels {
        ConnectionLabels {
            source: Some(Arc::clone(source)),
            destination: Some(Arc::clone(destination)),
            source_identity: Some(source.identity()),
            destination_identity: Some(destination.identity()),
            mutual_tls: true,
            ..ConnectionLabels::new(direction)
        }
    }

    fn pod(name: &str) -> Arc<Workload> {
        Arc::new(Workload::sample(name, "default", &[]))
    }

    /// `metric value` of every sample, without labels.
    fn samples(text: &str) -> Vec<String> {
        let samples = text.lines().filter(|line| line.starts_with("istio_tcp"));
        samples
            .map(|line| format!("{}{}", &line[..line.find('{').unwrap()], &line[line.rfind('}').unwrap() + 1..]))
            .collect()
    }

    fn text(traffic: &Traffic, now: Instant) -> String {
        let mut out = String::new();
        traffic.collect(now, &mut OpenMetrics::new(&mut out));
        out
    }

    #[test]
    fn received_is_the_request_for_both_reporters() {
        for direction in [Direction::Outbound, Direction::Inbound] {
            let (_registry, traffic) = traffic();
            let meter = traffic.open(&between(direction, &pod("client"), &pod("shop")));
            let (request, response) = (100, 7);
            match direction {
                Direction::Outbound => (meter.sent(request), meter.received(response)),
                Direction::Inbound => (meter.received(request), meter.sent(response)),
            };
            let text = text(&traffic, Instant::now());
            assert!(samples(&text).contains(&"istio_tcp_received_bytes_total 100".to_owned()), "{direction:?} {text}");
            assert!(samples(&text).contains(&"istio_tcp_sent_bytes_total 7".to_owned()), "{direction:?} {text}");
        }
    }

    #[test]
    fn the_meter_keeps_the_words_of_the_workload() {
        let (_registry, traffic) = traffic();
        let meter = traffic.open(&ConnectionLabels::new(Direction::Inbound));
        meter.sent(3);
        meter.received(4);
        assert_eq!((meter.bytes_sent(), meter.bytes_received()), (3, 4));
    }

    #[test]
    fn a_connection_is_open_until_its_meter_is_dropped() {
        let (_registry, traffic) = traffic();
        let meter = traffic.open(&ConnectionLabels::new(Direction::Inbound));
        let open = text(&traffic, Instant::now());
        assert!(open.contains("istio_tcp_sockets_open{reporter=\"destination\"} 1\n"), "{open}");
        assert!(open.contains("istio_tcp_sockets_open{reporter=\"source\"} 0\n"), "{open}");
        drop(meter);
        let closed = text(&traffic, Instant::now());
        assert!(closed.contains("istio_tcp_sockets_open{reporter=\"destination\"} 0\n"), "{closed}");
        assert!(samples(&closed).contains(&"istio_tcp_connections_closed_total 1".to_owned()), "{closed}");
    }

    #[test]
    fn a_refusal_counts_as_failed_and_not_as_opened() {
        let (_registry, traffic) = traffic();
        let labels = ConnectionLabels::new(Direction::Inbound);
        traffic.failed(&labels, ResponseFlag::Deny);
        traffic.failed(&labels, ResponseFlag::Deny);
        let text = text(&traffic, Instant::now());
        assert!(text.contains("istio_tcp_connections_failed_total{reporter=\"destination\""), "{text}");
        assert!(text.contains("response_flags=\"DENY\""), "{text}");
        assert_eq!(samples(&text)[0], "istio_tcp_connections_failed_total 2");
    }

    #[test]
    fn equal_labels_are_one_series_whichever_objects_they_come_from() {
        let (_registry, traffic) = traffic();
        let (client, shop) = (pod("client"), pod("shop"));
        let _a = traffic.open(&between(Direction::Outbound, &client, &shop));
        let _b = traffic.open(&between(Direction::Outbound, &client, &shop));
        let _c = traffic.open(&between(Direction::Outbound, &pod("client"), &shop));
        let text = text(&traffic, Instant::now());
        assert_eq!(samples(&text)[0], "istio_tcp_connections_opened_total 3");
    }

    #[test]
    fn what_differs_in_one_label_is_another_series() {
        let (_registry, traffic) = traffic();
        let labels = between(Direction::Outbound, &pod("client"), &pod("shop"));
        let _a = traffic.open(&labels);
        let _b = traffic.open(&ConnectionLabels { mutual_tls: false, ..labels.clone() });
        let _c = traffic.open(&ConnectionLabels { source_identity: None, ..labels.clone() });
        let other = Identity::new("other.domain", "default", "default");
        let _d = traffic.open(&ConnectionLabels { destination_identity: Some(other), ..labels });
        assert_eq!(traffic.family.series().len(), 4);
    }

    #[test]
    fn a_series_goes_when_it_was_idle_for_long_and_never_while_a_connection_is_open() {
        let (_registry, traffic) = traffic();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let open = traffic.open(&between(Direction::Outbound, &pod("client"), &pod("shop")));
        drop(traffic.open(&between(Direction::Outbound, &pod("client"), &pod("cart"))));

        traffic.family.expire(after(1));
        traffic.family.expire(after(600));
        assert_eq!(traffic.family.series().len(), 2);
        traffic.family.expire(after(602));
        assert_eq!(traffic.family.series().len(), 1, "idle since the first sweep saw it closed");
        traffic.family.expire(after(100_000));
        assert_eq!(traffic.family.series().len(), 1, "it is still open");

        drop(open);
        traffic.family.expire(after(100_100));
        traffic.family.expire(after(100_699));
        assert_eq!(traffic.family.series().len(), 1);
        traffic.family.expire(after(100_700));
        assert_eq!(traffic.family.series().len(), 0);
    }

    #[test]
    fn a_used_series_stays() {
        let (_registry, traffic) = traffic();
        let labels = between(Direction::Outbound, &pod("client"), &pod("shop"));
        let start = Instant::now();
        for minute in 0..60 {
            drop(traffic.open(&labels));
            traffic.family.expire(start + Duration::from_secs(minute * 300));
        }
        assert_eq!(
            samples(&text(&traffic, start + Duration::from_secs(59 * 300)))[0],
            "istio_tcp_connections_opened_total 60"
        );
    }

    #[test]
    fn outdated_workloads_are_not_kept_alive() {
        let (_registry, traffic) = traffic();
        let client = pod("client");
        let meter = traffic.open(&between(Direction::Outbound, &client, &pod("shop")));
        traffic.family.expire(Instant::now());
        assert_eq!(Arc::strong_count(&client), 1);
        drop(meter);
    }

    #[test]
    fn counting_from_many_threads_loses_nothing() {
        let (_registry, traffic) = traffic();
        let labels = between(Direction::Outbound, &pod("client"), &pod("shop"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..1000 {
                        traffic.open(&labels).sent(1);
                        if n % 100 == 0 {
                            traffic.family.expire(Instant::now());
                        }
                    }
                });
            }
        });
        let text = text(&traffic, Instant::now());
        assert_eq!(
            samples(&text)[..4],
            [
                "istio_tcp_connections_opened_total 4000",
                "istio_tcp_connections_closed_total 4000",
                "istio_tcp_sent_bytes_total 0",
                "istio_tcp_received_bytes_total 4000",
            ]
        );
    }
}
