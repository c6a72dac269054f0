//! Pure. Which waypoint traffic to a service or workload takes: labels `istio.io/use-waypoint`, and the Gateways.
//!
//! A waypoint that is named but does not exist, is not ready or does not admit the namespace is kept without a
//! destination: traffic is refused rather than sent past it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::model::name::{Hostname, Name, Namespace};
use crate::model::service::ServiceKey;
use crate::model::waypoint::{Waypoint, WaypointDestination};
use crate::source::manifest::inventory::{GATEWAY_NAME, Inventory};
use crate::source::manifest::object::{Gateway, GatewayAddress, Item, Labels, ObjectKey, Pod};

use super::options::Options;

/// Label that names the waypoint of a service, pod or namespace.
pub(super) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// Label that names the waypoint's namespace, if it is another one.
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// Gateway classes of waypoints.
const CLASSES: [&str; 2] = ["culvert-waypoint", "istio-waypoint"];
/// Controllers whose other classes are of waypoints too.
const CONTROLLERS: [&str; 2] = ["culvert.dev/waypoint", "istio.io/mesh-controller"];

/// What traffic is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressed {
    Service,
    Workload,
}

/// A waypoint that was found, and why it cannot be used, if it cannot.
pub(super) struct Found {
    pub(super) waypoint: Box<Waypoint>,
    pub(super) closed: Option<String>,
}

/// Every Gateway that is a waypoint.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Waypoints {
    known: HashMap<ObjectKey, Known>,
    services: BTreeSet<ServiceKey>,
    addresses: BTreeSet<IpAddr>,
}

/// A service that no object declares: the pods of a Gateway that has neither address nor Service.
pub(super) struct Implied {
    pub(super) key: ServiceKey,
    pub(super) gateway: Name,
    pub(super) hbone_port: u16,
}

#[derive(Debug, PartialEq)]
struct Known {
    gateway: Gateway,
    destination: Result<WaypointDestination, &'static str>,
}

impl Waypoints {
    /// Finds the waypoints among the Gateways, and where they are.
    pub(super) fn new(inventory: &Inventory, hostnames: &Hostnames, options: &Options) -> Self {
        let waypoints = inventory.gateways.iter().filter(|gateway| is_waypoint(gateway, inventory));
        let known = waypoints.map(|gateway| {
            let destination = destination(gateway, inventory, hostnames, options);
            (gateway.meta.key(), Known { gateway: gateway.spec.clone(), destination })
        });
        let known: HashMap<_, _> = known.collect();
        let services = known.values().filter_map(|known| match &known.destination {
            Ok(WaypointDestination::Service { namespace, hostname }) => {
                Some(ServiceKey { namespace: namespace.clone(), hostname: hostname.clone() })
            }
            Ok(WaypointDestination::Address { .. }) | Err(_) => None,
        });
        let addresses = known.values().filter_map(|known| match &known.destination {
            Ok(WaypointDestination::Address { address, .. }) => Some(*address),
            Ok(WaypointDestination::Service { .. }) | Err(_) => None,
        });
        Self { services: services.collect(), addresses: addresses.collect(), known }
    }

    /// Whether a pod carries the label of a waypoint, or has the address of one.
    pub(super) fn has_instance(&self, pod: &Item<Pod>) -> bool {
        if pod.spec.addresses.iter().any(|address| self.addresses.contains(address)) {
            return true;
        }
        let Some(gateway) = pod.meta.labels.get(GATEWAY_NAME) else { return false };
        self.known.contains_key(&ObjectKey { namespace: pod.meta.namespace.clone(), name: gateway.clone() })
    }

    /// Whether the endpoints of a service are instances of a waypoint.
    pub(super) fn is_served_by(&self, service: &ServiceKey) -> bool {
        self.services.contains(service)
    }

    /// Whether a Gateway names a service as its address.
    pub(super) fn name(&self, hostname: &Hostname) -> bool {
        self.known
            .values()
            .any(|known| matches!(&known.gateway.address, Some(GatewayAddress::Hostname(name)) if name == hostname))
    }

    /// The services that have to be made up, so that all pods of a Gateway take part.
    pub(super) fn implied(&self, options: &Options) -> Vec<Implied> {
        let implied = self.known.iter().filter_map(|(gateway, known)| {
            let key = implied_key(gateway, options);
            let hbone_port = known.gateway.hbone_port;
            self.services.contains(&key).then(|| Implied { key, gateway: gateway.name.clone(), hbone_port })
        });
        implied.collect()
    }

