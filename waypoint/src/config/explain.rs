//! Pure. Which settings are in effect for a service or one of its rules, and which object each comes from.

use std::sync::Arc;

use serde::Serialize;

use super::compile::{GatewayName, read_routes, rule_layers};
use super::history::History;
use super::object::Object;
use super::policies::Policies;
use super::services::Services;
use super::unique::unique;
use crate::settings::{Effective, Layer, explain as rows_of};

/// What is in effect for one rule, or for a service as a backend.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// `Service namespace/name`, or a rule as `HTTPRoute/namespace/name#0`.
    pub subject: String,
    /// Every setting.
    pub settings: Vec<Effective>,
}

/// Explains a service, and with `route` (`namespace/name`) the rules of that route on it.
pub fn explain(
    objects: &[Arc<Object>],
    services: &Services,
    gateway: &GatewayName,
    service: (&str, &str),
    route: Option<&str>,
) -> Result<Vec<Explained>, String> {
    let (namespace, name) = service;
    let found = services.get(namespace, name).ok_or_else(|| format!("there is no Service {namespace}/{name}"))?;
    let objects = &unique(objects, &mut vec![])[..];
    let mut history = History::default();
    let policies = Policies::read(objects, services, &mut history, &mut vec![]);
    let named = found.waypoint.as_ref().map(|waypoint| (waypoint.namespace.as_str(), waypoint.name.as_str()));
    let gateway = gateway.as_ref().map(|(namespace, name)| (&**namespace, &**name)).or(named);
    let layers: Vec<Layer> = policies.of_service((namespace, name), gateway, None);
    let mut out = vec![Explained { subject: format!("Service {namespace}/{name}"), settings: rows_of(&layers) }];
    for scope in policies.scopes(namespace, name) {
        let seen = policies.of_service((namespace, name), gateway, Some(&scope));
        let subject = format!("Service {namespace}/{name} for clients of namespace {scope}");
        let settings = rows_within(&rows_of(&seen), &out[0].settings);
        if settings != out[0].settings {
            out.push(Explained { subject, settings });
        }
    }
    let Some(route) = route else { return Ok(out) };
    let known = out.len();
    for compiled in read_routes(objects, services, &mut history) {
        if *compiled.object.full_name() != *route {
            continue;
        }
        out.extend(compiled.rules.iter().map(|rule| Explained {
            subject: rule.rule.id.to_string(),
            settings: rows_of(&rule_layers(&policies, &layers, &compiled, rule)),
        }));
    }
    if out.len() == known { Err(format!("there is no route {route}")) } else { Ok(out) }
}

/// What clients of one namespace see, within the limits that everybody has ([`crate::settings::Settings::within`]).
fn rows_within(rows: &[Effective], everybody: &[Effective]) -> Vec<Effective> {
    let clamped =
        rows.iter().zip(everybody).map(|(row, limit)| match (row.value.parse::<f64>(), limit.value.parse()) {
            (Ok(value), Ok(most)) if crate::settings::SHARED.contains(&row.name) && value > most => limit.clone(),
            _ => row.clone(),
        });
    clamped.collect()
}
