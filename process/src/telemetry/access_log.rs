//! One line per finished connection. Field names, order and messages are ztunnel's: tools parse them, people grep them.
//!
//! Text: `time<TAB>level<TAB>access<TAB>message<TAB>key=value …` (Kiali splits at tabs and takes the fifth part).
//! JSON: the same keys. What is not known is left out. `src.via` is ours: the waypoint that spoke for the source.
//!
//! Levels are those of the log target `access` (`RUST_LOG=info,access=warn`): `connection complete` is info, or error
//! with `error=`; `connection opened` is debug; `connection failed`, for what failed before anything was known, is
//! warn.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use super::access_line::AccessLines;
use super::labels::ConnectionLabels;
use super::line::{Format, Line};
use super::writer::LogWriter;
use mesh::model::connection::Direction;
use mesh::model::workload::Workload;

/// The record of one connection for its access log line. Filled while the connection is open.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// Source and destination.
    pub labels: Arc<ConnectionLabels>,
    /// Address of the caller.
    pub source: SocketAddr,
    /// Address of the peer of our own TCP connection: the one that we dialed, or that was accepted.
    pub destination: SocketAddr,
    /// Destination inside the tunnel (`:authority` of the CONNECT), if there was a tunnel.
    pub hbone: Option<HboneAddress>,
    /// Bytes that the workload on our side has sent.
    pub bytes_sent: u64,
    /// Bytes that the workload on our side has received.
    pub bytes_received: u64,
    /// Time from accept to end.
    pub duration: Duration,
}

/// The authority of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HboneAddress {
    /// An address and port.
    Address(SocketAddr),
    /// A host name and port, as in `shop.default.svc.cluster.local:80`.
    Name(Box<str>),
}

impl fmt::Display for HboneAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            // Comes from the network and may hold anything: what would end a field is escaped.
            Self::Name(name) => {
                name.chars().filter(|c| c.is_ascii_graphic() && *c != '"').try_for_each(|c| f.write_char(c))
            }
        }
    }
}

impl From<SocketAddr> for HboneAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides have closed it.
    Complete,
    /// It was cut or refused; the text is the `error=` of its line. [`reason`] has the fixed wordings.
    Failed(String),
}

/// Wordings that users search for: ztunnel's.
pub mod reason {
    use std::fmt::Display;

    use mesh::model::waypoint::HBONE_PORT;

    /// A policy that came while it was open forbids it.
    pub const POLICY_CHANGE: &str = "connection closed due to policy change";
    /// It was still open at the end of a drain.
    pub const DRAIN: &str = "connection closed due to connection drain";

    /// Refused by policy; `refusal` is a `policy::Refusal`, which names it.
    pub fn rejected(refusal: impl Display) -> String {
        format!("connection closed due to policy rejection: {refusal}")
    }

    /// No answer on the HBONE port.
    pub fn hbone_timeout(error: impl Display) -> String {
        format!("connection timed out, maybe a NetworkPolicy is blocking HBONE port {HBONE_PORT}: {error}")
    }
}

/// The access log of connections. Clones write to the same place.
#[derive(Clone)]
pub struct AccessLog(AccessLines);

impl AccessLog {
    /// An access log in `format`.
    pub fn new(writer: LogWriter, format: Format) -> Self {
        Self(AccessLines::new(writer, format))
    }

    /// A connection has begun to carry bytes.
    pub fn opened(&self, record: &AccessRecord) {
        self.write(record, None);
    }

    /// A connection has ended. To be called exactly once for each.
    pub fn finished(&self, record: &AccessRecord, outcome: &Outcome) {
        self.write(record, Some(outcome));
    }

    /// A connection was refused before its workload was known.
    pub fn failed_early(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        direction: Direction,
        error: impl fmt::Display,
    ) {
        self.0.write(Level::WARN, "connection failed", |line| {
            line.address("src.addr", source);
            line.address("dst.addr", destination);
            line.text("direction", word(direction));
            line.quoted("error", &error);
        });
    }

    fn write(&self, record: &AccessRecord, outcome: Option<&Outcome>) {
        let (level, message) = heading(outcome);
        self.0.write(level, message, |line| fields(line, record, outcome));
    }
}