    /// The waypoint of something with these labels in a namespace with those; `None` when it has none.
    pub(super) fn of(&self, namespace: &str, own: &Labels, inherited: &Labels, addressed: Addressed) -> Option<Found> {
        // The instances of a waypoint would otherwise wait for themselves.
        let is_instance = own.get(GATEWAY_NAME).is_some();
        let (name, labels) = match own.get(USE_WAYPOINT).filter(|name| !name.is_empty()) {
            Some(name) => (name, own),
            None if is_instance => return None,
            None => (inherited.get(USE_WAYPOINT).filter(|name| !name.is_empty())?, inherited),
        };
        if name.as_str() == "none" {
            return None;
        }
        let home = labels.get(USE_WAYPOINT_NAMESPACE).filter(|home| !home.is_empty());
        let key = ObjectKey { namespace: home.map_or(namespace, |home| home.as_str()).into(), name: name.clone() };
        let Some(known) = self.known.get(&key) else {
            return Some(Found::closed(key, 15008, "there is no such Gateway of a waypoint class"));
        };
        let gateway = &known.gateway;
        let covered = match addressed {
            Addressed::Service => gateway.waypoint_for.services,
            Addressed::Workload => gateway.waypoint_for.workloads,
        };
        if !covered {
            return None;
        }
        let label = |label: &str| inherited.get(label).map(Name::as_str);
        if !gateway.allowed.admits(&key.namespace, namespace, label) {
            return Some(Found::closed(
                key,
                gateway.hbone_port,
                "its listener does not admit the namespace (allowedRoutes)",
            ));
        }
        match &known.destination {
            Err(why) => Some(Found::closed(key, gateway.hbone_port, why)),
            Ok(destination) => {
                let ObjectKey { namespace, name } = key;
                let destination = Some(destination.clone());
                let waypoint = Waypoint { namespace, name, destination, hbone_port: gateway.hbone_port };
                Some(Found { waypoint: Box::new(waypoint), closed: None })
            }
        }
    }
}

impl Found {
    fn closed(key: ObjectKey, hbone_port: u16, why: &str) -> Self {
        let closed = format!("waypoint {key} cannot be used, traffic is refused: {why}");
        let ObjectKey { namespace, name } = key;
        Self { waypoint: Box::new(Waypoint { namespace, name, destination: None, hbone_port }), closed: Some(closed) }
    }
}

/// Every service: host name and namespace.
pub(super) type Hostnames = BTreeSet<(Hostname, Namespace)>;

fn is_waypoint(gateway: &Item<Gateway>, inventory: &Inventory) -> bool {
    let class = gateway.spec.class.as_str();
    CLASSES.contains(&class)
        || inventory.classes.get("", class).is_some_and(|class| CONTROLLERS.contains(&class.spec.controller.as_str()))
}

fn destination(
    gateway: &Item<Gateway>,
    inventory: &Inventory,
    hostnames: &Hostnames,
    options: &Options,
) -> Result<WaypointDestination, &'static str> {
    if gateway.spec.broken {
        return Err("its condition Programmed is False");
    }
    let address = |address| WaypointDestination::Address { network: options.network.clone(), address };
    match &gateway.spec.address {
        Some(GatewayAddress::Ip(ip)) => return Ok(address(*ip)),
        Some(GatewayAddress::Hostname(hostname)) => {
            let home = (hostname.clone(), gateway.meta.namespace.clone());
            let first = (hostname.clone(), Namespace::default());
            let anywhere = || hostnames.range(first..).next().filter(|(name, _)| name == hostname);
            let (hostname, namespace) =
                hostnames.get(&home).or_else(anywhere).ok_or("its address names a service that does not exist")?;
            return Ok(WaypointDestination::Service { namespace: namespace.clone(), hostname: hostname.clone() });
        }
        None => {}
    }
    let mut services = inventory.services.of(&gateway.meta.namespace);
    let is_instance = |labels: &Labels| labels.get(GATEWAY_NAME) == Some(&gateway.meta.name);
    if let Some(service) = services.find(|service| is_instance(&service.meta.labels) && !service.spec.external_name) {
        return Ok(WaypointDestination::Service {
            namespace: service.meta.namespace.clone(),
            hostname: options.hostname(&service.meta),
        });
    }
    let key = gateway.meta.key();
    if inventory.pods_of_gateway(&key).all(|pod| pod.spec.ended) {
        return Err("it has no address: neither status.addresses, nor a Service or Pod of the Gateway");
    }
    let ServiceKey { namespace, hostname } = implied_key(&key, options);
    Ok(WaypointDestination::Service { namespace, hostname })
}

fn implied_key(gateway: &ObjectKey, options: &Options) -> ServiceKey {
    let hostname = format!("{}.{}.gateway.{}", gateway.name, gateway.namespace, options.cluster_domain);
    ServiceKey { namespace: gateway.namespace.clone(), hostname: hostname.into() }
}
