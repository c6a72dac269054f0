//! One line per finished connection. Field names, order and messages are ztunnel's: tools parse them, people grep them.
//!
//! Text: `time<TAB>level<TAB>access<TAB>message<TAB>key=value …` (Kiali splits at tabs and takes the fifth part). JSON:
//! the same keys. What is not known is left out. `src.via` is ours: the waypoint that spoke for the source. Lines are
//! formatted on the connection's thread into a buffer that is used again, and written by [`LogWriter`], which drops and
//! counts them when stdout is read too slowly.
//!
//! Levels are those of the log target `access` (`RUST_LOG=info,access=warn`): `connection complete` is info, or error
//! with `error=`; `connection opened` is debug; `connection failed`, for what failed before anything was known, is
//! warn.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::Level;

use super::labels::ConnectionLabels;
use super::line::{Format, level_name, write_address, write_number, write_quoted, write_text, write_time};
use super::writer::{Kind, LogWriter};
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

/// The access log. Clones write to the same place.
#[derive(Clone)]
pub struct AccessLog {
    writer: LogWriter,
    format: Format,
}

impl AccessLog {
    /// An access log in `format`.
    pub fn new(writer: LogWriter, format: Format) -> Self {
        Self { writer, format }
    }

    /// A connection has begun to carry bytes.
    pub fn opened(&self, record: &AccessRecord) {
        if tracing::enabled!(target: "access", Level::DEBUG) {
            self.write(|out, now| write_record(out, self.format, now, record, None));
        }
    }

    /// A connection has ended. To be called exactly once for each.
    pub fn finished(&self, record: &AccessRecord, outcome: &Outcome) {
        let wanted = match outcome {
            Outcome::Complete => tracing::enabled!(target: "access", Level::INFO),
            Outcome::Failed(_) => tracing::enabled!(target: "access", Level::ERROR),
        };
        if wanted {
            self.write(|out, now| write_record(out, self.format, now, record, Some(outcome)));
        }
    }

    /// A connection was refused before its workload was known.
    pub fn failed_early(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        direction: Direction,
        error: impl fmt::Display,
    ) {
        if tracing::enabled!(target: "access", Level::WARN) {
            self.write(|out, now| {
                let mut line = Line::new(out, self.format, now, Level::WARN, "connection failed");
                line.address("src.addr", source);
                line.address("dst.addr", destination);
                line.text("direction", word(direction));
                line.quoted("error", &error);
                line.end();
            });
        }
    }

    fn write(&self, format: impl FnOnce(&mut String, SystemTime)) {
        thread_local!(static BUFFER: RefCell<String> = const { RefCell::new(String::new()) });
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            format(buffer, SystemTime::now());
            self.writer.push(buffer.as_bytes(), Kind::Access);
            buffer.shrink_to(4096);
        });
    }
}

/// Pure. Appends the line of `record`. Without an outcome the connection has just opened.
fn write_record(out: &mut String, format: Format, now: SystemTime, record: &AccessRecord, outcome: Option<&Outcome>) {
    let (level, message) = match outcome {
        None => (Level::DEBUG, "connection opened"),
        Some(Outcome::Complete) => (Level::INFO, "connection complete"),
        Some(Outcome::Failed(_)) => (Level::ERROR, "connection complete"),
    };
    let labels = &record.labels;
    let (source, destination) = (labels.source.as_deref(), labels.destination.as_deref());
    let mut line = Line::new(out, format, now, level, message);
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
    line.end();
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

struct Line<'a> {
    out: &'a mut String,
    format: Format,
    first: bool,
}

impl<'a> Line<'a> {
    fn new(out: &'a mut String, format: Format, now: SystemTime, level: Level, message: &str) -> Self {
        let level = level_name(level);
        match format {
            Format::Text => {
                write_time(out, now);
                for part in [level, "access", message] {
                    out.push('\t');
                    out.push_str(part);
                }
            }
            Format::Json => {
                out.push_str("{\"level\":\"");
                out.push_str(level);
                out.push_str("\",\"time\":\"");
                write_time(out, now);
                out.push_str("\",\"scope\":\"access\",\"message\":\"");
                out.push_str(message);
                out.push('"');
            }
        }
        Self { out, format, first: true }
    }

    /// A value that is quoted in JSON only: addresses.
    fn bare(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        match self.format {
            Format::Text => {
                let _ = write!(self.out, "{value}");
            }
            Format::Json => write_quoted(self.out, value),
        }
    }

    fn address(&mut self, key: &str, value: SocketAddr) {
        self.key(key);
        let quote = if self.format == Format::Json { "\"" } else { "" };
        self.out.push_str(quote);
        write_address(self.out, value);
        self.out.push_str(quote);
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        write_number(self.out, value);
    }

    fn milliseconds(&mut self, key: &str, value: Duration) {
        self.key(key);
        self.out.push('"');
        write_number(self.out, u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
        self.out.push_str("ms\"");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        write_text(self.out, value);
    }

    fn quoted(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        write_quoted(self.out, value);
    }

    fn maybe(&mut self, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.quoted(key, value);
        }
    }

    fn known(&mut self, key: &str, value: Option<&str>) {
        if let Some(text) = value.filter(|text| !text.is_empty()) {
            self.text(key, text);
        }
    }

    fn key(&mut self, key: &str) {
        match (self.format, self.first) {
            (Format::Text, first) => {
                self.out.push(if first { '\t' } else { ' ' });
                self.out.push_str(key);
                self.out.push('=');
            }
            (Format::Json, _) => {
                self.out.push_str(",\"");
                self.out.push_str(key);
                self.out.push_str("\":");
            }
        }
        self.first = false;
    }

    fn end(self) {
        if self.format == Format::Json {
            self.out.push('}');
        }
        self.out.push('\n');
    }
}

#[cfg(test)]
mod tests {

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
        write_record(&mut out, format, now, record, outcome);
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
