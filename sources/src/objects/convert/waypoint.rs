//! Pure. Which waypoint traffic to a service or workload takes: labels `istio.io/use-waypoint`, and the Gateways.
//!
//! A waypoint that is named but does not exist, is not ready or does not admit the namespace is kept without a
//! destination: traffic is refused rather than sent past it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::objects::inventory::{GATEWAY_NAME, Inventory};
use crate::objects::kind::{Gateway, GatewayAddress, Item, Labels, ObjectKey, Pod, Service, WAYPOINT_CLASSES};
use mesh::authority::enforcement::{self, ENFORCEMENT, Words};
use mesh::model::name::{Hostname, Name, Namespace};
use mesh::model::service::ServiceKey;
use mesh::model::waypoint::HBONE_PORT;
use mesh::model::waypoint::{Enforcement, EnforcementMode, Waypoint, WaypointDestination};

use super::guards::Guards;
use super::options::Options;

/// Label that names the waypoint of a service, pod or namespace.
pub(super) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// Label that names the waypoint's namespace, if it is another one.
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// Controllers whose other classes are of waypoints too.
const CONTROLLERS: [&str; 2] = ["culvert.dev/waypoint", "istio.io/mesh-controller"];

/// What traffic is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressed {
    Service,
    Workload,
}

/// Who asks for its waypoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// Its kind.
    pub(super) kind: &'static str,
    /// Its namespace.
    pub(super) namespace: &'a str,
    /// Its name.
    pub(super) name: &'a str,
    /// Its labels.
    pub(super) own: &'a Labels,
    /// Those of its namespace.
    pub(super) inherited: &'a Labels,
    /// What the traffic is addressed to.
    pub(super) addressed: Addressed,
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
    guards: Guards,
    /// Services whose endpoints are instances, each with the namespace of a Gateway that says so.
    services: BTreeSet<(ServiceKey, Namespace)>,
    /// Addresses of instances, each with the namespace of a Gateway that says so.
    addresses: BTreeSet<(IpAddr, Namespace)>,
    /// Addresses that Gateways name, be somebody there or not, and whoever it is.
    named: BTreeSet<IpAddr>,
}

/// A service that no object declares: the pods of a Gateway that has neither address nor Service.
pub(super) struct Implied {
    pub(super) key: ServiceKey,
    pub(super) gateway: Name,
    pub(super) hbone_port: u16,
}

#[derive(Debug, PartialEq)]
struct Known {
    gateway: Arc<Gateway>,
    /// What its label says of enforcement.
    word: Option<EnforcementMode>,
    destination: Result<WaypointDestination, Closed>,
}

/// Why a Gateway has no instances.
#[derive(Clone, Debug, PartialEq)]
enum Closed {
    /// There are none, or not yet.
    NotThere(&'static str),
    /// What it names as its own belongs to another namespace.
    NotIts(String),
}

impl Waypoints {
    /// Finds the waypoints among the Gateways, and where they are.
    pub(super) fn new(inventory: &Inventory, hostnames: &Hostnames, options: &Options) -> Self {
        let waypoints = inventory.gateways.iter().filter(|gateway| is_waypoint(gateway, inventory));
        let known = waypoints.map(|gateway| {
            let destination = destination(gateway, inventory, hostnames, options);
            let word = word(&gateway.meta.labels);
            (gateway.meta.key(), Known { gateway: Arc::clone(&gateway.spec), word, destination })
        });
        let known: HashMap<_, _> = known.collect();
        let services = known.iter().filter_map(|(gateway, known)| match (gateway, &known.destination) {
            (gateway, Ok(WaypointDestination::Service { namespace, hostname })) => {
                let key = ServiceKey { namespace: namespace.clone(), hostname: hostname.clone() };
                Some((key, gateway.namespace.clone()))
            }
            (_, Ok(WaypointDestination::Address { .. }) | Err(_)) => None,
        });
        let addresses = known.iter().filter_map(|(gateway, known)| match &known.destination {
            Ok(WaypointDestination::Address { address, .. }) => Some((*address, gateway.namespace.clone())),
            Ok(WaypointDestination::Service { .. }) | Err(_) => None,
        });
        let named = known.values().filter_map(|known| match known.gateway.address {
            Some(GatewayAddress::Ip(address)) => Some(address),
            _ => None,
        });
        let (services, addresses, named) = (services.collect(), addresses.collect(), named.collect());
        Self { guards: Guards::new(inventory, options), services, addresses, named, known }
    }

    /// Whether pods have the waypoints that they have by the other.
    pub(super) fn are_the_same_for_pods(&self, other: &Self) -> bool {
        let Self { known, guards, services, addresses, named: _ } = self;
        known == &other.known
            && services == &other.services
            && addresses == &other.addresses
            && guards.are_the_same_for_workloads(&other.guards)
    }

