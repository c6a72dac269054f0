//! Pure. Waypoint coverage: which ports of a workload are behind a waypoint, and who may call on behalf of others
//! there.
//!
//! The authority of a CONNECT is an address of the workload, so the destination cannot see whether a service or the
//! workload was addressed. It can see the port, and refuses when in doubt:
//! - a port of a service behind a waypoint is covered, whichever other services have it;
//! - a waypoint for workloads covers every port, except those of services without a waypoint only: traffic to those
//!   never goes through it;
//! - a service of another namespace has no effect here (`authority::standing`).
//!
//! A covered port refuses traffic that bypasses the waypoint if enforcement says so (`authority::enforcement`): by
//! default, if a policy at the waypoint guards it. The pod itself may say `off` or `strict` for all its ports. What a
//! waypoint says about its client is trusted in any case.

use super::instances::Instances;
use crate::authority::standing::decides_about;
use crate::model::connection::{Facts, OnBehalfOf};
use crate::model::identity::Identity;
use crate::model::waypoint::{Enforcement, Waypoint};
use crate::model::workload::Workload;
use crate::state::snapshot::Snapshot;

/// The waypoints in front of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaypointCoverage {
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

impl WaypointCoverage {
    /// The waypoints in front of `workload`.
    pub fn of(mesh: &Snapshot, workload: &Workload) -> Self {
        let mut behind = Vec::new();
        let (mut covered, mut open) = (Vec::new(), Vec::new());
        for served in &workload.services {
            // A service of another namespace sends traffic to the workload and decides nothing about it.
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

    /// Whether no port is covered.
    pub fn is_empty(&self) -> bool {
        self.behind.is_empty()
    }

    /// Every port that is covered or excepted.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.behind.iter().flat_map(|behind| match &behind.ports {
            Ports::These(ports) | Ports::AllBut(ports) => ports.iter().copied(),
        })
    }

    /// The waypoint that a connection of `peer` to `port` has bypassed and must not.
    pub fn bypassed(&self, port: u16, peer: Option<&Identity>) -> Option<&str> {
        let closing = self.closing(port)?;
        (!self.is_waypoint_for(port, peer)).then_some(closing.waypoint.as_str())
    }

    /// Describes a covered port: its waypoint, whether bypassing is refused, and why.
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

    /// Whether `peer` is a waypoint for `port`, and so may call on behalf of clients.
    fn is_waypoint_for(&self, port: u16, peer: Option<&Identity>) -> bool {
        let Some(peer) = peer else { return false };
        self.behind.iter().any(|behind| behind.covers(port) && behind.identities.contains(peer))
    }

    /// The client that policy judges: the one that a waypoint names, or the peer itself if it is no waypoint.
    pub fn effective_client<'a>(&self, facts: &'a Facts) -> EffectiveClient<'a> {
        let said = facts.on_behalf_of.as_deref();
        let said = said.filter(|_| self.is_waypoint_for(facts.destination.port(), facts.source_identity.as_ref()));
        match said {
            None => EffectiveClient { identity: facts.source_identity.as_ref(), source: Some(facts.source), via: None },
            Some(client) => EffectiveClient {
                identity: Some(&client.identity),
                source: client.source,
                via: facts.source_identity.as_ref(),
            },
        }
    }

    /// The client named by a peer that is no waypoint for the port. It is judged in addition to the peer: naming a
    /// client can only narrow what a peer may do, so a waypoint lends its own identity to nobody.
    pub fn unverified_client<'a>(&self, facts: &'a Facts) -> Option<&'a OnBehalfOf> {
        let is_waypoint = self.is_waypoint_for(facts.destination.port(), facts.source_identity.as_ref());
        facts.on_behalf_of.as_deref().filter(|_| !is_waypoint)
    }
}

