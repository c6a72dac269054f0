//! Pure. Pod -> Workload.

use std::fmt;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::objects::holders::{Holder, Title};
use crate::objects::inventory::Inventory;
use crate::objects::kind::{Item, Labels, Pod, Refusal};
use mesh::authority::ranges::Contradiction;
use mesh::model::name::{Name, WorkloadUid};
use mesh::model::policy::PolicyKey;
use mesh::model::waypoint::EnforcementMode;
use mesh::model::workload::{NetworkMode, Standing, TunnelProtocol, Workload, WorkloadService};

use super::context::Context;
use super::foreign::add_service;
use super::options::Options;
use super::waypoint;

/// Label that enrolls a pod or the pods of a namespace.
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// Label by which Istio marks pods that speak HBONE themselves.
const TUNNEL: &str = "networking.istio.io/tunnel";

/// Why a pod is no workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It has run to its end.
    Ended,
    /// It has no address.
    NoAddress,
    /// One of its addresses is a node's.
    NodeAddress(IpAddr, Name),
    /// One of its addresses cannot be a pod's.
    NoClaim(IpAddr, Contradiction),
    /// Another has one of its addresses.
    AddressTaken(IpAddr, Holder),
}

/// Whether a pod is enrolled, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrollment {
    /// It is.
    Enrolled,
    /// Neither its labels nor its namespace's ask for it.
    NotAsked,
    /// It lives in the host's network.
    HostNetwork,
    /// It was asked for, but cannot be.
    Refused(Refusal),
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("it has ended"),
            Self::NoAddress => f.write_str("it has no address: write status.podIP"),
            Self::NodeAddress(address, node) => {
                write!(f, "{address} belongs to Node {node}: an address is a node's before a pod's")
            }
            Self::NoClaim(address, why) => write!(f, "{address} {why}"),
            Self::AddressTaken(address, other @ Holder::Pod(_)) => write!(
                f,
                "{address} belongs to {other}, which keeps it: it is the pod's that the kernel shows, else the pod's \
                 that had it first; between namespaces neither age nor files prove anything"
            ),
            Self::AddressTaken(address, other) => write!(
                f,
                "{address} belongs to {other}, which keeps it: it is the pod's that the kernel shows, else whose claim the \
                 ranges of nodes and Services agree with, else whose it was first; between namespaces neither age nor files \
                 prove anything"
            ),
        }
    }
}

impl Enrollment {
    /// Label `istio.io/dataplane-mode` of the pod, else of its namespace; never for the host's network.
    pub fn of(pod: &Item<Pod>, namespace: &Labels) -> Self {
        let mode = pod.meta.labels.get(DATAPLANE_MODE).or_else(|| namespace.get(DATAPLANE_MODE));
        match (mode.map(Name::as_str), &pod.spec.template.refusal) {
            (Some("ambient"), _) if pod.spec.template.host_network => Self::HostNetwork,
            (Some("ambient"), Some(refusal)) => Self::Refused(refusal.clone()),
            (Some("ambient"), None) => Self::Enrolled,
            _ => Self::NotAsked,
        }
    }
}

impl Context {
    /// What a pod is in the mesh, or why it is nothing.
    pub fn workload(&self, pod: &Item<Pod>, inventory: &Inventory, options: &Options) -> Result<Workload, Left> {
        if pod.spec.ended {
            return Err(Left::Ended);
        }
        if pod.spec.addresses.is_empty() {
            return Err(Left::NoAddress);
        }
        let standing = standing(pod, inventory)?;
        let workload = workload(pod, self, options);
        Ok(match standing {
            // Whoever it is, it serves nobody.
            Standing::Disputed => Workload { standing, services: Box::default(), ..workload },
            standing => Workload { standing, ..workload },
        })
    }
}

