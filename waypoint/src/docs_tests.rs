//! The documents that list flags, settings and metrics of a waypoint say what the code says.

#[path = "../../xtask/src/tables.rs"]
#[allow(dead_code, reason = "each crate uses some of it")]
mod tables;
#[path = "../../xtask/src/flags.rs"]
mod flags;

use std::time::Instant;

use clap::CommandFactory as _;
use process::telemetry::registry::Registry;
use serde_json::json;

use self::flags::flags;
use self::tables::{Row, arms, differences, families, quoted, rows};
use crate::args::Cli;
use crate::config::schema::policy::MeshPolicySpec;
use crate::settings::Settings;
use crate::telemetry::requests::Requests;

const FLAGS: &str = include_str!("../../docs/flags.md");
const WAYPOINT: &str = include_str!("../../docs/waypoint.md");
const METRICS: &str = include_str!("../../docs/metrics.md");
const LIMITS: &str = include_str!("../../docs/limits.md");

/// The first cell of each row, without backticks.
fn firsts(rows: &[Row]) -> Vec<&str> {
    rows.iter().flat_map(|row| quoted(&row[0])).collect()
}

#[test]
fn every_flag_is_documented_with_its_default() {
    let command = Cli::command();
    let documented = |heading: &str| {
        let mut documented: Vec<Row> = rows(FLAGS, heading).into_iter().map(|row| row[..3].to_vec()).collect();
        documented.sort();
        documented
    };
    assert_eq!(documented("culvert-waypoint"), flags(&command));
    for sub in command.get_subcommands() {
        assert_eq!(documented(&format!("culvert-waypoint {}", sub.get_name())), flags(sub));
    }
}

#[test]
fn every_setting_is_documented_with_its_default() {
    // As users write these, beside what `explain` prints.
    let written = |name: &str, value: &str| match (name, value) {
        ("retry.retryAfter", "true") => "honour".to_owned(),
        ("retry.maxBodyBytes", "65536") => "64Ki".to_owned(),
        ("circuitBreaker.endpoint.maxEjected", percent) => format!("{percent}%"),
        ("tracing.sampling", "0.01") => "1%".to_owned(),
        (_, value) => value.to_owned(),
    };
    let settings = Settings::default().effective("");
    let real: Vec<String> =
        settings.iter().map(|row| format!("`{}` | `{}`", row.name, written(row.name, &row.value))).collect();
    let documented: Vec<String> =
        rows(WAYPOINT, "Settings").iter().map(|row| format!("{} | {}", row[0], row[1])).collect();
    let differ = differences(documented.iter().map(String::as_str), real.iter().map(String::as_str));
    assert_eq!(differ, (vec![], vec![]), "in the document only, in the code only");
}

/// Every field that a MeshPolicy may have: asked of the reader, which names them when it meets another.
#[test]
fn every_field_of_a_mesh_policy_is_a_setting() {
    let rows = rows(WAYPOINT, "Settings");
    let documented = firsts(&rows);
    let is_documented = |field: &str| {
        let below = format!("{field}.");
        documented.iter().any(|name| *name == field || name.starts_with(&below))
    };
    let mut places = vec![String::new()];
    let mut seen = 0;
    while let Some(place) = places.pop() {
        let mut spec = json!({"x-none": 0});
        for part in place.split('.').rev().filter(|part| !part.is_empty()) {
            spec = json!({part: spec});
        }
        let error = serde_json::from_value::<MeshPolicySpec>(spec).expect_err("there is no such field").to_string();
        let Some((_, expected)) = error.split_once("expected ") else { continue };
        for field in quoted(expected) {
            let field = if place.is_empty() { field.to_owned() } else { format!("{place}.{field}") };
            // What stands beside the table, in words.
            let beside = ["targetRefs", "tracing.otlp", "retry.backoff.jitter", "loadBalancing.hashOn.", "rateLimit."];
            if beside.iter().any(|known| field == *known || known.ends_with('.') && field.starts_with(known)) {
                continue;
            }
            assert!(is_documented(&field), "{field} is not in docs/waypoint.md");
            seen += 1;
            if documented.iter().any(|name| name.starts_with(&format!("{field}."))) {
                places.push(field);
            }
        }
    }
    assert!(seen > 30, "{seen} fields were found");
}

#[test]
fn every_metric_of_a_waypoint_alone_is_documented() {
    let registry = Registry::new("culvert-waypoint", "0");
    let before = families(&registry.encode(Instant::now()).unwrap());
    let _requests = Requests::new(&registry);
    let real: Vec<String> =
        families(&registry.encode(Instant::now()).unwrap()).into_iter().filter(|name| !before.contains(name)).collect();
    let rows: Vec<Row> = rows(METRICS, "Metrics").into_iter().filter(|row| row[1] == "waypoint").collect();
    assert_eq!(differences(firsts(&rows), real.iter().map(String::as_str)), (vec![], vec![]));
}

#[test]
fn every_reason_of_a_limit_is_documented() {
    let real = arms(include_str!("handshakes.rs"), "pub fn reason(self)");
    let rows: Vec<Row> = rows(LIMITS, "Refusals").into_iter().filter(|row| row[1] != "agent").collect();
    assert_eq!(differences(firsts(&rows), real.iter().map(String::as_str)), (vec![], vec![]));
}

#[test]
fn every_field_of_the_access_log_is_documented() {
    let real = tables::log_fields(include_str!("telemetry/line.rs"));
    let rows = rows(METRICS, "Access log of a waypoint");
    assert_eq!(differences(firsts(&rows), real.iter().map(String::as_str)), (vec![], vec![]));
}
