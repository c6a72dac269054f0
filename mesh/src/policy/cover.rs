//! Pure. Which ports of a workload stand behind a waypoint, and who may speak for others there.
//!
//! A CONNECT names an address of the workload, so the destination cannot see whether a service or the workload was
//! addressed. What it can see is the port, and in doubt it refuses:
//! - a port on which a service behind a waypoint stands is covered, whoever else stands on it;
//! - a waypoint for workloads covers every port, except those on which only services without a waypoint stand: what is
//!   addressed to those never goes through it.
//!
//! Annotation `culvert.dev/allow-waypoint-bypass` of the pod lets the rest in again; waypoints are believed all the same.

use crate::model::connection::Facts;
use crate::model::identity::Identity;
use crate::model::service::ServiceKey;
use crate::model::waypoint::{Waypoint, WaypointDestination};
use crate::model::workload::Workload;
use crate::state::snapshot::Snapshot;

/// The waypoints in front of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    behind: Vec<Behind>,
    may_bypass: bool,
}

/// One waypoint and what of the workload is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Behind {
    /// `<namespace>/<name>` of the Gateway.
    waypoint: String,
    identities: Vec<Identity>,
    ports: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ports {
    These(Vec<u16>),
    AllBut(Vec<u16>),
}

impl Cover {
    /// The waypoints in front of `workload`.
    pub fn of(mesh: &Snapshot, workload: &Workload) -> Self {
        let mut behind = Vec::new();
        let (mut covered, mut open) = (Vec::new(), Vec::new());
        for served in &workload.services {
            let ports: Vec<u16> = served.ports.iter().map(|port| port.target_port).filter(|port| *port != 0).collect();
            let waypoint = mesh.service(&served.service).and_then(|entry| entry.service.waypoint.as_deref());
            match waypoint {
                None => open.extend(ports),
                Some(waypoint) => {
                    covered.extend_from_slice(&ports);
                    behind.push(Behind::new(mesh, waypoint, Ports::These(ports)));
                }
            }
        }
        if let Some(waypoint) = workload.waypoint.as_deref() {
            open.retain(|port| !covered.contains(port));
            behind.push(Behind::new(mesh, waypoint, Ports::AllBut(open)));
        }
        Self { behind, may_bypass: workload.may_bypass_waypoint }
    }

    /// Whether no waypoint is in front of anything.
    pub fn is_empty(&self) -> bool {
        self.behind.is_empty()
    }

    /// Every port that is named, one way or the other.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.behind.iter().flat_map(|behind| match &behind.ports {
            Ports::These(ports) | Ports::AllBut(ports) => ports.iter().copied(),
        })
    }

    /// The waypoint that a connection of `peer` to `port` should have come through and did not.
    pub fn bypassed(&self, port: u16, peer: Option<&Identity>) -> Option<&str> {
        if self.may_bypass || self.vouches(port, peer) {
            return None;
        }
        self.behind.iter().find(|behind| behind.covers(port)).map(|behind| behind.waypoint.as_str())
    }

    /// Whether `peer` is a waypoint in front of `port`, and so may speak for its clients.
    fn vouches(&self, port: u16, peer: Option<&Identity>) -> bool {
        let Some(peer) = peer else { return false };
        self.behind.iter().any(|behind| behind.covers(port) && behind.identities.contains(peer))
    }

    /// The connection as it is to be judged and told: what a waypoint says of its client is believed, of anyone else it
    /// is as if it had not been said.
    pub fn believed<'a>(&self, facts: &'a Facts) -> Believed<'a> {
        let said = facts.on_behalf_of.as_deref();
        let said = said.filter(|_| self.vouches(facts.destination.port(), facts.source_identity.as_ref()));
        match said {
            None => Believed { identity: facts.source_identity.as_ref(), source: Some(facts.source), via: None },
            Some(client) => Believed {
                identity: Some(&client.identity),
                source: client.source,
                via: facts.source_identity.as_ref(),
            },
        }
    }
}

/// Who calls, after all that may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Believed<'a> {
    /// The client's identity.
    pub identity: Option<&'a Identity>,
    /// The client's socket; `None` when a waypoint speaks for several at once.
    pub source: Option<std::net::SocketAddr>,
    /// The waypoint that said so.
    pub via: Option<&'a Identity>,
}

impl Behind {
    fn new(mesh: &Snapshot, waypoint: &Waypoint, ports: Ports) -> Self {
        let name = format!("{}/{}", waypoint.namespace, waypoint.name);
        Self { waypoint: name, identities: identities(mesh, waypoint), ports }
    }

    fn covers(&self, port: u16) -> bool {
        match &self.ports {
            Ports::These(ports) => ports.contains(&port),
            Ports::AllBut(ports) => !ports.contains(&port),
        }
    }
}

