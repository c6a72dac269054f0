//! `culvert-waypoint check`: problems of the files, and the status conditions of every object.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use mesh::authority::dial::{Surroundings, may_dial};
use mesh::model::update::Update;
use process::telemetry::escape::line;
use serde::Serialize;
use sources::objects::problem::{Problem, Severity};

use crate::args::{CheckArgs, Output};
use crate::config::plan::Plan;
use crate::config::{History, ObjectStatus, compile};
use crate::manifests;

#[derive(Serialize)]
struct Report {
    problems: Vec<String>,
    notes: Vec<String>,
    statuses: Vec<ObjectStatus>,
    ok: bool,
}

/// The report as text, and whether all is good.
pub(super) fn check(args: &CheckArgs) -> Result<(String, bool)> {
    let (loaded, objects, services) = manifests::load(&args.manifests)?;
    let gateway = args.gateway.as_ref().map(|gateway| (Arc::clone(&gateway.namespace), Arc::clone(&gateway.name)));
    let plan = compile(&objects, &services, &gateway, &mut History::default());
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    let ok = !loaded.problems.iter().any(is_error) && plan.statuses.iter().all(ObjectStatus::is_good);
    let problems = loaded.problems.iter().map(ToString::to_string).chain(never_dialled(&loaded.updates)).collect();
    let notes = notes(&plan);
    let report = Report { problems, notes, statuses: plan.statuses, ok };
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Text => text(&report),
    };
    Ok((text, ok))
}

/// What is valid, and may not do what its author expects.
fn notes(plan: &Plan) -> Vec<String> {
    let mut notes: Vec<String> = vec![];
    for service in plan.services.values() {
        for port in service.silent_ports() {
            let key = &service.service.key;
            notes.push(format!(
                "Service {}/{} port {port}: appProtocol is not declared, and routes or policies look at its requests: \
                 a server that speaks first is not heard there unless appProtocol is tcp",
                key.namespace, service.service.name
            ));
        }
    }
    notes.sort();
    notes
}

/// Endpoints that no waypoint dials, wherever it runs.
fn never_dialled(updates: &[Update]) -> impl Iterator<Item = String> {
    let anywhere = Surroundings::default();
    let workloads = updates.iter().filter_map(|update| match update {
        Update::Workload(workload) => Some(workload),
        _ => None,
    });
    let off = move |address: &IpAddr| may_dial(&anywhere, SocketAddr::new(*address, 0)).err();
    workloads.flat_map(move |workload| {
        let found = workload.addresses.iter().find_map(|address| Some((*address, off(address)?)));
        found.map(|(address, off)| {
            let uid = &workload.uid;
            format!("{uid}: {address} is {off}, which a waypoint never dials unless --allow-local-targets holds it")
        })
    })
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for problem in &report.problems {
        let _ = writeln!(out, "{}", line(problem));
    }
    for note in &report.notes {
        let _ = writeln!(out, "‼ {note}");
    }
    for status in &report.statuses {
        let mark = if status.is_good() { '√' } else { '×' };
        let object = format!("{} {}/{}  {}", status.kind, status.namespace, status.name, status.origin);
        let _ = writeln!(out, "{mark} {}", line(&object));
        for parent in &status.parents {
            let reference = if parent.reference.is_null() { String::new() } else { format!("  {}", parent.reference) };
            for condition in &parent.conditions {
                let message = if condition.message.is_empty() { "" } else { ": " };
                let condition = format!(
                    "{}={} {}{message}{}{reference}",
                    condition.kind, condition.status, condition.reason, condition.message
                );
                let _ = writeln!(out, "    {}", line(&condition));
            }
        }
    }
    let bad = report.statuses.iter().filter(|status| !status.is_good()).count();
    let _ = writeln!(out, "{} objects for waypoints, {bad} with bad conditions", report.statuses.len());
    out
}