/// The client that policy judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffectiveClient<'a> {
    /// The client's identity.
    pub identity: Option<&'a Identity>,
    /// The client's socket; `None` if a waypoint calls on behalf of several at once.
    pub source: Option<std::net::SocketAddr>,
    /// The waypoint that named it.
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
    fn coverage_of(change: impl FnOnce(&mut Workload)) -> WaypointCoverage {
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
        WaypointCoverage::of(&store.snapshot(), &pod)
    }

    fn id(account: &str) -> Identity {
        Identity::new("cluster.local", "default", account)
    }

    #[test]
    fn a_port_of_a_covered_service_takes_its_waypoint_and_nobody_else() {
        let coverage = coverage_of(|_| ());
        assert_eq!(coverage.bypassed(8080, Some(&id("wp"))), None);
        assert_eq!(coverage.bypassed(8080, Some(&id("client"))), Some("default/wp"));
        assert_eq!(coverage.bypassed(8080, None), Some("default/wp"));
        for port in [9090, 7000] {
            assert_eq!(coverage.bypassed(port, None), None, "{port}");
        }
    }

    #[test]
    fn a_waypoint_for_the_workload_covers_all_but_ports_of_services_without_one() {
        let coverage = coverage_of(|pod| pod.waypoint = behind("wp"));
        for port in [8080, 7000] {
            assert_eq!(coverage.bypassed(port, Some(&id("client"))), Some("default/wp"), "{port}");
        }
        assert_eq!(coverage.bypassed(9090, Some(&id("client"))), None);
    }

    #[test]
    fn a_waypoint_that_is_not_there_lets_nobody_through() {
        let coverage = coverage_of(|pod| pod.waypoint = behind("gone"));
        assert_eq!(coverage.bypassed(7000, Some(&id("wp"))), Some("default/gone"));
    }

    #[test]
    fn the_annotation_lets_others_in_and_waypoints_are_still_trusted() {
        let coverage = coverage_of(|pod| pod.may_bypass_waypoint = true);
        assert_eq!(coverage.bypassed(8080, None), None);
        assert_eq!(coverage.effective_client(&said_by("wp", 8080)).identity, Some(&id("client")));
    }

    #[test]
    fn a_port_that_nothing_guards_is_open_and_its_waypoint_is_still_trusted() {
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
            let coverage = WaypointCoverage::of(&store.snapshot(), &pod);
            assert_eq!(coverage.effective_client(&said_by("wp", 8080)).identity, Some(&id("client")));
            (coverage.bypassed(8080, None).is_none(), coverage.told(8080).unwrap())
        };
        let guarded = || Enforcement::Guarded("AuthorizationPolicy default/p".into());
        type Change = fn(&mut Workload);
        let cases: [(Enforcement, Change, bool, &str); 6] = [
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
    fn only_a_waypoint_of_the_port_is_trusted() {
        let coverage = coverage_of(|_| ());
        let facts = said_by("wp", 8080);
        let client = coverage.effective_client(&facts);
        assert_eq!((client.identity, client.source), (Some(&id("client")), None));
        assert_eq!(client.via, Some(&id("wp")));
        for (peer, port) in [("other", 8080), ("wp", 9090)] {
            let facts = said_by(peer, port);
            let client = coverage.effective_client(&facts);
            assert_eq!((client.identity, client.via), (Some(&id(peer)), None), "{peer} {port}");
            assert_eq!(client.source, Some(facts.source));
            assert_eq!(
                coverage.unverified_client(&facts).map(|client| &client.identity),
                Some(&id("client")),
                "{peer} {port}"
            );
        }
        assert_eq!(coverage.unverified_client(&said_by("wp", 8080)), None);
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
            WaypointCoverage::of(&store.snapshot(), &pod)
        };
        let closed = |coverage: &WaypointCoverage| coverage.bypassed(8080, Some(&id("client"))).map(str::to_owned);
        assert_eq!(closed(&of(trap(behind("gone"), false), None)), None, "nobody is shut out by it");
        assert_eq!(closed(&of(trap(behind("gone"), true), None)), Some("default/gone".into()), "a root may");
        let own = behind("own");
        assert_eq!(closed(&of(trap(None, false), own.clone())), Some("default/own".into()), "nobody is let in by it");
        assert_eq!(closed(&of(trap(behind("evil"), false), own)), Some("default/own".into()));
    }
}
