//! The document that lists metrics says what the agent says.

#[path = "../../xtask/src/tables.rs"]
#[allow(dead_code, reason = "each crate uses some of it")]
pub(crate) mod tables;

use std::time::{Duration, Instant, SystemTime};

use mesh::model::connection::Direction;
use mesh::model::identity::Identity;
use process::telemetry::dropped::register_dropped;
use process::telemetry::registry::Registry;
use process::telemetry::traffic::Traffic;
use process::telemetry::writer::LogWriter;

use self::tables::{Row, differences, families, quoted, rows};
use crate::counters::Counters;

#[test]
fn every_metric_is_documented() {
    let registry = Registry::new("culvert", "0");
    let _traffic = Traffic::new(&registry);
    let counters = Counters::new(&registry);
    register_dropped(&registry, LogWriter::to(std::io::sink()).unwrap());
    // A family without a series is not shown, so each gets one.
    counters.captures_unserved(&[("address", 1)], &[("late", 1)]);
    counters.named_client_refused("peer");
    counters.refusals.peer_refused("tls_handshake");
    counters.refusals.limit_refused("pod_dials");
    counters.config_reload_failed("a.yaml");
    counters.capture_passed(Direction::Inbound, 1);
    let identity: Identity = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    counters.certificate_issued(&identity, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let real = families(&registry.encode(Instant::now()).unwrap());

    let sources = [include_str!("counters.rs"), include_str!("../../process/src/telemetry/refusals.rs")];
    let registered: usize =
        sources.iter().map(|text| text.matches(".register(\n").count() + text.matches(".register(\"").count()).sum();
    let own = |name: &&String| name.starts_with("culvert_") || name.starts_with("workload_manager_");
    assert_eq!(real.iter().filter(own).count(), registered + 1, "a family has no series in this test");
    let rows: Vec<Row> =
        rows(include_str!("../../docs/metrics.md"), "Metrics").into_iter().filter(|row| row[1] != "waypoint").collect();
    let documented = rows.iter().flat_map(|row| quoted(&row[0]));
    let differ = differences(documented, real.iter().map(String::as_str));
    assert_eq!(differ, (vec![], vec![]), "in the document only, in the code only");
}