    /// Whether a pod carries the label of a waypoint of its namespace, or has the address of one that may say so.
    pub(super) fn has_instance(&self, pod: &Item<Pod>, options: &Options) -> bool {
        let home = &pod.meta.namespace;
        let is_its = |address: &IpAddr| {
            let of_address = self.addresses.range((*address, Namespace::default())..);
            let mut gateways = of_address.take_while(|(other, _)| other == address);
            gateways.any(|(_, gateway)| options.speaks_for(gateway, home))
        };
        if pod.spec.addresses.iter().any(is_its) {
            return true;
        }
        let Some(gateway) = pod.meta.labels.get(GATEWAY_NAME) else { return false };
        self.known.contains_key(&ObjectKey { namespace: pod.meta.namespace.clone(), name: gateway.clone() })
    }

    /// Whether an endpoint of a service that lives in namespace `home` is an instance of a waypoint: both the service
    /// and the Gateway may say so.
    pub(super) fn is_served_by(&self, service: &ServiceKey, home: &str, options: &Options) -> bool {
        options.speaks_for(&service.namespace, home)
            && self.gateways_of(service).any(|gateway| options.speaks_for(gateway, home))
    }

    /// The namespaces of the Gateways whose instances a service holds.
    pub(super) fn gateways_of(&self, service: &ServiceKey) -> impl Iterator<Item = &Namespace> {
        let first = (service.clone(), Namespace::default());
        self.services.range(first..).take_while(move |(other, _)| other == service).map(|(_, gateway)| gateway)
    }

    /// Whether a Gateway names this as its address.
    pub(super) fn names_address(&self, address: IpAddr) -> bool {
        self.named.contains(&address)
    }

    /// Gateways whose address belongs to another namespace, each with what is to be said of it.
    pub(super) fn over_the_line(&self) -> impl Iterator<Item = (&ObjectKey, &str)> {
        self.known.iter().filter_map(|(key, known)| match &known.destination {
            Err(Closed::NotIts(why)) => Some((key, why.as_str())),
            _ => None,
        })
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
            let used = self.gateways_of(&key).next().is_some();
            used.then(|| Implied { key, gateway: gateway.name.clone(), hbone_port })
        });
        implied.collect()
    }

    /// The waypoint of something with these labels in a namespace with those; `None` when it has none.
    pub(super) fn of(&self, asked: Asked<'_>, options: &Options) -> Option<Found> {
        let Asked { namespace, own, inherited, addressed, .. } = asked;
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
        let known = self.known.get(&key);
        let enforcement = self.enforcement(asked, &key, known, options);
        let hbone_port = known.map_or(HBONE_PORT, |known| known.gateway.hbone_port);
        let found = |destination, enforcement| {
            let ObjectKey { namespace, name } = key.clone();
            let root = options.is_root(&namespace);
            Box::new(Waypoint { namespace, name, destination, hbone_port, root, enforcement })
        };
        let closed = |why: &str, enforcement| {
            let closed = Some(format!("waypoint {key} cannot be used, traffic is refused: {why}"));
            Some(Found { waypoint: found(None, enforcement), closed })
        };
        let Some(known) = known else {
            return closed("there is no such Gateway of a waypoint class", enforcement);
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
            return closed("its listener does not admit the namespace (allowedRoutes)", enforcement);
        }
        match &known.destination {
            Err(why) => closed(why.text(), enforcement),
            Ok(destination) => Some(Found { waypoint: found(Some(destination.clone()), enforcement), closed: None }),
        }
    }

    /// Whether what does not come through the waypoint is refused.
    fn enforcement(
        &self,
        asked: Asked<'_>,
        gateway: &ObjectKey,
        known: Option<&Known>,
        options: &Options,
    ) -> Enforcement {
        let class = known.map(|known| &known.gateway.class);
        let guard = match asked.addressed {
            Addressed::Service => {
                let service = ObjectKey { namespace: asked.namespace.into(), name: asked.name.into() };
                self.guards.of_service(&service, gateway, class)
            }
            Addressed::Workload => self.guards.of_workload(gateway, class),
        };
        let words = Words {
            own: word(asked.own).map(|mode| (mode, format!("{} {}/{}", asked.kind, asked.namespace, asked.name))),
            namespace: word(asked.inherited).map(|mode| (mode, format!("Namespace {}", asked.namespace))),
            gateway: known.and_then(|known| known.word).map(|mode| (mode, format!("Gateway {gateway}"))),
            gateway_may_relax: options.speaks_for(&gateway.namespace, asked.namespace),
        };
        enforcement::decide(words, options.waypoint_enforcement, guard.cloned())
    }
}

