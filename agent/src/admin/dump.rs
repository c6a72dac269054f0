//! What the agent adds to the admin server: its parts of `/config_dump`, and `/explain`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::connections::Open;
use crate::view::{CertificateInfo, CertificateView, ConnectionView, workload_states};
use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use mesh::model::workload::Workload;
use process::admin::{AdminState, Query, Refusal};
use sources::manifests::status::Status;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::admin::explain;
use crate::node::Node;
use crate::pod::captures::{self, Captures};
use crate::ready::Ready;

/// How often gauges are updated from parts that count for themselves.
const PERIOD: Duration = Duration::from_secs(1);

/// Adds the agent's parts.
pub(crate) fn parts(
    state: AdminState,
    node: &Arc<Node>,
    captures: &Arc<Captures>,
    status: Arc<ArcSwap<Status>>,
) -> AdminState {
    let (of_mesh, of_certificates, of_connections, of_states) =
        (node.clone(), node.clone(), node.clone(), node.clone());
    let (of_explain, captured, states) = (node.clone(), captures.clone(), captures.clone());
    let failed = captures.clone();
    state
        .mesh(move || of_mesh.store.snapshot())
        .part("certificates", move || certificates(&of_certificates))
        .part("captures", move || captured.list())
        .part("connections", move || connections(&of_connections))
        .part("workloadState", move || workload_states(&states.list(), &connections(&of_states)))
        .part("manifests", move || {
            let mut status = (**status.load()).clone();
            status.problems.extend(captures::problems(&failed.list(), &status.dir));
            status
        })
        .query("explain", move |query| answer(&of_explain, query))
}

fn answer(node: &Node, query: &Query) -> Result<serde_json::Value, Refusal> {
    let bad = |message: String| Refusal { status: StatusCode::BAD_REQUEST, message };
    let needed = |key: &str| query.get(key).ok_or_else(|| bad(format!("the query has no {key}")));
    let explained = explain::explain(&node.store.snapshot(), needed("src")?, needed("dst")?);
    let explained = explained.map_err(|message| Refusal { status: StatusCode::NOT_FOUND, message })?;
    serde_json::to_value(explained).map_err(|error| bad(error.to_string()))
}

fn certificates(node: &Node) -> Vec<CertificateView> {
    let now = SystemTime::now();
    let mut all = node.keyring.list();
    all.sort_by(|a, b| a.identity.cmp(&b.identity));
    let view = |listed: transport::keyring::Listed| CertificateView {
        identity: listed.identity.to_string(),
        state: listed.state(now),
        cert_chain: listed.certificate.iter().flat_map(|c| c.chain().iter().filter_map(|der| info(der))).collect(),
        root_certs: listed
            .certificate
            .iter()
            .flat_map(|c| c.roots().der().iter().filter_map(|der| info(der)))
            .collect(),
    };
    all.into_iter().map(view).collect()
}

fn info(der: &[u8]) -> Option<CertificateInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", wrapped(&STANDARD.encode(der)));
    let time = |at: x509_parser::time::ASN1Time| {
        at.to_datetime().format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
    };
    Some(CertificateInfo {
        pem: STANDARD.encode(pem),
        serial_number: certificate.serial.to_string(),
        valid_from: time(certificate.validity().not_before),
        expiration_time: time(certificate.validity().not_after),
    })
}

/// Lines of 64 characters (RFC 7468, section 2).
fn wrapped(text: &str) -> String {
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).filter_map(|at| text.get(at..(at + 64).min(text.len()))).collect();
    lines.join("\n")
}

fn connections(node: &Node) -> Vec<ConnectionView> {
    let mut all: Vec<ConnectionView> = node.connections.list().iter().map(|open| carried(open)).collect();
    all.extend(node.passthrough.list());
    all.sort_by_key(|view| view.id);
    all
}

fn carried(open: &Open) -> ConnectionView {
    let (source, destination) = (open.labels.source.as_deref(), open.labels.destination.as_deref());
    let name = |w: Option<&Workload>| w.map(|w| w.name.to_string());
    let namespace = |w: Option<&Workload>| w.map(|w| w.namespace.to_string());
    let (bytes_sent, bytes_received) = open.bytes();
    ConnectionView {
        id: open.id,
        direction: open.labels.direction,
        workload_uid: open.workload.uid.to_string(),
        source: open.facts.source,
        source_workload: name(source),
        source_namespace: namespace(source),
        source_identity: open.labels.source_identity.as_ref().map(ToString::to_string),
        source_via: open.labels.via.as_ref().map(ToString::to_string),
        original_destination: open.facts.destination,
        actual_destination: open.hop,
        destination_workload: name(destination),
        destination_namespace: namespace(destination),
        destination_identity: open.labels.destination_identity.as_ref().map(ToString::to_string),
        service: open.labels.service.as_ref().map(ToString::to_string),
        protocol: if open.labels.mutual_tls { "HBONE" } else { "TCP" }.to_owned(),
        bytes_sent,
        bytes_received,
        age_ms: u64::try_from(open.since.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// Updates the metrics of what the source, the keyring and the pool count for themselves, every [`PERIOD`].
pub(crate) fn follow_counts(node: &Arc<Node>, status: &Arc<ArcSwap<Status>>, ready: Ready) {
    let (node, status) = (Arc::clone(node), Arc::clone(status));
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(PERIOD);
        let mut failures = std::collections::BTreeMap::new();
        let mut expiring = std::collections::BTreeMap::new();
        loop {
            tick.tick().await;
            let status = status.load();
            let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            node.counters.config_problems.set(count(status.problems.len()));
            node.counters.tunnels_open.set(count(node.pool.list().len()));
            let age = ready.since_round().unwrap_or_else(|| node.started.elapsed());
            node.counters.reconcile_age.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
            for file in &status.troubled {
                let name = file.file.display().to_string();
                let seen = failures.entry(name.clone()).or_insert(0);
                for _ in *seen..file.failures {
                    node.counters.config_reload_failed(&name);
                }
                *seen = file.failures;
            }
            failures.retain(|name, _| {
                let still = status.troubled.iter().any(|file| file.file.display().to_string() == *name);
                if !still {
                    node.counters.config_file_gone(name);
                }
                still
            });
            let listed = node.keyring.list();
            for entry in &listed {
                if let Some(certificate) = &entry.certificate
                    && expiring.get(&entry.identity) != Some(&certificate.not_after())
                {
                    node.counters.certificate_issued(&entry.identity, certificate.not_after());
                    expiring.insert(entry.identity.clone(), certificate.not_after());
                }
            }
            expiring.retain(|identity, _| {
                let still = listed.iter().any(|entry| entry.identity == *identity);
                if !still {
                    node.counters.certificate_forgotten(identity);
                }
                still
            });
        }
    });
}
