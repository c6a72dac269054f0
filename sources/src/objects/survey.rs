//! Pure. Problems between objects that are each valid: duplicates, contested addresses, selectors that select nothing,
//! services without endpoints.
//!
//! The survey visits every pod, so it does not run while a change is applied.

use std::collections::{BTreeMap, BTreeSet};

use mesh::model::policy::{PolicyKey, Scope};
use mesh::model::service::ServiceKey;
use mesh::model::waypoint::Waypoint;
use mesh::model::workload::Workload;

use super::convert::{Context, Enrollment, Left, Options};
use super::holders::{Holder, Title};
use super::inventory::{Inventory, Shelf};
use super::kind::{Item, Pod};
use super::overruled;
use super::problem::{Problem, Severity};

/// Every problem between objects.
pub(super) fn survey<'a>(
    inventory: &Inventory,
    context: &Context,
    foreign: impl Iterator<Item = &'a Workload>,
    options: &Options,
) -> Vec<Problem> {
    let mut problems = context.problems().to_vec();
    let mut endpoints: BTreeMap<ServiceKey, usize> = BTreeMap::new();
    let mut used: BTreeSet<PolicyKey> = BTreeSet::new();
    let mut closed: BTreeSet<ServiceKey> = BTreeSet::new();
    for pod in inventory.pods.iter() {
        problems.extend(of_pod(pod, context, options));
        problems.extend(of_dispute(pod, inventory));
        match context.workload(pod, inventory, options) {
            Ok(workload) => {
                for service in &workload.services {
                    *endpoints.entry(service.service.clone()).or_default() += 1;
                }
                closed.extend(context.closed_to_callers_of(&workload, options));
                for policy in workload.policies {
                    used.insert(policy);
                }
            }
            Err(left) => problems.extend(of_left(pod, &left)),
        }
    }
    for service in foreign.flat_map(|workload| &workload.services) {
        *endpoints.entry(service.service.clone()).or_default() += 1;
    }
    problems.extend(overruled::overruled(inventory, context));
    services_without_endpoints(inventory, context, options, &endpoints, &mut problems);
    closed_headless_services(inventory, context, options, &closed, &mut problems);
    selectors_of_nothing(inventory, context, &used, &mut problems);
    problems.extend(context.namespace_problems(inventory, options));
    problems.extend(context.trespasses(inventory, options));
    duplicates("Namespace", &inventory.namespaces, &mut problems);
    duplicates("Node", &inventory.nodes, &mut problems);
    duplicates("Pod", &inventory.pods, &mut problems);
    duplicates("Service", &inventory.services, &mut problems);
    duplicates("ServiceCIDR", &inventory.cidrs, &mut problems);
    duplicates("EndpointSlice", &inventory.slices, &mut problems);
    duplicates("Gateway", &inventory.gateways, &mut problems);
    duplicates("GatewayClass", &inventory.classes, &mut problems);
    duplicates("PeerAuthentication", &inventory.peers, &mut problems);
    duplicates("AuthorizationPolicy", &inventory.policies, &mut problems);
    duplicates("RequestAuthentication", &inventory.authentications, &mut problems);
    duplicates("MeshPolicy", &inventory.mesh_policies, &mut problems);
    duplicates("ServiceEntry", &inventory.entries, &mut problems);
    for (kind, shelf) in &inventory.for_waypoints {
        duplicates(kind.name(), shelf, &mut problems);
    }
    problems.sort();
    problems
}

fn pod_name(pod: &Item<Pod>) -> String {
    format!("Pod {}", pod.meta.key())
}

fn of_left(pod: &Item<Pod>, left: &Left) -> Option<Problem> {
    let severity = match left {
        Left::Ended => return None,
        Left::NoAddress => Severity::Warning,
        Left::NodeAddress(..) | Left::NoClaim(..) | Left::AddressTaken(..) => Severity::Error,
    };
    Some(
        Problem::of(&pod.at, pod_name(pod), severity, format!("{left}; it is not part of the mesh"))
            .field("status.podIP"),
    )
}

/// Pods that are unreachable because the owner of one of their addresses is undecided.
fn of_dispute(pod: &Item<Pod>, inventory: &Inventory) -> Option<Problem> {
    if pod.spec.template.host_network || pod.spec.ended {
        return None;
    }
    let key = pod.meta.key();
    let (address, claimants) =
        pod.spec.addresses.iter().find_map(|&address| match inventory.holders.title(pod, address) {
            Title::Disputed(claimants) => Some((address, claimants)),
            _ => None,
        })?;
    let own = Holder::Pod(key);
    let others = claimants.iter().filter(|other| **other != own).map(Holder::to_string);
    let others = others.collect::<Vec<_>>().join(" and ");
    let message = format!(
        "{address} is claimed by {others} too, and neither the kernel nor a range nor who had it first says whose it is: connections \
         to it are refused until only one claims it"
    );
    Some(Problem::of(&pod.at, pod_name(pod), Severity::Error, message).field("status.podIP"))
}