/// Who the instances of a waypoint are, those that are not ready included: they still have connections.
fn identities(mesh: &Snapshot, waypoint: &Waypoint) -> Vec<Identity> {
    let of_service = |key: &ServiceKey| {
        let Some(entry) = mesh.service(key) else { return Vec::new() };
        let instances = entry.endpoints.iter().map(|endpoint| endpoint.workload.identity());
        instances.chain(entry.service.subject_alt_names.iter().cloned()).collect()
    };
    let mut found: Vec<Identity> = match &waypoint.destination {
        None => Vec::new(),
        Some(WaypointDestination::Service { namespace, hostname }) => {
            of_service(&ServiceKey { namespace: namespace.clone(), hostname: hostname.clone() })
        }
        Some(WaypointDestination::Address { network, address }) => {
            match mesh.service_at(network, *address, &waypoint.namespace) {
                Some(entry) => of_service(&entry.service.key),
                None => mesh.workload_at(network, *address).map(|workload| workload.identity()).into_iter().collect(),
            }
        }
    };
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::connection::OnBehalfOf;
    use crate::model::service::Service;
    use crate::model::update::Update;
    use crate::model::workload::WorkloadService;
    use crate::state::store::Store;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn behind(name: &str) -> Option<Box<Waypoint>> {
        let wp = Service::sample(name, "default", &[], &[]);
        let destination = WaypointDestination::Service { namespace: "default".into(), hostname: wp.key.hostname };
        Some(Box::new(Waypoint {
            namespace: "default".into(),
            name: name.into(),
            destination: Some(destination),
            hbone_port: 15008,
        }))
    }

    /// `shop` (port 8080) is behind waypoint `wp`, whose pod is not ready; `plain` (8080 and 9090) is behind none.
    fn cover(change: impl FnOnce(&mut Workload)) -> Cover {
        let wp = Service::sample("wp", "default", &[ip("10.96.0.9")], &[(15008, 15008)]);
        let shop =
            Service { waypoint: behind("wp"), ..Service::sample("shop", "default", &[ip("10.96.0.1")], &[(80, 8080)]) };
        let plain = Service::sample("plain", "default", &[ip("10.96.0.2")], &[(80, 8080), (90, 9090)]);
        let serves = |service: &Service| WorkloadService {
            service: service.key.clone(),
            ports: service.ports.clone(),
            health: crate::model::workload::Health::Healthy,
        };
        let mut pod = Workload {
            services: [serves(&shop), serves(&plain)].into(),
            ..Workload::sample("shop-1", "default", &[ip("10.0.0.1")])
        };
        change(&mut pod);
        let instance = Workload {
            services: [serves(&wp)].into(),
            native_tunnel: true,
            service_account: "wp".into(),
            health: crate::model::workload::Health::Unhealthy,
            ..Workload::sample("wp-1", "default", &[ip("10.0.0.9")])
        };
        let store = Store::new(None);
        store.apply(
            [wp, shop, plain]
                .map(|service| Update::Service(Box::new(service)))
                .into_iter()
                .chain([pod.clone(), instance].map(|workload| Update::Workload(Box::new(workload)))),
        );
        Cover::of(&store.snapshot(), &pod)
    }

    fn id(account: &str) -> Identity {
        Identity::new("cluster.local", "default", account)
    }

    #[test]
    fn a_port_of_a_covered_service_takes_its_waypoint_and_nobody_else() {
        let cover = cover(|_| ());
        assert_eq!(cover.bypassed(8080, Some(&id("wp"))), None);
        assert_eq!(cover.bypassed(8080, Some(&id("client"))), Some("default/wp"));
        assert_eq!(cover.bypassed(8080, None), Some("default/wp"));
        for port in [9090, 7000] {
            assert_eq!(cover.bypassed(port, None), None, "{port}");
        }
    }

    #[test]
    fn a_waypoint_for_the_workload_covers_all_but_ports_of_services_without_one() {
        let cover = cover(|pod| pod.waypoint = behind("wp"));
        for port in [8080, 7000] {
            assert_eq!(cover.bypassed(port, Some(&id("client"))), Some("default/wp"), "{port}");
        }
        assert_eq!(cover.bypassed(9090, Some(&id("client"))), None);
    }

    #[test]
    fn a_waypoint_that_is_not_there_lets_nobody_through() {
        let cover = cover(|pod| pod.waypoint = behind("gone"));
        assert_eq!(cover.bypassed(7000, Some(&id("wp"))), Some("default/gone"));
    }

    #[test]
    fn the_annotation_lets_others_in_and_waypoints_are_still_believed() {
        let cover = cover(|pod| pod.may_bypass_waypoint = true);
        assert_eq!(cover.bypassed(8080, None), None);
        assert_eq!(cover.believed(&said_by("wp", 8080)).identity, Some(&id("client")));
    }

    fn said_by(peer: &str, port: u16) -> Facts {
        Facts {
            source: "10.0.0.9:1".parse().unwrap(),
            source_identity: Some(id(peer)),
            destination: format!("10.0.0.1:{port}").parse().unwrap(),
            on_behalf_of: Some(Box::new(OnBehalfOf { identity: id("client"), source: None })),
        }
    }

    #[test]
    fn only_a_waypoint_of_the_port_is_believed() {
        let cover = cover(|_| ());
        let facts = said_by("wp", 8080);
        let believed = cover.believed(&facts);
        assert_eq!((believed.identity, believed.source), (Some(&id("client")), None));
        assert_eq!(believed.via, Some(&id("wp")));
        for (peer, port) in [("other", 8080), ("wp", 9090)] {
            let facts = said_by(peer, port);
            let believed = cover.believed(&facts);
            assert_eq!((believed.identity, believed.via), (Some(&id(peer)), None), "{peer} {port}");
            assert_eq!(believed.source, Some(facts.source));
        }
    }
}
