//! Pure. Which ports of a workload stand behind a waypoint, and who may speak for others there.
//!
//! A CONNECT names an address of the workload, so the destination cannot see whether a service or the workload was
//! addressed. What it can see is the port, and in doubt it refuses:
//! - a port on which a service behind a waypoint stands is covered, whoever else stands on it;
//! - a waypoint for workloads covers every port, except those on which only services without a waypoint stand: what is
//!   addressed to those never goes through it;
//! - a service of another namespace counts for none of this (`authority::standing`).
//!
//! A covered port is closed to what did not come through the waypoint where enforcement says so (`authority::enforcement`):
//! by default, where something at the waypoint guards it. The pod itself may say `off` or `strict` for all its ports. What a
//! waypoint says of its client is believed all the same.

use super::instances::Instances;
use crate::authority::standing::decides_about;
use crate::model::connection::{Facts, OnBehalfOf};
use crate::model::identity::Identity;
use crate::model::waypoint::{Enforcement, Waypoint};
use crate::model::workload::Workload;
use crate::state::snapshot::Snapshot;

/// The waypoints in front of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    behind: Vec<Behind>,
    may_bypass: bool,
    strict: bool,
}

/// One waypoint and what of the workload is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Behind {
    /// `<namespace>/<name>` of the Gateway.
    waypoint: String,
    identities: Vec<Identity>,
    ports: Ports,
    enforcement: Enforcement,
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
            // A service of another namespace gives traffic to the workload and says nothing about it.
            let Some(entry) = mesh.service(&served.service) else { continue };
            if !decides_about(&entry.service, workload) {
                continue;
            }
            let ports: Vec<u16> = served.ports.iter().map(|port| port.target_port).filter(|port| *port != 0).collect();
            match entry.service.waypoint.as_deref() {
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
        Self { behind, may_bypass: workload.may_bypass_waypoint, strict: workload.strict_waypoint }
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
        let closing = self.closing(port)?;
        (!self.vouches(port, peer)).then_some(closing.waypoint.as_str())
    }

    /// Of a port behind a waypoint: which, whether what did not come through it is refused, and why.
    pub fn told(&self, port: u16) -> Option<String> {
        let closing = self.closing(port);
        let Behind { waypoint, enforcement, .. } =
            closing.or_else(|| self.behind.iter().find(|behind| behind.covers(port)))?;
        let state = if closing.is_some() { "takes only what came through" } else { "is open past" };
        let why = match (self.may_bypass, self.strict) {
            (true, _) => "the pod says so".to_owned(),
            (false, true) => "enforcement is strict, says the pod".to_owned(),
            (false, false) => enforcement.to_string(),
        };
        Some(format!("port {port} {state} waypoint {waypoint}: {why}"))
    }

    /// The waypoint that closes a port.
    fn closing(&self, port: u16) -> Option<&Behind> {
        let closes = |behind: &&Behind| (self.strict || behind.enforcement.is_closed()) && behind.covers(port);
        self.behind.iter().find(closes).filter(|_| !self.may_bypass)
    }

    /// Whether `peer` is a waypoint in front of `port`, and so may speak for its clients.
    fn vouches(&self, port: u16, peer: Option<&Identity>) -> bool {
        let Some(peer) = peer else { return false };
        self.behind.iter().any(|behind| behind.covers(port) && behind.identities.contains(peer))
    }

    /// The connection as it is to be told: what a waypoint says of its client is believed, of anyone else it is as if it
    /// had not been said.
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

    /// The client that a peer names without being a waypoint in front of the port. It is judged besides the peer itself:
    /// to name a client can only narrow what a peer may do, so that a waypoint lends its own identity to nobody.
    pub fn unproven<'a>(&self, facts: &'a Facts) -> Option<&'a OnBehalfOf> {
        let vouched = self.vouches(facts.destination.port(), facts.source_identity.as_ref());
        facts.on_behalf_of.as_deref().filter(|_| !vouched)
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
        let identities = Instances::of(mesh, waypoint).map(|instances| instances.identities()).unwrap_or_default();
        Self { waypoint: name, identities, ports, enforcement: waypoint.enforcement.clone() }
    }

    fn covers(&self, port: u16) -> bool {
        match &self.ports {
            Ports::These(ports) => ports.contains(&port),
            Ports::AllBut(ports) => !ports.contains(&port),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::connection::OnBehalfOf;
    use crate::model::service::{Reach, Service};
    use crate::model::update::Update;
    use crate::model::waypoint::WaypointDestination;
    use crate::model::workload::{Health, WorkloadService};
    use crate::state::store::Store;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn behind(name: &str) -> Option<Box<Waypoint>> {
        let wp = Service::sample(name, "default", &[], &[]);
        let destination = WaypointDestination::Service { namespace: "default".into(), hostname: wp.key.hostname };
        Some(Box::new(Waypoint::sample("default", name, Some(destination))))
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
            health: Health::Healthy,
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
            health: Health::Unhealthy,
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

    #[test]
    fn a_port_that_nothing_guards_is_open_and_its_waypoint_is_still_believed() {
        let open = |enforcement: Enforcement, change: fn(&mut Workload)| {
            let mut shop = Service::sample("shop", "default", &[ip("10.96.0.1")], &[(80, 8080)]);
            let waypoint = behind("wp").map(|waypoint| Waypoint { enforcement, ..*waypoint });
            shop.waypoint = waypoint.map(Box::new);
            let serves =
                WorkloadService { service: shop.key.clone(), ports: shop.ports.clone(), health: Health::Healthy };
            let wp = Service::sample("wp", "default", &[ip("10.96.0.9")], &[(15008, 15008)]);
            let instance = Workload {
                services: [WorkloadService {
                    service: wp.key.clone(),
                    ports: wp.ports.clone(),
                    health: Health::Healthy,
                }]
                .into(),
                service_account: "wp".into(),
                ..Workload::sample("wp-1", "default", &[ip("10.0.0.9")])
            };
            let mut pod =
                Workload { services: [serves].into(), ..Workload::sample("shop-1", "default", &[ip("10.0.0.1")]) };
            change(&mut pod);
            let store = Store::new(None);
            let updates = [shop, wp].map(|service| Update::Service(Box::new(service))).into_iter();
            store.apply(updates.chain([pod.clone(), instance].map(|workload| Update::Workload(Box::new(workload)))));
            let cover = Cover::of(&store.snapshot(), &pod);
            assert_eq!(cover.believed(&said_by("wp", 8080)).identity, Some(&id("client")));
            (cover.bypassed(8080, None).is_none(), cover.told(8080).unwrap())
        };
        let guarded = || Enforcement::Guarded("AuthorizationPolicy default/p".into());
        let cases: [(Enforcement, fn(&mut Workload), bool, &str); 6] = [
            (Enforcement::Unguarded, |_| (), true, "is open past waypoint default/wp: nothing guards"),
            (Enforcement::Off("Service default/shop".into()), |_| (), true, "off, says Service default/shop"),
            (
                guarded(),
                |_| (),
                false,
                "only what came through waypoint default/wp: AuthorizationPolicy default/p guards it",
            ),
            (Enforcement::Strict("Namespace default".into()), |_| (), false, "strict, says Namespace default"),
            (Enforcement::Unguarded, |pod| pod.strict_waypoint = true, false, "strict, says the pod"),
            (
                guarded(),
                |pod| pod.may_bypass_waypoint = true,
                true,
                "is open past waypoint default/wp: the pod says so",
            ),
        ];
        for (enforcement, change, expected, why) in cases {
            let (open, told) = open(enforcement, change);
            assert_eq!(open, expected, "{told}");
            assert!(told.contains(why), "{told}");
        }
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
            assert_eq!(cover.unproven(&facts).map(|client| &client.identity), Some(&id("client")), "{peer} {port}");
        }
        assert_eq!(cover.unproven(&said_by("wp", 8080)), None);
    }

    #[test]
    fn a_service_of_another_namespace_covers_nothing_and_opens_nothing() {
        // `trap` of `evil` has the pod as an endpoint on port 8080, behind a waypoint that is not there.
        let trap = |waypoint, root| Service {
            waypoint,
            reach: Reach { root, ..Reach::default() },
            ..Service::sample("trap", "evil", &[ip("10.96.6.6")], &[(80, 8080), (81, 7000)])
        };
        let of = |trap: Service, waypoint: Option<Box<Waypoint>>| {
            let serves =
                WorkloadService { service: trap.key.clone(), ports: trap.ports.clone(), health: Health::Healthy };
            let pod = Workload {
                services: [serves].into(),
                waypoint,
                ..Workload::sample("vault", "default", &[ip("10.0.0.1")])
            };
            let store = Store::new(None);
            store.apply([Update::Service(Box::new(trap)), Update::Workload(Box::new(pod.clone()))]);
            Cover::of(&store.snapshot(), &pod)
        };
        let closed = |cover: &Cover| cover.bypassed(8080, Some(&id("client"))).map(str::to_owned);
        assert_eq!(closed(&of(trap(behind("gone"), false), None)), None, "nobody is shut out by it");
        assert_eq!(closed(&of(trap(behind("gone"), true), None)), Some("default/gone".into()), "a root may");
        let own = behind("own");
        assert_eq!(closed(&of(trap(None, false), own.clone())), Some("default/own".into()), "nobody is let in by it");
        assert_eq!(closed(&of(trap(behind("evil"), false), own)), Some("default/own".into()));
    }
}
