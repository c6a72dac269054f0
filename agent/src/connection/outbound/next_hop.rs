//! Pure. The next hop of one outbound connection.
//!
//! [`resolve`] maps the original destination to a workload, service or waypoint; for a service, an endpoint is picked
//! then and [`to_endpoint`] says how it is reached. If connecting fails, only the second step is repeated for another
//! endpoint.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh::model::connection::{Fault, ResponseFlag};
use mesh::model::hop;
use mesh::model::identity::Identity;
use mesh::model::service::{BalanceMode, ServiceKey};
use mesh::model::waypoint::HBONE_PORT;
use mesh::model::waypoint::Waypoint;
use mesh::model::workload::{Standing, Workload};
use mesh::policy::instances::Instances;
use mesh::state::endpoints::Endpoint;
use mesh::state::snapshot::{ServiceEntry, Snapshot};
use thiserror::Error;

use crate::connection::failure::Failure;

/// What is at the original destination.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// Outside the mesh: plain TCP to the original destination.
    Outside(SocketAddr),
    /// One workload, by its own address.
    Workload(Arc<Workload>, SocketAddr),
    /// A port of a service: any of its endpoints.
    Service(Arc<ServiceEntry>, u16),
    /// A waypoint, which forwards the connection.
    Waypoint(Box<ToWaypoint>),
}

/// A destination behind a waypoint.
#[derive(Clone, Debug)]
pub(crate) struct ToWaypoint {
    /// `<namespace>/<name>` of the Gateway.
    pub(crate) gateway: Box<str>,
    /// The waypoint's instances.
    pub(crate) instances: Instances,
    /// HBONE port of the instances.
    pub(crate) hbone_port: u16,
    /// The original destination, untranslated: the authority of the CONNECT to the waypoint.
    pub(crate) target: SocketAddr,
    /// The service that was addressed, if any.
    pub(crate) service: Option<ServiceKey>,
}

/// One hop: a workload and how it is reached.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    /// The workload that the hop leads to.
    pub(crate) workload: Arc<Workload>,
    /// How it is reached.
    pub(crate) via: Via,
}

/// The transport of a hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Plain TCP, to a workload that is not enrolled.
    Plain(SocketAddr),
    /// HBONE.
    Tunnel(Tunnel),
}

/// An HBONE tunnel: dial `via`, CONNECT to `target`, accept only a peer with one of the identities in `expect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// Socket address of the peer's HBONE port.
    pub(crate) via: SocketAddr,
    /// The `:authority` of the CONNECT.
    pub(crate) target: SocketAddr,
    /// The identities that the peer may have.
    pub(crate) expect: Vec<Identity>,
}

/// Why a connection is refused. The texts of the first two are those that users of ambient meshes search for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refused {
    /// No endpoint is ready, or all were tried.
    #[error("no healthy upstream: {0}")]
    NoEndpoint(ServiceKey),
    /// The named waypoint does not exist or is not ready. It is never bypassed.
    #[error("unknown waypoint: {namespace}/{name} is named by {by} but does not exist or has no ready instance")]
    UnknownWaypoint {
        /// Namespace of the Gateway.
        namespace: String,
        /// Name of the Gateway.
        name: String,
        /// The service or workload that names it.
        by: String,
    },
    /// The service has no such port.
    #[error("service {0} has no port {1}")]
    NoPort(ServiceKey, u16),
    /// Several pods or services claim the address.
    #[error("disputed_address: {0} is claimed by {1}, and nothing says whose it is")]
    Disputed(SocketAddr, String),
    /// Another pod claims an address of the caller: neither has an identity.
    #[error("disputed_address: another pod claims an address of the caller, and nothing says whose it is")]
    DisputedCaller,
    /// A port of the mesh itself, or an address of this host.
    #[error("{0} is not a destination: the mesh's own port, or an address of this host")]
    OwnPort(SocketAddr),
}

impl Refused {
    /// Which side caused it.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::NoEndpoint(_) | Self::UnknownWaypoint { .. } => Fault::Upstream,
            Self::NoPort(..) | Self::OwnPort(_) | Self::Disputed(..) | Self::DisputedCaller => Fault::Client,
        }
    }

    /// The metric's response flag.
    pub(crate) fn flag(&self) -> ResponseFlag {
        ResponseFlag::Connect
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self { fault: refused.fault(), flag: refused.flag(), text: refused.to_string() }
    }
}

