//! Pure. Which routes apply to which service and port (GAMMA, GEP-1294), and the status of each parent reference.
//!
//! Who may route for whom is not decided here but asked of [`mesh::authority`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::authority::reach;
use mesh::model::service::{Service, ServiceKey};
use serde_json::Value;

use super::gateways::Gateways;
use super::object::Object;
use super::policies::roots;
use super::rules::{CompiledRule, RouteKind};
use super::schema::route::{ParentRef, RouteSpec};
use super::services::{Services, full_name, has_port, is_fronted};
use super::status::{CONTROLLER, Findings, ObjectStatus, ParentStatus, Rejection};

/// A route with its rules.
pub struct Route {
    /// The object.
    pub object: Arc<Object>,
    /// Its kind.
    pub kind: RouteKind,
    /// Its spec; empty when it cannot be read.
    pub spec: RouteSpec,
    /// Its rules.
    pub rules: Vec<CompiledRule>,
    /// What is to be said about it.
    pub findings: Findings,
}

/// Whose requests a route is for. Only one group applies to a client; the first in this order that has routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Attached to the waypoint's Gateway.
    Gateway,
    /// Of the service's namespace: every client.
    Producer,
    /// Of another namespace: clients there.
    Consumer(Arc<str>),
}

/// A route on a port of a service.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The service.
    pub service: ServiceKey,
    /// Its port.
    pub port: u16,
    /// For whom.
    pub group: Group,
    /// Index of the route.
    pub route: usize,
    reference: usize,
}

/// Attaches routes and writes their statuses. Where kinds meet on a port, GRPCRoute wins over HTTPRoute over TCPRoute.
pub fn attach(
    routes: &[Route],
    services: &Services,
    (gateway, gateways): (Option<(&str, &str)>, &Gateways),
    statuses: &mut Vec<ObjectStatus>,
) -> Vec<Attachment> {
    let mut attachments = Vec::new();
    let mut outcomes: BTreeMap<(usize, usize), Result<(), Rejection>> = BTreeMap::new();
    for (index, route) in routes.iter().enumerate() {
        for (at, reference) in route.spec.parent_refs.iter().enumerate() {
            let found = match parent(route, reference, services, (gateway, gateways)) {
                Parent::Foreign => continue,
                Parent::Rejected(rejection) => {
                    outcomes.insert((index, at), Err(rejection));
                    continue;
                }
                Parent::Ports(found) => found,
            };
            outcomes.insert((index, at), Ok(()));
            // A rejected route whose last good version stays in effect has rules; any other has none to attach.
            if route.findings.rejected.is_none() || !route.rules.is_empty() && fell_back(route) {
                attachments.extend(found.into_iter().map(|(service, port, group)| Attachment {
                    service,
                    port,
                    group,
                    route: index,
                    reference: at,
                }));
            }
        }
    }
    settle_conflicts(routes, &mut attachments, &mut outcomes);
    for (index, route) in routes.iter().enumerate() {
        let parents = route.spec.parent_refs.iter().enumerate().filter_map(|(at, reference)| {
            let outcome = outcomes.get(&(index, at))?;
            Some(ParentStatus {
                reference: serde_json::to_value(reference).unwrap_or(Value::Null),
                controller_name: CONTROLLER,
                conditions: route.findings.conditions(&route.object, outcome.clone().err()),
            })
        });
        let parents: Vec<ParentStatus> = parents.collect();
        if !parents.is_empty() {
            statuses.push(ObjectStatus::new(&route.object, parents));
        }
    }
    attachments
}

fn fell_back(route: &Route) -> bool {
    route.findings.dropped.iter().any(|message| message.starts_with("Fall Back"))
}

/// Keeps the winning kind of each port and group; a reference that loses on all of its ports is told so.
fn settle_conflicts(
    routes: &[Route],
    attachments: &mut Vec<Attachment>,
    outcomes: &mut BTreeMap<(usize, usize), Result<(), Rejection>>,
) {
    let mut winners: BTreeMap<(ServiceKey, u16, Group), (RouteKind, Arc<str>)> = BTreeMap::new();
    for attachment in attachments.iter() {
        let route = &routes[attachment.route];
        let place = (attachment.service.clone(), attachment.port, attachment.group.clone());
        let candidate = (route.kind, route.object.label());
        let winner = winners.entry(place).or_insert_with(|| candidate.clone());
        if candidate.0 > winner.0 {
            *winner = candidate;
        }
    }
    let mut kept: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut lost: BTreeMap<(usize, usize), String> = BTreeMap::new();
    attachments.retain(|attachment| {
        let place = (attachment.service.clone(), attachment.port, attachment.group.clone());
        let Some((kind, label)) = winners.get(&place) else { return true };
        let reference = (attachment.route, attachment.reference);
        let wins = *kind == routes[attachment.route].kind;
        if wins {
            kept.insert(reference);
        } else {
            lost.insert(reference, format!("{label} has the same parent and wins by its kind"));
        }
        wins
    });
    for (reference, message) in lost {
        if !kept.contains(&reference) {
            outcomes.insert(reference, Err(("Conflicted", message)));
        }
    }
}