/// Level and message; without an outcome those of a connection that has just opened.
fn heading(outcome: Option<&Outcome>) -> (Level, &'static str) {
    match outcome {
        None => (Level::DEBUG, "connection opened"),
        Some(Outcome::Complete) => (Level::INFO, "connection complete"),
        Some(Outcome::Failed(_)) => (Level::ERROR, "connection complete"),
    }
}

/// The fields of `record`, in ztunnel's order.
fn fields(line: &mut Line<'_>, record: &AccessRecord, outcome: Option<&Outcome>) {
    let labels = &record.labels;
    let (source, destination) = (labels.source.as_deref(), labels.destination.as_deref());
    line.address("src.addr", record.source);
    line.known("src.workload", source.map(pod));
    line.known("src.namespace", source.map(|w| &*w.namespace));
    line.maybe("src.identity", labels.source_identity.as_ref());
    line.known("src.cluster", source.map(|w| &*w.cluster));
    line.maybe("src.via", labels.via.as_ref());
    line.address("dst.addr", record.destination);
    if let Some(hbone) = &record.hbone {
        match hbone {
            HboneAddress::Address(address) => line.address("dst.hbone_addr", *address),
            HboneAddress::Name(_) => line.bare("dst.hbone_addr", hbone),
        }
    }
    line.known("dst.service", labels.service.as_ref().map(|s| &*s.hostname));
    line.known("dst.workload", destination.map(pod));
    line.known("dst.namespace", destination.map(|w| &*w.namespace));
    line.maybe("dst.identity", labels.destination_identity.as_ref());
    line.known("dst.cluster", destination.map(|w| &*w.cluster));
    line.text("direction", word(labels.direction));
    if let Some(outcome) = outcome {
        line.number("bytes_sent", record.bytes_sent);
        line.number("bytes_recv", record.bytes_received);
        line.milliseconds("duration", record.duration);
        if let Outcome::Failed(error) = outcome {
            line.text("error", error);
        }
    }
}

