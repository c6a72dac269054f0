//! The document that lists metrics and fields of the access log says what the code says.

#[path = "../../xtask/src/tables.rs"]
#[allow(dead_code, reason = "each crate uses some of it")]
mod tables;

use std::time::{Duration, Instant, SystemTime};

use mesh::model::connection::Direction;
use mesh::model::identity::Identity;

use self::tables::{Row, differences, families, log_fields, quoted, rows};
use crate::telemetry::counters::{self, Counters};
use crate::telemetry::registry::Registry;
use crate::telemetry::traffic::Traffic;
use crate::telemetry::writer::LogWriter;

const METRICS: &str = include_str!("../../docs/metrics.md");

/// The first cell of each row, without backticks.
fn firsts(rows: &[Row]) -> Vec<&str> {
    rows.iter().flat_map(|row| quoted(&row[0])).collect()
}

#[test]
fn every_metric_is_documented() {
    let registry = Registry::new("culvert", "0");
    let _traffic = Traffic::new(&registry);
    let counters = Counters::new(&registry);
    counters::register_dropped(&registry, LogWriter::to(std::io::sink()).unwrap());
    // A family without a series is not shown, so each gets one.
    counters.captures_unserved(&[("address", 1)], &[("late", 1)]);
    counters.named_client_refused("peer");
    counters.peer_refused("tls_handshake");
    counters.limit_refused("pod_dials");
    counters.config_reload_failed("a.yaml");
    counters.capture_passed(Direction::Inbound, 1);
    let identity: Identity = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    counters.certificate_issued(&identity, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let real = families(&registry.encode(Instant::now()).unwrap());

    let registered = include_str!("telemetry/counters.rs").matches(".register(\n").count()
        + include_str!("telemetry/counters.rs").matches(".register(\"").count();
    let own = |name: &&String| name.starts_with("culvert_") || name.starts_with("workload_manager_");
    assert_eq!(real.iter().filter(own).count(), registered + 1, "a family has no series in this test");
    let rows: Vec<Row> = rows(METRICS, "Metrics").into_iter().filter(|row| row[1] != "waypoint").collect();
    let differ = differences(firsts(&rows), real.iter().map(String::as_str));
    assert_eq!(differ, (vec![], vec![]), "in the document only, in the code only");
}

#[test]
fn every_field_of_the_access_log_is_documented() {
    let real = log_fields(include_str!("telemetry/access_log.rs"));
    let rows = rows(METRICS, "Access log of an agent");
    assert_eq!(differences(firsts(&rows), real.iter().map(String::as_str)), (vec![], vec![]));
}