enum Parent {
    /// Another controller's.
    Foreign,
    /// Ours, and wrong.
    Rejected(Rejection),
    /// Ours.
    Ports(Vec<(ServiceKey, u16, Group)>),
}

fn parent(
    route: &Route,
    reference: &ParentRef,
    services: &Services,
    (gateway, gateways): (Option<(&str, &str)>, &Gateways),
) -> Parent {
    let namespace = reference.namespace.as_deref().unwrap_or(&route.object.namespace);
    let group = reference.group.as_deref().unwrap_or("gateway.networking.k8s.io");
    match (group, reference.kind.as_deref().unwrap_or("Gateway")) {
        ("" | "core", "Service") => {
            let Some(service) = services.get(namespace, &reference.name) else {
                let message = format!("there is no Service {namespace}/{}", reference.name);
                return Parent::Rejected(("NoMatchingParent", message));
            };
            if !is_fronted(service, gateway) {
                return Parent::Foreign;
            }
            match ports(service, reference) {
                Ok(ports) => {
                    let group = if *route.object.namespace == *service.key.namespace {
                        Group::Producer
                    } else {
                        Group::Consumer(Arc::clone(&route.object.namespace))
                    };
                    Parent::Ports(ports.into_iter().map(|port| (service.key.clone(), port, group.clone())).collect())
                }
                Err(rejection) => Parent::Rejected(rejection),
            }
        }
        ("gateway.networking.k8s.io", "Gateway") => {
            let referenced = (namespace, reference.name.as_str());
            // Without a Gateway of our own every waypoint is looked at.
            let is_ours = gateway.map_or_else(|| gateways.has(referenced.0, referenced.1), |own| own == referenced);
            if is_ours { of_gateway(route, reference, services, referenced, gateways) } else { Parent::Foreign }
        }
        _ => Parent::Foreign,
    }
}

/// A route on a Gateway applies to all services behind it that it may touch.
fn of_gateway(
    route: &Route,
    reference: &ParentRef,
    services: &Services,
    (home, name): (&str, &str),
    gateways: &Gateways,
) -> Parent {
    if let Err(rejection) = gateways.admit((home, name), &route.object, route.kind, reference) {
        return Parent::Rejected(rejection);
    }
    if !route.spec.hostnames.is_empty() {
        let message = "hostnames have no meaning on a waypoint: services are told apart by address";
        return Parent::Rejected(("UnsupportedValue", message.to_owned()));
    }
    let speaker = &route.object.namespace;
    let behind = services.iter().filter(|service| is_fronted(service, Some((home, name))));
    let (mine, others): (Vec<_>, Vec<_>) =
        behind.partition(|service| reach::routes_for(roots(), speaker, home, &service.key.namespace));
    if let ([], [other, ..]) = (&mine[..], &others[..]) {
        let message = format!(
            "{} may route for services of {speaker} and of {home} behind Gateway {home}/{name}, and there are none; \
             not for those of other namespaces, as Service {}",
            route.object.label(),
            full_name(other)
        );
        return Parent::Rejected(("RefNotPermitted", message));
    }
    let ports = mine
        .into_iter()
        .flat_map(|service| service.ports.iter().map(|port| (service.key.clone(), port.service_port, Group::Gateway)));
    Parent::Ports(ports.collect())
}

fn ports(service: &Service, reference: &ParentRef) -> Result<Vec<u16>, Rejection> {
    if service.vips.is_empty() {
        let name = full_name(service);
        let message = if service.headless {
            format!("Service {name} is headless: it has no address to route for")
        } else {
            format!("Service {name} has no clusterIP yet, as it is written: routes take effect once it has one")
        };
        return Err(("NoMatchingParent", message));
    }
    let missing = |what: String| ("NoMatchingParent", format!("Service {} has no port {what}", full_name(service)));
    match (reference.port, &reference.section_name) {
        (Some(port), _) if !has_port(service, port) => Err(missing(port.to_string())),
        (Some(port), Some(name)) => {
            let both = service.ports.iter().any(|known| known.service_port == port && *known.name == **name);
            if both { Ok(vec![port]) } else { Err(missing(format!("{port} named {name}"))) }
        }
        (Some(port), None) => Ok(vec![port]),
        (None, Some(name)) => {
            let named = service.ports.iter().find(|port| *port.name == **name);
            named.map(|port| vec![port.service_port]).ok_or_else(|| missing(format!("named {name}")))
        }
        (None, None) => Ok(service.ports.iter().map(|port| port.service_port).collect()),
    }
}