fn pod(workload: &Workload) -> &str {
    if workload.name.is_empty() { &workload.canonical_name } else { &workload.name }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use mesh::model::service::ServiceKey;

    fn record() -> AccessRecord {
        let client = Arc::new(Workload::sample("client-7d4", "default", &[]));
        let shop = Arc::new(Workload::sample("shop-1", "prod", &[]));
        AccessRecord {
            labels: Arc::new(ConnectionLabels {
                source_identity: Some(client.identity()),
                destination_identity: Some(shop.identity()),
                source: Some(client),
                destination: Some(shop),
                service: Some(ServiceKey { namespace: "prod".into(), hostname: "shop.prod.svc.cluster.local".into() }),
                mutual_tls: true,
                ..ConnectionLabels::new(Direction::Outbound)
            }),
            source: "10.0.0.1:40000".parse().unwrap(),
            destination: "10.0.0.2:15008".parse().unwrap(),
            hbone: Some(HboneAddress::Address("10.0.0.2:8080".parse().unwrap())),
            bytes_sent: 175,
            bytes_received: 80,
            duration: Duration::from_micros(12_900),
        }
    }

    fn line(format: Format, record: &AccessRecord, outcome: Option<&Outcome>) -> String {
        let mut out = String::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_352_400);
        let (level, message) = heading(outcome);
        let mut line = Line::new(&mut out, format, now, level, "access", message);
        fields(&mut line, record, outcome);
        line.end();
        out
    }

    const FIELDS: &str = "src.addr=10.0.0.1:40000 src.workload=\"client-7d4\" src.namespace=\"default\" \
        src.identity=\"spiffe://cluster.local/ns/default/sa/default\" src.cluster=\"Kubernetes\" dst.addr=10.0.0.2:15008 \
        dst.hbone_addr=10.0.0.2:8080 dst.service=\"shop.prod.svc.cluster.local\" dst.workload=\"shop-1\" \
        dst.namespace=\"prod\" dst.identity=\"spiffe://cluster.local/ns/prod/sa/default\" dst.cluster=\"Kubernetes\" \
        direction=\"outbound\"";

    #[test]
    fn a_complete_connection_is_an_info_line() {
        assert_eq!(
            line(Format::Text, &record(), Some(&Outcome::Complete)),
            format!(
                "2026-11-22T13:00:00.000000Z\tinfo\taccess\tconnection complete\t{FIELDS} \
                 bytes_sent=175 bytes_recv=80 duration=\"12ms\"\n"
            )
        );
    }

    #[test]
    fn a_refusal_is_an_error_line_that_names_the_policy() {
        let refused = reason::rejected("explicitly denied by: prod/no-clients");
        let line = line(Format::Text, &record(), Some(&Outcome::Failed(refused)));
        assert!(
            line.starts_with("2026-11-22T13:00:00.000000Z\terror\taccess\tconnection complete\tsrc.addr="),
            "{line}"
        );
        assert!(
            line.ends_with(
                "duration=\"12ms\" error=\"connection closed due to policy rejection: explicitly denied by: prod/no-clients\"\n"
            ),
            "{line}"
        );
    }

    #[test]
    fn an_opened_connection_is_a_debug_line_without_counts() {
        assert_eq!(
            line(Format::Text, &record(), None),
            format!("2026-11-22T13:00:00.000000Z\tdebug\taccess\tconnection opened\t{FIELDS}\n")
        );
    }

    #[test]
    fn json_has_the_same_keys_in_the_same_order() {
        let failed = Outcome::Failed("no healthy upstream: \"shop\"".into());
        let json = line(Format::Json, &record(), Some(&failed));
        assert_eq!(
            json,
            concat!(
                r#"{"level":"error","time":"2026-11-22T13:00:00.000000Z","scope":"access","message":"connection complete","#,
                r#""src.addr":"10.0.0.1:40000","src.workload":"client-7d4","src.namespace":"default","#,
                r#""src.identity":"spiffe://cluster.local/ns/default/sa/default","src.cluster":"Kubernetes","#,
                r#""dst.addr":"10.0.0.2:15008","dst.hbone_addr":"10.0.0.2:8080","dst.service":"shop.prod.svc.cluster.local","#,
                r#""dst.workload":"shop-1","dst.namespace":"prod","dst.identity":"spiffe://cluster.local/ns/prod/sa/default","#,
                r#""dst.cluster":"Kubernetes","direction":"outbound","bytes_sent":175,"bytes_recv":80,"duration":"12ms","#,
                r#""error":"no healthy upstream: \"shop\""}"#,
                "\n"
            )
        );
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let record =
            AccessRecord { labels: Arc::new(ConnectionLabels::new(Direction::Inbound)), hbone: None, ..record() };
        assert_eq!(
            line(Format::Text, &record, Some(&Outcome::Complete)),
            "2026-11-22T13:00:00.000000Z\tinfo\taccess\tconnection complete\tsrc.addr=10.0.0.1:40000 \
             dst.addr=10.0.0.2:15008 direction=\"inbound\" bytes_sent=175 bytes_recv=80 duration=\"12ms\"\n"
        );
    }

    #[test]
    fn a_name_from_the_wire_cannot_forge_a_field() {
        let hbone = Some(HboneAddress::Name("a b=\"c\"\t\n:80".into()));
        let line = line(Format::Text, &AccessRecord { hbone, ..record() }, Some(&Outcome::Complete));
        assert!(line.contains(" dst.hbone_addr=ab=c:80 dst.service="), "{line}");
    }

    #[test]
    fn lines_reach_the_writer_at_the_level_of_the_target_access() {
        let (sender, written) = std::sync::mpsc::channel();
        let writer = LogWriter::to(Sink(sender)).unwrap();
        let log = AccessLog::new(writer.clone(), Format::Text);
        let subscriber = tracing_subscriber::fmt().with_env_filter("off,access=info").finish();
        tracing::subscriber::with_default(subscriber, || {
            log.opened(&record());
            log.finished(&record(), &Outcome::Complete);
            log.failed_early(record().source, record().destination, Direction::Inbound, "bad\tclient");
        });
        assert!(writer.flush(Duration::from_secs(10)));
        let text = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once('\t').unwrap().1).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("info\taccess\tconnection complete\t"), "{text}");
        assert_eq!(
            lines[1],
            "warn\taccess\tconnection failed\tsrc.addr=10.0.0.1:40000 dst.addr=10.0.0.2:15008 \
             direction=\"inbound\" error=\"bad\\tclient\""
        );
    }

    struct Sink(std::sync::mpsc::Sender<Vec<u8>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