fn of_pod(pod: &Item<Pod>, context: &Context, options: &Options) -> Option<Problem> {
    let warn = |message: String| Some(Problem::of(&pod.at, pod_name(pod), Severity::Warning, message));
    match Enrollment::of(pod, context.namespace_labels(&pod.meta.namespace)) {
        Enrollment::Refused(refusal) => return warn(format!("not enrolled: {refusal}")),
        Enrollment::HostNetwork if pod.meta.labels.get("istio.io/dataplane-mode").is_some() => {
            return warn("not enrolled: it lives in the host's network".to_owned());
        }
        Enrollment::HostNetwork | Enrollment::Enrolled | Enrollment::NotAsked => {}
    }
    // What a namespace asks for is said of the namespace.
    pod.meta.labels.get("istio.io/use-waypoint")?;
    context.closed_waypoint(pod, options).and_then(warn)
}

fn services_without_endpoints(
    inventory: &Inventory,
    context: &Context,
    options: &Options,
    endpoints: &BTreeMap<ServiceKey, usize>,
    problems: &mut Vec<Problem>,
) {
    for item in inventory.services.iter().filter(|item| !item.spec.external_name) {
        let key = Context::service_key(item, options);
        if context.services().contains_key(&key) && !endpoints.contains_key(&key) {
            let message =
                "has no endpoints: no Pod that is part of the mesh is selected, and no EndpointSlice names one";
            let object = format!("Service {}", item.meta.key());
            problems.push(Problem::of(&item.at, object, Severity::Warning, message));
        }
    }
}

/// Clients of a headless service call its pods, whose ports a guarded waypoint closes.
fn closed_headless_services(
    inventory: &Inventory,
    context: &Context,
    options: &Options,
    closed: &BTreeSet<ServiceKey>,
    problems: &mut Vec<Problem>,
) {
    for item in inventory.services.iter().filter(|item| item.spec.headless) {
        let key = Context::service_key(item, options);
        let service = context.services().get(&key).filter(|_| closed.contains(&key));
        let Some(waypoint) = service.and_then(|service| service.waypoint.as_deref()) else { continue };
        let Waypoint { namespace, name, enforcement, .. } = waypoint;
        let message = format!(
            "is headless, so clients call the addresses of its pods and are refused there: the ports take only what comes \
             through waypoint {namespace}/{name} ({enforcement}); give it a clusterIP, or label it \
             culvert.dev/waypoint-enforcement: off"
        );
        let object = format!("Service {}", item.meta.key());
        problems.push(Problem::of(&item.at, object, Severity::Warning, message).field("spec.clusterIP"));
    }
}

fn selectors_of_nothing(
    inventory: &Inventory,
    context: &Context,
    used: &BTreeSet<PolicyKey>,
    problems: &mut Vec<Problem>,
) {
    for item in inventory.policies.iter() {
        let key = PolicyKey { namespace: item.meta.namespace.clone(), name: item.meta.name.clone() };
        let policy = context.authorizations().get(&key);
        if policy.is_some_and(|policy| policy.scope == Scope::WorkloadSelector) && !used.contains(&key) {
            problems.push(
                Problem::of(
                    &item.at,
                    format!("AuthorizationPolicy {}", item.meta.key()),
                    Severity::Info,
                    "selects no Pod",
                )
                .field("spec.selector"),
            );
        }
    }
    for item in inventory.peers.iter().filter(|item| !item.spec.selector.is_empty()) {
        let mut pods = inventory.pods.of(&item.meta.namespace);
        if !pods.any(|pod| pod.meta.labels.are_selected_by(&item.spec.selector)) {
            problems.push(
                Problem::of(
                    &item.at,
                    format!("PeerAuthentication {}", item.meta.key()),
                    Severity::Info,
                    "selects no Pod",
                )
                .field("spec.selector"),
            );
        }
    }
}

fn duplicates<T>(kind: &str, shelf: &Shelf<T>, problems: &mut Vec<Problem>) {
    for (first, other) in shelf.duplicates() {
        let message = format!("is also in {}, which is in effect", first.at);
        problems.push(Problem::of(&other.at, format!("{kind} {}", other.meta.key()), Severity::Error, message));
    }
}
