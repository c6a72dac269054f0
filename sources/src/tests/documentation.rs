//! The documents that list kinds and fields of policies say what the code says.

#[path = "../../../xtask/src/tables.rs"]
#[allow(dead_code, reason = "each crate uses some of it")]
mod tables;

use std::collections::BTreeMap;

use mesh::model::policy::PolicyKey;
use serde_json::json;

use self::tables::{Row, differences, quoted, rows};
use crate::objects::kind::{KINDS, Kind, TargetedPolicy};

const MANIFESTS: &str = include_str!("../../../docs/manifests.md");
const POLICY: &str = include_str!("../../../docs/policy.md");

/// The first cell of each row, without backticks.
fn firsts(rows: &[Row]) -> Vec<&str> {
    rows.iter().flat_map(|row| quoted(&row[0])).collect()
}

#[test]
fn every_kind_that_is_read_is_documented() {
    let documented: Vec<String> = rows(MANIFESTS, "Kinds")
        .into_iter()
        .map(|row| {
            let who = match row[2].as_str() {
                "nobody" => "nobody",
                "waypoint" => "waypoint",
                _ => "agent",
            };
            format!("{}/{} {who}", row[1].trim_matches('`'), row[0])
        })
        .collect();
    let real: Vec<String> = KINDS
        .iter()
        .map(|(group, name, kind)| {
            let who = match kind {
                Kind::Ignored => "nobody",
                kind if kind.is_for_waypoints_only() => "waypoint",
                _ => "agent",
            };
            format!("{group}/{name} {who}")
        })
        .collect();
    let differ = differences(documented.iter().map(String::as_str), real.iter().map(String::as_str));
    assert_eq!(differ, (vec![], vec![]), "in the document only, in the code only");
}

/// Whether this is the `spec` of an AuthorizationPolicy.
fn check(spec: &serde_json::Value) -> Result<(), String> {
    let key = PolicyKey { namespace: "default".into(), name: "p".into() };
    TargetedPolicy::read(key, &BTreeMap::new(), spec).map(|_| ())
}

/// The fields that a part of an AuthorizationPolicy may have: the reader names them when it meets another.
fn fields(spec: &serde_json::Value) -> Vec<String> {
    let error = check(spec).expect_err("there is no such field");
    let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
    quoted(expected).into_iter().filter(|field| !field.starts_with("not")).map(str::to_owned).collect()
}

#[test]
fn every_field_of_a_rule_is_documented() {
    let source = fields(&json!({"rules": [{"from": [{"source": {"none": 0}}]}]}));
    let operation = fields(&json!({"rules": [{"to": [{"operation": {"none": 0}}]}]}));
    for (heading, real) in [("Fields of a source", source), ("Fields of an operation", operation)] {
        let rows = rows(POLICY, heading);
        assert_eq!(differences(firsts(&rows), real.iter().map(String::as_str)), (vec![], vec![]), "{heading}");
    }
}

#[test]
fn every_documented_key_of_a_condition_is_one() {
    let rows = rows(POLICY, "Keys of a condition");
    let keys = firsts(&rows);
    for key in &keys {
        let value = if key.ends_with(".ip") { "10.0.0.1" } else { "1" };
        let spec = json!({"rules": [{"when": [{"key": key.replace("NAME", "x"), "values": [value]}]}]});
        assert_eq!(check(&spec), Ok(()), "{key}");
    }
    assert!(check(&json!({"rules": [{"when": [{"key": "source.nothing", "values": ["1"]}]}]})).is_err());
    let real = tables::arms(include_str!("../objects/schema/policy.rs"), "fn try_from(raw: RawCondition)");
    let real = real.iter().filter(|key| key.contains('.') && !key.ends_with('.'));
    let missing: Vec<_> = real.filter(|key| !keys.contains(&key.as_str())).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

/// The texts of the Rust files below a directory, without their tests.
fn sources_below(directory: &std::path::Path, texts: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, texts);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            texts.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
        }
    }
}

#[test]
fn every_label_and_annotation_that_is_read_is_documented() {
    let mut texts = vec![include_str!("../../../mesh/src/authority/enforcement.rs").to_owned()];
    sources_below(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/objects"), &mut texts);
    let is_name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
    let is_key = |text: &&str| {
        let host = text.split_once('/').filter(|(host, name)| is_name(host) && is_name(name)).map(|(host, _)| host);
        host.is_some_and(|host| host.ends_with(".io") || host.ends_with(".dev"))
    };
    // Of a class's controller, and of `appProtocol`.
    let applications = ["kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss"];
    let values = [&["culvert.dev/waypoint", "istio.io/mesh-controller"], &applications[..]].concat();
    let literals = texts.iter().flat_map(|text| text.split('"').skip(1).step_by(2));
    let real: Vec<&str> = literals.filter(is_key).filter(|key| !values.contains(key)).collect();
    let rows = rows(MANIFESTS, "Labels and annotations");
    let documented: Vec<&str> = rows.iter().flat_map(|row| row.iter().flat_map(|cell| quoted(cell))).collect();
    let documented = documented.into_iter().filter(is_key);
    assert_eq!(differences(documented, real), (vec![], vec![]), "in the document only, in the code only");
}
