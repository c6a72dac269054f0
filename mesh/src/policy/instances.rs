//! Pure. The instances of a waypoint: traffic for the waypoint goes to them, and agents trust the client that they
//! name.
//!
//! A workload at a waypoint's address or behind its service is an instance only if the Gateway may decide so
//! (`authority::standing`): any other workload there gets no traffic and is not trusted.

use std::sync::Arc;

use crate::authority::standing::{may_be_instance, may_hold_instances, may_speak_as};
use crate::model::identity::Identity;
use crate::model::service::{Service, ServiceKey};
use crate::model::waypoint::{Waypoint, WaypointDestination};
use crate::model::workload::{Health, Workload};
use crate::state::snapshot::{ServiceEntry, Snapshot};

/// The instances of a waypoint, those that are not ready included.
#[derive(Clone, Debug)]
pub enum Instances {
    /// Endpoints of a service; all of them are instances.
    Service(Arc<ServiceEntry>),
    /// One workload.
    Workload(Arc<Workload>),
}

impl Instances {
    /// The instances of a waypoint; `None` if it has none, or none that the Gateway may have.
    pub fn of(mesh: &Snapshot, waypoint: &Waypoint) -> Option<Self> {
        match waypoint.destination.as_ref()? {
            WaypointDestination::Service { namespace, hostname } => {
                let key = ServiceKey { namespace: namespace.clone(), hostname: hostname.clone() };
                Self::of_service(waypoint, mesh.service(&key)?)
            }
            WaypointDestination::Address { network, address } => {
                // Only a pod proves who owns the address: any service may claim it, and anybody may write an endpoint
                // with it.
                let own = |workload: &Workload| workload.native_tunnel || workload.namespace == waypoint.namespace;
                let pod = mesh.workload_at(network, *address);
                if let Some(pod) = pod.filter(|workload| own(workload) && may_be_instance(waypoint, workload)) {
                    return Some(Self::Workload(Arc::clone(pod)));
                }
                let service = mesh.service_at(network, *address, &waypoint.namespace);
                Self::of_service(waypoint, service.filter(|entry| entry.service.key.namespace == waypoint.namespace)?)
            }
        }
    }

    fn of_service(waypoint: &Waypoint, entry: &Arc<ServiceEntry>) -> Option<Self> {
        if !may_hold_instances(waypoint, &entry.service) {
            return None;
        }
        let names = &entry.service.subject_alt_names;
        let all = entry.endpoints.iter().all(|endpoint| may_be_instance(waypoint, &endpoint.workload))
            && names.iter().all(|name| may_speak_as(waypoint, name));
        if all {
            return Some(Self::Service(Arc::clone(entry)));
        }
        let endpoints = entry.endpoints.iter().filter(|endpoint| may_be_instance(waypoint, &endpoint.workload));
        let service = Service {
            subject_alt_names: names.iter().filter(|name| may_speak_as(waypoint, name)).cloned().collect(),
            ..(*entry.service).clone()
        };
        let endpoints = endpoints.cloned().collect();
        Some(Self::Service(Arc::new(ServiceEntry { service: Arc::new(service), endpoints })))
    }

    /// Whether any of them serves traffic, those that are terminating included.
    pub fn serve(&self) -> bool {
        let serves = |health: Health| health != Health::Unhealthy;
        match self {
            Self::Service(entry) => entry.endpoints.iter().any(|endpoint| serves(endpoint.health)),
            Self::Workload(workload) => serves(workload.health),
        }
    }

    /// The identities of all instances, each once. Those that are not ready count: they still have connections.
    pub fn identities(&self) -> Vec<Identity> {
        let mut found: Vec<Identity> = match self {
            Self::Service(entry) => {
                let instances = entry.endpoints.iter().map(|endpoint| endpoint.workload.identity());
                instances.chain(entry.service.subject_alt_names.iter().cloned()).collect()
            }
            Self::Workload(workload) => vec![workload.identity()],
        };
        found.sort();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::update::Update;
    use crate::model::workload::WorkloadService;
    use crate::state::store::Store;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of_gateway(store: &Store, destination: WaypointDestination, root: bool) -> Option<Vec<String>> {
        let waypoint = Waypoint { root, ..Waypoint::sample("shop", "gate", Some(destination)) };
        let instances = Instances::of(&store.snapshot(), &waypoint)?;
        Some(instances.identities().iter().map(ToString::to_string).collect())
    }

    fn at(address: &str) -> WaypointDestination {
        WaypointDestination::Address { network: Default::default(), address: ip(address) }
    }

    fn behind(service: &Service) -> WaypointDestination {
        WaypointDestination::Service {
            namespace: service.key.namespace.clone(),
            hostname: service.key.hostname.clone(),
        }
    }

    #[test]
    fn a_pod_of_another_namespace_behind_the_service_of_a_waypoint_is_none_of_its_instances() {
        let gate = Service {
            subject_alt_names: ["shop", "bank"].map(|of| Identity::new("cluster.local", of, "said")).into(),
            ..Service::sample("gate", "shop", &[ip("10.96.0.9")], &[(15008, 15008)])
        };
        let serving = |name: &str, namespace: &str, address: &str| Workload {
            services: [WorkloadService {
                service: gate.key.clone(),
                ports: gate.ports.clone(),
                health: Health::Healthy,
            }]
            .into(),
            ..Workload::sample(name, namespace, &[ip(address)])
        };
        let store = Store::new(None);
        store.apply([
            Update::Service(Box::new(gate.clone())),
            Update::Workload(Box::new(serving("gate", "shop", "10.0.0.1"))),
            Update::Workload(Box::new(serving("vault", "bank", "10.0.0.2"))),
        ]);
        let own = ["default", "said"].map(|account| format!("spiffe://cluster.local/ns/shop/sa/{account}")).to_vec();
        for destination in [behind(&gate), at("10.96.0.9")] {
            assert_eq!(of_gateway(&store, destination.clone(), false), Some(own.clone()));
            assert_eq!(of_gateway(&store, destination, true).map(|all| all.len()), Some(4), "a root speaks for all");
        }
    }

    #[test]
    fn what_stands_at_the_address_of_a_waypoint_must_be_its_own() {
        let taken = Service::sample("trap", "evil", &[ip("10.0.0.1")], &[(15008, 15008)]);
        let store = Store::new(None);
        store.apply([
            Update::Service(Box::new(taken.clone())),
            Update::Workload(Box::new(Workload {
                native_tunnel: true,
                ..Workload::sample("gate", "shop", &[ip("10.0.0.1")])
            })),
            Update::Workload(Box::new(Workload {
                native_tunnel: true,
                ..Workload::sample("vault", "bank", &[ip("10.0.0.2")])
            })),
            // As an endpoint that somebody wrote down: no pod.
            Update::Workload(Box::new(Workload::sample("written", "evil", &[ip("10.0.0.4")]))),
        ]);
        assert_eq!(of_gateway(&store, at("10.0.0.4"), true), None, "nobody's word makes a root's waypoint");
        let gate = vec!["spiffe://cluster.local/ns/shop/sa/default".to_owned()];
        assert_eq!(of_gateway(&store, at("10.0.0.1"), false), Some(gate), "whoever else claims the address");
        assert_eq!(of_gateway(&store, at("10.0.0.2"), false), None);
        assert_eq!(of_gateway(&store, behind(&taken), false), None);
        assert_eq!(of_gateway(&store, at("10.0.0.3"), false), None);
    }
}