/// Resolves the original destination of a connection of `source`.
pub(crate) fn resolve(mesh: &Snapshot, source: &Workload, original_dst: SocketAddr) -> Result<Destination, Refused> {
    let original_dst = SocketAddr::new(original_dst.ip().to_canonical(), original_dst.port());
    if original_dst.ip().is_loopback()
        || original_dst.ip().is_unspecified()
        || source.addresses.contains(&original_dst.ip())
    {
        return Err(Refused::OwnPort(original_dst));
    }
    if source.standing == Standing::Disputed {
        return Err(Refused::DisputedCaller);
    }
    if let Some(entry) = mesh.service_at(&source.network, original_dst.ip(), &source.namespace) {
        return to_service(mesh, entry, original_dst);
    }
    if let Some(claimants) = mesh.disputed_at(&source.network, original_dst.ip(), &source.namespace) {
        return Err(Refused::Disputed(original_dst, claimants.to_string()));
    }
    let Some(workload) = mesh.workload_at(&source.network, original_dst.ip()) else {
        return Ok(Destination::Outside(original_dst));
    };
    if let Some(waypoint) = &workload.waypoint {
        let by = format!("workload {}/{}", workload.namespace, workload.name);
        return through(mesh, waypoint, by, original_dst, None);
    }
    if original_dst.port() == HBONE_PORT && workload.is_enrolled() {
        return Err(Refused::OwnPort(original_dst));
    }
    Ok(Destination::Workload(Arc::clone(workload), original_dst))
}

fn to_service(mesh: &Snapshot, entry: &Arc<ServiceEntry>, original_dst: SocketAddr) -> Result<Destination, Refused> {
    let service = &entry.service;
    if let Some(waypoint) = &service.waypoint {
        return through(mesh, waypoint, format!("service {}", service.key), original_dst, Some(service.key.clone()));
    }
    if service.load_balancing.mode == BalanceMode::Passthrough {
        return Ok(Destination::Outside(original_dst));
    }
    if !service.ports.iter().any(|port| port.service_port == original_dst.port()) {
        return Err(Refused::NoPort(service.key.clone(), original_dst.port()));
    }
    Ok(Destination::Service(Arc::clone(entry), original_dst.port()))
}

fn through(
    mesh: &Snapshot,
    waypoint: &Waypoint,
    by: String,
    target: SocketAddr,
    service: Option<ServiceKey>,
) -> Result<Destination, Refused> {
    let unknown =
        || Refused::UnknownWaypoint { namespace: waypoint.namespace.to_string(), name: waypoint.name.to_string(), by };
    // A waypoint without instances is refused here, so that the reason names it. A terminating instance serves on until
    // another one is ready.
    let instances = Instances::of(mesh, waypoint).filter(Instances::serve).ok_or_else(unknown)?;
    let gateway = format!("{}/{}", waypoint.namespace, waypoint.name).into();
    let hbone_port = waypoint.hbone_port;
    Ok(Destination::Waypoint(Box::new(ToWaypoint { gateway, instances, hbone_port, target, service })))
}

/// How `source`, which used an address of the given family, reaches `endpoint` of a service. `None` for an endpoint
/// that would be reached in plaintext at an address of an enrolled workload, or a disputed one: its author (a pod in
/// the host's network, a slice) is no authority on whose the address is.
pub(crate) fn to_endpoint(
    mesh: &Snapshot,
    source: &Workload,
    entry: &ServiceEntry,
    endpoint: &Endpoint,
    service_port: u16,
    ipv6: bool,
) -> Option<Hop> {
    let port = endpoint.target_port(service_port)?;
    let address = hop::address_of(&endpoint.workload, ipv6)?;
    let target = SocketAddr::new(address, port);
    let hop = to_workload(source, &endpoint.workload, target, &entry.service.subject_alt_names);
    let others = |held: &Arc<Workload>| held.is_enrolled() && held.uid != hop.workload.uid;
    let taken = || {
        mesh.workload_at(&source.network, address).is_some_and(others)
            || mesh.disputed_at(&source.network, address, &source.namespace).is_some()
    };
    if matches!(hop.via, Via::Plain(_)) && taken() { None } else { Some(hop) }
}

