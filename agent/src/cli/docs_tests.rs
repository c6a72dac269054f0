//! The documents that list flags, reasons and flags of the agent say what the code says.

#[path = "../../../xtask/src/flags.rs"]
mod flags;

use clap::{CommandFactory as _, ValueEnum as _};

use self::flags::flags;
use super::command::{Cli, Noun};
use crate::docs_tests::tables::{Row, after, arms, differences, quoted, rows};

const FLAGS: &str = include_str!("../../../docs/flags.md");
const ERRORS: &str = include_str!("../../../docs/errors.md");
const LIMITS: &str = include_str!("../../../docs/limits.md");

/// The first cell of each row, without backticks.
fn firsts(rows: &[Row]) -> Vec<&str> {
    rows.iter().flat_map(|row| quoted(&row[0])).collect()
}

fn assert_same(rows: &[Row], real: &[String]) {
    let differ = differences(firsts(rows), real.iter().map(String::as_str));
    assert_eq!(differ, (vec![], vec![]), "in the document only, in the code only");
}

#[test]
fn every_command_and_flag_is_documented_with_its_default() {
    let command = Cli::command();
    for sub in command.get_subcommands() {
        let documented = rows(FLAGS, &format!("culvert {}", sub.get_name()));
        let mut documented: Vec<Row> = documented.into_iter().map(|row| row[..3].to_vec()).collect();
        documented.sort();
        assert_eq!(documented, flags(sub), "culvert {}", sub.get_name());
    }
    let headings = FLAGS.lines().filter_map(|line| line.strip_prefix("## culvert "));
    assert_eq!(differences(headings, command.get_subcommands().map(clap::Command::get_name)), (vec![], vec![]));
}

#[test]
fn everything_that_can_be_asked_for_is_documented() {
    let nouns: Vec<&str> = Noun::value_variants().iter().map(|noun| noun.name()).collect();
    assert!(FLAGS.contains(&format!("`culvert get {}`", nouns.join("|"))), "culvert get {}", nouns.join("|"));
}

#[test]
fn every_response_flag_is_documented() {
    let real = arms(include_str!("../../../mesh/src/model/connection.rs"), "pub fn as_str(self)");
    assert_same(&rows(ERRORS, "Response flags of agents"), &real);
}

#[test]
fn every_reason_to_turn_a_peer_away_is_documented() {
    let server = include_str!("../../../transport/src/hbone/server.rs");
    let (accepting, ended) = server.split_once("enum Ended").expect("how a tunnel ends");
    let real = [
        arms(include_str!("../../../transport/src/tls/error.rs"), "pub fn reason(&self)"),
        arms(accepting, "pub fn reason(&self)"),
        arms(ended, "pub fn reason(&self)"),
        arms(include_str!("../connection/inbound/tunnel.rs"), "async fn shake_hands("),
        after(include_str!("../connection/inbound/request.rs"), "peer_refused("),
    ];
    assert_same(&rows(ERRORS, "Peers that are turned away"), &real.concat());
}

#[test]
fn every_reason_why_a_pod_is_not_captured_is_documented() {
    let real = [
        arms(include_str!("../capture/error.rs"), "pub fn reason(&self)"),
        arms(include_str!("../enroll/reconcile.rs"), "fn count(&self)"),
    ];
    assert_same(&rows(ERRORS, "Why a pod is not captured"), &real.concat());
}

#[test]
fn every_reason_of_a_limit_is_documented() {
    let real = [
        arms(include_str!("../pod/limits.rs"), "pub(crate) fn reason(self)"),
        after(include_str!("../connection/outbound/connection.rs"), "limit_refused("),
    ];
    let rows: Vec<Row> = rows(LIMITS, "Refusals").into_iter().filter(|row| row[1] != "waypoint").collect();
    assert_same(&rows, &real.concat());
}