/// What labels say of enforcement. What nobody understands is strict, and was said when the object was read.
pub(super) fn word(labels: &Labels) -> Option<EnforcementMode> {
    Some(labels.get(ENFORCEMENT)?.parse().unwrap_or(EnforcementMode::Strict))
}

impl Closed {
    fn text(&self) -> &str {
        match self {
            Self::NotThere(why) => why,
            Self::NotIts(why) => why,
        }
    }
}

/// Every service: host name and namespace.
pub(super) type Hostnames = BTreeSet<(Hostname, Namespace)>;

fn is_waypoint(gateway: &Item<Gateway>, inventory: &Inventory) -> bool {
    let class = gateway.spec.class.as_str();
    WAYPOINT_CLASSES.contains(&class)
        || inventory.classes.get("", class).is_some_and(|class| CONTROLLERS.contains(&class.spec.controller.as_str()))
}

/// Where the instances are, as far as the Gateway may say so: what is another namespace's is made no instance.
fn destination(
    gateway: &Item<Gateway>,
    inventory: &Inventory,
    hostnames: &Hostnames,
    options: &Options,
) -> Result<WaypointDestination, Closed> {
    if gateway.spec.broken {
        return Err(Closed::NotThere("its condition Programmed is False"));
    }
    match &gateway.spec.address {
        Some(GatewayAddress::Ip(ip)) => return by_address(gateway, *ip, inventory, options),
        Some(GatewayAddress::Hostname(hostname)) => {
            return by_hostname(gateway, hostname, inventory, hostnames, options);
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
        let why = "it has no address: neither status.addresses, nor a Service or Pod of the Gateway";
        return Err(Closed::NotThere(why));
    }
    let ServiceKey { namespace, hostname } = implied_key(&key, options);
    Ok(WaypointDestination::Service { namespace, hostname })
}

/// The address of a pod or service counts if the Gateway may speak for it; one that nobody has is as good as none.
fn by_address(
    gateway: &Item<Gateway>,
    address: IpAddr,
    inventory: &Inventory,
    options: &Options,
) -> Result<WaypointDestination, Closed> {
    let found = || Ok(WaypointDestination::Address { network: options.network.clone(), address });
    let may = |namespace: &Namespace| options.speaks_for(&gateway.meta.namespace, namespace);
    if let Some(pod) = inventory.owner(address) {
        return match may(&pod.meta.namespace) {
            true => found(),
            false => Err(Closed::not_its(gateway, &format!("{address} is Pod {}'s", pod.meta.key()))),
        };
    }
    let services = inventory.services.iter().filter(|service| service.spec.addresses.contains(&address));
    let mut services: Vec<_> = services.collect();
    services.sort_by_key(|service| !may(&service.meta.namespace));
    match services.first() {
        Some(service) if !may(&service.meta.namespace) => {
            Err(Closed::not_its(gateway, &format!("{address} is Service {}'s", service.meta.key())))
        }
        _ => found(),
    }
}

/// A service of the Gateway's own namespace, else the Kubernetes Service of that name: a ServiceEntry may claim any
/// name.
fn by_hostname(
    gateway: &Item<Gateway>,
    hostname: &Hostname,
    inventory: &Inventory,
    hostnames: &Hostnames,
    options: &Options,
) -> Result<WaypointDestination, Closed> {
    let home = &gateway.meta.namespace;
    let found = |namespace: &Namespace| {
        Ok(WaypointDestination::Service { namespace: namespace.clone(), hostname: hostname.clone() })
    };
    if hostnames.contains(&(hostname.clone(), home.clone())) {
        return found(home);
    }
    let named = |item: &&Item<Service>| !item.spec.external_name && options.hostname(&item.meta) == *hostname;
    match inventory.services.iter().find(named) {
        None => Err(Closed::NotThere("its address names a service that does not exist")),
        Some(item) if options.speaks_for(home, &item.meta.namespace) => found(&item.meta.namespace),
        Some(item) => Err(Closed::not_its(gateway, &format!("{hostname} is Service {}'s", item.meta.key()))),
    }
}

impl Closed {
    fn not_its(gateway: &Item<Gateway>, whose: &str) -> Self {
        let home = &gateway.meta.namespace;
        Self::NotIts(format!(
            "its address {whose}: a Gateway must have its instances in its own namespace, {home}, unless that is a root \
             namespace"
        ))
    }
}

fn implied_key(gateway: &ObjectKey, options: &Options) -> ServiceKey {
    let hostname = format!("{}.{}.gateway.{}", gateway.name, gateway.namespace, options.cluster_domain);
    ServiceKey { namespace: gateway.namespace.clone(), hostname: hostname.into() }
}
