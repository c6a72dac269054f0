//! The document that lists fields of the access log says what the code says.

#[path = "../../xtask/src/tables.rs"]
#[allow(dead_code, reason = "each crate uses some of it")]
mod tables;

use self::tables::{differences, log_fields, quoted, rows};

#[test]
fn every_field_of_the_access_log_is_documented() {
    let real = log_fields(include_str!("telemetry/access_log.rs"));
    let rows = rows(include_str!("../../docs/metrics.md"), "Access log of an agent");
    let documented = rows.iter().flat_map(|row| quoted(&row[0]));
    assert_eq!(differences(documented, real.iter().map(String::as_str)), (vec![], vec![]));
}