/// How an instance of a waypoint is reached.
pub(crate) fn to_instance(to: &ToWaypoint, instance: &Arc<Workload>) -> Option<Hop> {
    let address = hop::address_of(instance, to.target.is_ipv6())?;
    let alt_names = match &to.instances {
        Instances::Service(entry) => &entry.service.subject_alt_names[..],
        Instances::Workload(_) => &[],
    };
    let via = Via::Tunnel(Tunnel {
        via: SocketAddr::new(address, to.hbone_port),
        target: to.target,
        expect: hop::expected(instance, alt_names),
    });
    Some(Hop { workload: Arc::clone(instance), via })
}

/// How `source` reaches a workload at one of its own addresses. `alt_names` are further identities that the workload
/// may have.
///
/// A workload reaches itself in plaintext, like at its own address, which is never captured.
pub(crate) fn to_workload(
    source: &Workload,
    workload: &Arc<Workload>,
    target: SocketAddr,
    alt_names: &[Identity],
) -> Hop {
    let tunnel = if workload.uid == source.uid { None } else { hop::tunnel_to(workload, target.ip(), alt_names) };
    let via = match tunnel {
        Some((via, expect)) => Via::Tunnel(Tunnel { via, target, expect }),
        None => Via::Plain(target),
    };
    Hop { workload: Arc::clone(workload), via }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use mesh::model::reserved::{Holder, Reserved};
    use mesh::model::service::{LoadBalancing, Service, Vip};
    use mesh::model::update::Update;
    use mesh::model::waypoint::WaypointDestination;
    use mesh::model::workload::{Health, NetworkMode, TunnelProtocol, WorkloadService};
    use mesh::state::store::Store;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn waypoint(destination: Option<WaypointDestination>) -> Option<Box<Waypoint>> {
        Some(Box::new(Waypoint::sample("default", "wp", destination)))
    }

    /// client 10.0.0.1; enrolled 10.0.0.2; plain 10.0.0.3; service shop 10.96.0.1:80 -> enrolled:8080;
    /// service guarded 10.96.0.2 behind waypoint wp (service 10.96.0.9, instance 10.0.0.9).
    fn mesh(waypoint_ready: bool) -> Store {
        let shop = Service::sample("shop", "default", &[ip("10.96.0.1")], &[(80, 8080)]);
        let wp = Service::sample("wp", "default", &[ip("10.96.0.9")], &[(15008, 15008)]);
        let guarded = Service {
            waypoint: waypoint(Some(WaypointDestination::Service {
                namespace: "default".into(),
                hostname: wp.key.hostname.clone(),
            })),
            ..Service::sample("guarded", "default", &[ip("10.96.0.2")], &[(80, 8080)])
        };
        let orphan = Service {
            waypoint: waypoint(None),
            ..Service::sample("orphan", "default", &[ip("10.96.0.3")], &[(80, 8080)])
        };
        let serving = |service: &Service, workload: Workload| Workload {
            services: [WorkloadService {
                service: service.key.clone(),
                ports: service.ports.clone(),
                health: Health::Healthy,
            }]
            .into(),
            ..workload
        };
        let mut updates = vec![
            Workload::sample("client", "default", &[ip("10.0.0.1"), ip("fd00::1")]),
            serving(&shop, Workload::sample("enrolled", "default", &[ip("10.0.0.2"), ip("fd00::2")])),
            Workload { protocol: TunnelProtocol::None, ..Workload::sample("plain", "default", &[ip("10.0.0.3")]) },
        ];
        if waypoint_ready {
            updates.push(serving(&wp, Workload::sample("wp-1", "default", &[ip("10.0.0.9")])));
        }
        let store = Store::new(None);
        store.apply(
            [shop, wp, guarded, orphan]
                .map(|s| Update::Service(Box::new(s)))
                .into_iter()
                .chain(updates.into_iter().map(|w| Update::Workload(Box::new(w)))),
        );
        store
    }

    fn client() -> Workload {
        Workload::sample("client", "default", &[ip("10.0.0.1"), ip("fd00::1")])
    }

    fn resolved(store: &Store, to: &str) -> Result<Destination, Refused> {
        let mesh = store.snapshot();
        let client = mesh.workload_at(&Default::default(), ip("10.0.0.1")).unwrap();
        resolve(&mesh, client, to.parse().unwrap())
    }

    #[test]
    fn an_unknown_address_is_outside() {
        let to = resolved(&mesh(true), "192.0.2.1:443");
        assert!(matches!(to, Ok(Destination::Outside(a)) if a == "192.0.2.1:443".parse().unwrap()));
    }

    #[test]
    fn a_pod_address_is_that_workload_tunnelled_when_enrolled_and_plain_when_not() {
        let Ok(Destination::Workload(workload, to)) = resolved(&mesh(true), "10.0.0.2:9090") else { panic!() };
        let hop = to_workload(&client(), &workload, to, &[]);
        assert_eq!(
            hop.via,
            Via::Tunnel(Tunnel {
                via: "10.0.0.2:15008".parse().unwrap(),
                target: "10.0.0.2:9090".parse().unwrap(),
                expect: vec![Identity::new("cluster.local", "default", "default")],
            })
        );
        let Ok(Destination::Workload(workload, to)) = resolved(&mesh(true), "10.0.0.3:9090") else { panic!() };
        assert_eq!(to_workload(&client(), &workload, to, &[]).via, Via::Plain("10.0.0.3:9090".parse().unwrap()));
    }

    #[test]
    fn an_endpoint_at_the_address_of_an_enrolled_workload_is_not_reached_in_plain_text() {
        let store = mesh(true);
        let bait = Service::sample("bait", "evil", &[ip("10.96.0.66")], &[(80, 8080)]);
        let served = WorkloadService { service: bait.key.clone(), ports: bait.ports.clone(), health: Health::Healthy };
        let on_host = |name: &str, address: &str| {
            Update::Workload(Box::new(Workload {
                protocol: TunnelProtocol::None,
                network_mode: NetworkMode::HostNetwork,
                services: [served.clone()].into(),
                ..Workload::sample(name, "evil", &[ip(address)])
            }))
        };
        let by = Holder::Disputed("Pod a/x and Pod b/y".into());
        store.apply([
            Update::Service(Box::new(bait)),
            on_host("a", "10.0.0.2"),
            on_host("b", "10.0.0.66"),
            on_host("c", "10.0.0.67"),
            Update::Reserved(Box::new(Reserved { address: ip("10.0.0.66"), by })),
        ]);
        let Ok(Destination::Service(entry, 80)) = resolved(&store, "10.96.0.66:80") else { panic!() };
        let hops = entry.endpoints.iter().map(|e| to_endpoint(&store.snapshot(), &client(), &entry, e, 80, false));
        let reached: Vec<String> = hops.flatten().map(|hop| hop.workload.name.to_string()).collect();
        assert_eq!(reached, ["c"]);
    }

    /// A service of a namespace that claims what is not the mesh's, and sends it on unchanged.
    fn claim(namespace: &str, vips: &[&str]) -> Update {
        let vips = vips.iter().map(|vip| vip.parse().map_or_else(|_| Vip::External(ip(vip)), Vip::Range)).collect();
        let load_balancing = LoadBalancing { mode: BalanceMode::Passthrough, ..LoadBalancing::default() };
        let service = Service::sample("net", namespace, &[], &[(80, 80)]);
        Update::Service(Box::new(Service { vips, load_balancing, canonical: false, ..service }))
    }

    #[test]
    fn no_claim_turns_a_connection_to_an_enrolled_workload_into_plaintext() {
        let store = mesh(true);
        store.apply([claim("default", &["0.0.0.0/0", "10.0.0.0/24", "10.0.0.2", "10.96.0.1", "10.96.0.2"])]);
        let Ok(Destination::Workload(workload, to)) = resolved(&store, "10.0.0.2:9090") else { panic!() };
        assert!(matches!(to_workload(&client(), &workload, to, &[]).via, Via::Tunnel(_)));
        assert!(matches!(resolved(&store, "10.96.0.1:80"), Ok(Destination::Service(..))));
        assert!(matches!(resolved(&store, "10.96.0.2:80"), Ok(Destination::Waypoint(_))));
        assert!(matches!(resolved(&store, "192.0.2.1:80"), Ok(Destination::Outside(_))));
    }

    #[test]
    fn a_disputed_address_is_refused_and_so_is_a_caller_who_may_be_another() {
        let store = mesh(true);
        let by = Holder::Disputed("Pod a/x and Pod b/y".into());
        store.apply([
            Update::Reserved(Box::new(Reserved { address: ip("10.0.0.66"), by })),
            claim("default", &["10.0.0.0/24"]),
        ]);
        let refused = resolved(&store, "10.0.0.66:80").unwrap_err().to_string();
        assert_eq!(
            refused,
            "disputed_address: 10.0.0.66:80 is claimed by Pod a/x and Pod b/y, and nothing says whose it is"
        );
        let disputed = Workload { standing: Standing::Disputed, ..client() };
        let refused = resolve(&store.snapshot(), &disputed, "10.96.0.1:80".parse().unwrap());
        assert!(matches!(refused, Err(Refused::DisputedCaller)));
        // Two strangers claim one external address: neither gets the connection, and it does not go past them.
        store.apply([claim("b", &["192.0.2.1"]), claim("c", &["192.0.2.1"])]);
        assert!(matches!(resolved(&store, "192.0.2.1:80"), Err(Refused::Disputed(..))));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        assert!(matches!(resolved(&mesh(true), "[::ffff:10.0.0.2]:80"), Ok(Destination::Workload(..))));
    }

    #[test]
    fn a_service_address_goes_to_an_endpoint_at_its_target_port_in_the_callers_family() {
        let store = mesh(true);
        let Ok(Destination::Service(entry, 80)) = resolved(&store, "10.96.0.1:80") else { panic!() };
        let hop = |ipv6| to_endpoint(&store.snapshot(), &client(), &entry, &entry.endpoints[0], 80, ipv6).unwrap().via;
        assert!(matches!(hop(false), Via::Tunnel(t) if t.target == "10.0.0.2:8080".parse().unwrap()));
        assert!(matches!(hop(true), Via::Tunnel(t) if t.target == "[fd00::2]:8080".parse().unwrap()));
    }

    #[test]
    fn a_workload_that_is_picked_for_its_own_call_is_reached_in_plain_text() {
        let store = mesh(true);
        let Ok(Destination::Service(entry, 80)) = resolved(&store, "10.96.0.1:80") else { panic!() };
        let endpoint = &entry.endpoints[0];
        let hop = to_endpoint(&store.snapshot(), &endpoint.workload, &entry, endpoint, 80, false).unwrap();
        assert_eq!(hop.via, Via::Plain("10.0.0.2:8080".parse().unwrap()));
    }

    #[test]
    fn a_service_is_refused_on_a_port_it_does_not_have() {
        assert!(matches!(resolved(&mesh(true), "10.96.0.1:81"), Err(Refused::NoPort(_, 81))));
    }

    #[test]
    fn a_service_with_a_ready_waypoint_goes_to_an_instance_asking_for_the_original_destination() {
        let Ok(Destination::Waypoint(to)) = resolved(&mesh(true), "10.96.0.2:80") else { panic!() };
        let Instances::Service(entry) = &to.instances else { panic!() };
        let hop = to_instance(&to, &entry.endpoints[0].workload).unwrap();
        let Via::Tunnel(tunnel) = hop.via else { panic!() };
        assert_eq!(tunnel.via, "10.0.0.9:15008".parse().unwrap());
        assert_eq!(tunnel.target, "10.96.0.2:80".parse().unwrap());
    }

    #[test]
    fn a_service_whose_waypoint_is_missing_or_not_ready_is_refused_by_name() {
        for (store, to) in [(mesh(false), "10.96.0.2:80"), (mesh(true), "10.96.0.3:80")] {
            let refused = resolved(&store, to).unwrap_err();
            assert!(refused.to_string().contains("default/wp"), "{refused}");
        }
    }

    #[test]
    fn the_meshs_own_ports_and_this_host_are_no_destinations() {
        for to in ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "10.0.0.1:80", "10.0.0.2:15008"] {
            assert!(matches!(resolved(&mesh(true), to), Err(Refused::OwnPort(_))), "{to}");
        }
        assert!(matches!(resolved(&mesh(true), "10.0.0.3:15008"), Ok(Destination::Workload(..))));
    }
}