fn workload(pod: &Item<Pod>, context: &Context, options: &Options) -> Workload {
    let spec = &pod.spec;
    let template = &*spec.template;
    let workload_name = template.workload_name.as_ref().unwrap_or(&pod.meta.name);
    let labels = &pod.meta.labels;
    let namespace_labels = context.namespace_labels(&pod.meta.namespace);
    let enrolled = Enrollment::of(pod, namespace_labels) == Enrollment::Enrolled;
    let native_tunnel =
        labels.get(TUNNEL).is_some_and(|how| how.as_str() == "http") || context.waypoints.has_instance(pod, options);
    let found = context.waypoint_of(pod, options);
    let enforcement = waypoint::word(labels);
    let mut workload = Workload {
        uid: uid(pod, options),
        name: pod.meta.name.clone(),
        namespace: pod.meta.namespace.clone(),
        addresses: spec.addresses.as_slice().into(),
        network: options.network.clone(),
        protocol: if enrolled || native_tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None },
        native_tunnel,
        may_bypass_waypoint: spec.may_bypass_waypoint || enforcement == Some(EnforcementMode::Off),
        strict_waypoint: enforcement == Some(EnforcementMode::Strict),
        trust_domain: options.trust_domain.clone(),
        service_account: template.service_account.clone(),
        node: spec.node.clone(),
        workload_name: workload_name.clone(),
        workload_type: template.workload_type,
        canonical_name: first_of(labels, &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .unwrap_or_else(|| workload_name.clone()),
        canonical_revision: first_of(
            labels,
            &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
        )
        .unwrap_or_else(|| context.latest.clone()),
        cluster: options.cluster_id.clone(),
        locality: Context::locality(labels).or_else(|| context.node_localities.get(&spec.node).cloned()),
        health: spec.health,
        network_mode: if spec.template.host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard },
        waypoint: found.map(|found| found.waypoint),
        services: Box::default(),
        policies: policies(pod, context),
        capacity: 1,
        standing: Standing::Owner,
        netns: spec.netns.clone(),
    };
    add_services(&mut workload, pod, context);
    // An instance that carries no label of the Gateway is known by the service that it stands behind.
    let home = &pod.meta.namespace;
    if workload.services.iter().any(|served| context.waypoints.is_served_by(&served.service, home, options)) {
        workload.native_tunnel = true;
        workload.protocol = TunnelProtocol::Hbone;
    }
    workload
}

/// The key of a pod in the model.
fn uid(pod: &Item<Pod>, options: &Options) -> WorkloadUid {
    format!("{}//Pod/{}/{}", options.cluster_id, pod.meta.namespace, pod.meta.name).into()
}

fn first_of(labels: &Labels, keys: &[&str]) -> Option<Name> {
    keys.iter().find_map(|key| labels.get(key)).filter(|value| !value.is_empty()).cloned()
}

/// Whether a pod has the addresses that it claims.
fn standing(pod: &Item<Pod>, inventory: &Inventory) -> Result<Standing, Left> {
    if pod.spec.template.host_network {
        return Ok(Standing::Owner);
    }
    let mut standing = Standing::Owner;
    for &address in &pod.spec.addresses {
        match inventory.holders.title(pod, address) {
            Title::Own => {}
            Title::Node(node) => return Err(Left::NodeAddress(address, node)),
            Title::Nothing(why) => return Err(Left::NoClaim(address, why)),
            Title::Taken(other) => return Err(Left::AddressTaken(address, other)),
            Title::Disputed(_) => standing = Standing::Disputed,
        }
    }
    Ok(standing)
}

/// Policies with a selector that selects the pod, and what is asked of its peers.
fn policies(pod: &Item<Pod>, context: &Context) -> Box<[PolicyKey]> {
    let (namespace, labels) = (&pod.meta.namespace, &pod.meta.labels);
    let peer = context.peers.of(namespace, labels);
    let own = context.policies.get(namespace).into_iter().flat_map(|selection| selection.select(labels));
    let root = context.root_policies.select(labels);
    let mut keys: SmallVec<[PolicyKey; 4]> = peer.into_iter().chain(own).chain(root).cloned().collect();
    keys.sort();
    keys.dedup();
    keys.into_vec().into()
}

fn add_services(workload: &mut Workload, pod: &Item<Pod>, context: &Context) {
    let services = &context.services;
    let selecting = services.selecting.get(&pod.meta.namespace);
    let mut selected: Vec<WorkloadService> = selecting
        .into_iter()
        .flat_map(|selection| selection.select(&pod.meta.labels))
        .map(|selecting| WorkloadService {
            service: selecting.service.clone(),
            ports: selecting.ports_on(&pod.spec),
            health: pod.spec.health,
        })
        .collect();
    selected.sort_by(|a, b| a.service.cmp(&b.service));
    selected.dedup_by(|a, b| a.service == b.service);
    workload.services = selected.into();
    let by_pod = if services.by_pod.is_empty() { None } else { services.by_pod.get(&pod.meta.key()) };
    let by_address = pod.spec.addresses.iter().filter(|_| !pod.spec.template.host_network);
    let by_address = by_address.filter_map(|address| services.by_address.get(address)).flatten();
    let written = |place: &u32| services.written.get(*place as usize);
    let named = by_pod.into_iter().flatten().filter_map(written);
    let unnamed = by_address.filter_map(written).filter(|written| written.pod().is_none());
    for written in named.chain(unnamed) {
        let group = &services.groups[written.group];
        add_service(workload, group, written.health);
    }
}
