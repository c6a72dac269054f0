//! Pure. Converts endpoints of EndpointSlices and ServiceEntries that are not pods to workloads.

use std::net::IpAddr;

use crate::objects::inventory::Inventory;
use mesh::model::name::{Name, NodeName};
use mesh::model::workload::{
    Health, Locality, NetworkMode, Standing, TunnelProtocol, Workload, WorkloadService, WorkloadType,
};

use super::options::Options;
use super::service::{Group, Services, Written, WrittenIn};

/// The workload of the endpoints with an address, if it is no pod's.
pub(super) fn workload_at(
    address: IpAddr,
    services: &Services,
    inventory: &Inventory,
    options: &Options,
) -> Option<Workload> {
    // A cluster IP is the address of a service, so it cannot be an endpoint of one.
    if services.has_cluster_ip(address) {
        return None;
    }
    let mut found: Option<Workload> = None;
    for &place in services.by_address.get(&address)? {
        let Some(written) = services.written.get(place as usize).filter(|written| !is_pod(written, inventory)) else {
            continue;
        };
        let group = &services.groups[written.group];
        add_service(found.get_or_insert_with(|| workload(written, options)), group, written.health);
    }
    found
}

/// Makes a workload an endpoint, or adds ports if it already is one. If its health is given twice, as by one slice for
/// each address family, the better one is used.
pub(super) fn add_service(workload: &mut Workload, group: &Group, health: Health) {
    let Group { service, ports } = group;
    let mut services = std::mem::take(&mut workload.services).into_vec();
    match services.iter_mut().find(|known| &known.service == service) {
        Some(known) => {
            let mut merged = std::mem::take(&mut known.ports).into_vec();
            merged.extend(
                ports.iter().filter(|port| !known_port(&merged, port.service_port)).cloned().collect::<Vec<_>>(),
            );
            known.ports = merged.into();
            known.health = known.health.min(health);
        }
        None => services.push(WorkloadService { service: service.clone(), ports: ports.clone(), health }),
    }
    workload.services = services.into();
}

fn known_port(ports: &[mesh::model::service::ServicePort], service_port: u16) -> bool {
    ports.iter().any(|port| port.service_port == service_port)
}

/// Whether the endpoint is a pod that is known, or claims the address of one: then there is no workload but the pod.
fn is_pod(written: &Written, inventory: &Inventory) -> bool {
    let named = written.pod();
    named.is_some_and(|(namespace, name)| inventory.pods.get(namespace, name).is_some())
        || !inventory.claimants(written.address).is_empty()
}

fn workload(written: &Written, options: &Options) -> Workload {
    let (node, locality, service_account, capacity) = match &written.origin {
        WrittenIn::Slice { slice, index } => {
            let endpoint = &slice.spec.endpoints[*index];
            let zone = Some(&endpoint.zone).filter(|zone| !zone.is_empty());
            let locality = zone.map(|zone| Box::new(Locality { zone: zone.clone(), ..Locality::default() }));
            (endpoint.node.clone(), locality, "default".into(), 1)
        }
        WrittenIn::Entry { entry, index } => {
            let endpoint = &entry.spec.endpoints[*index];
            (NodeName::default(), None, endpoint.service_account.clone(), endpoint.weight)
        }
    };
    Workload {
        uid: written.uid.as_str().into(),
        name: written.name.clone(),
        namespace: written.namespace.clone(),
        addresses: [written.address].into(),
        network: options.network.clone(),
        protocol: TunnelProtocol::None,
        native_tunnel: false,
        may_bypass_waypoint: false,
        strict_waypoint: false,
        trust_domain: options.trust_domain.clone(),
        service_account,
        node,
        workload_name: written.name.clone(),
        workload_type: WorkloadType::Pod,
        canonical_name: written.name.clone(),
        canonical_revision: Name::from("latest"),
        cluster: options.cluster_id.clone(),
        locality,
        health: written.health,
        network_mode: NetworkMode::Standard,
        waypoint: None,
        services: Box::default(),
        policies: Box::default(),
        capacity,
        standing: Standing::Endpoint,
        netns: None,
    }
}
