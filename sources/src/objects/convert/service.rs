//! Pure. Service and ServiceEntry -> Service, and which workloads are their endpoints.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::objects::holders::{Holder, Title};
use crate::objects::inventory::{GATEWAY_NAME, Inventory};
use crate::objects::kind::{self, EndpointSlice, Item, ObjectKey, Pod, Resolution, ServiceEntry, TargetPort};
use crate::objects::origin::Origin;
use crate::objects::problem::{Problem, Severity};
use mesh::authority::claims::namespace_of_host;
use mesh::model::name::{Name, Namespace};
use mesh::model::service::{
    AppProtocol, BalanceMode, Exported, LoadBalancing, Reach, Service, ServiceKey, ServicePort, Vip,
};
use mesh::model::waypoint::Waypoint;
use mesh::model::workload::Health;

use super::options::Options;
use super::selection::Selection;
use super::waypoint::{Addressed, Asked, Implied, USE_WAYPOINT, Waypoints};

/// A service whose endpoints are the pods that it selects.
#[derive(Debug)]
pub(super) struct Selecting {
    pub(super) service: ServiceKey,
    ports: Box<[kind::ServicePort]>,
}

impl Selecting {
    /// The ports as they are on a pod: a named target port that the pod does not have is left out.
    pub(super) fn ports_on(&self, pod: &Pod) -> Box<[ServicePort]> {
        let on_pod = self.ports.iter().filter_map(|port| {
            let target_port = match &port.target {
                TargetPort::Number(number) => *number,
                TargetPort::Named(name) => pod.template.port_named(name)?,
            };
            Some(ServicePort {
                name: port.name.clone(),
                service_port: port.port,
                target_port,
                app_protocol: port.app_protocol,
            })
        });
        on_pod.collect()
    }
}

/// Endpoints that are written down one by one and share their ports: an EndpointSlice, or the endpoint of a
/// ServiceEntry.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) service: ServiceKey,
    pub(super) ports: Box<[ServicePort]>,
}

/// One endpoint of an EndpointSlice or ServiceEntry that is not known to be a pod.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) group: usize,
    pub(super) uid: String,
    pub(super) name: Name,
    pub(super) namespace: Namespace,
    pub(super) address: IpAddr,
    pub(super) health: Health,
    pub(super) origin: WrittenIn,
}

/// What else is known of an endpoint that is written down.
#[derive(Debug)]
pub(super) enum WrittenIn {
    /// Index of the endpoint in an EndpointSlice.
    Slice { slice: Item<EndpointSlice>, index: usize },
    /// Index of the endpoint in a ServiceEntry.
    Entry { entry: Item<ServiceEntry>, index: usize },
}

/// All services, and who their endpoints are.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) published: BTreeMap<ServiceKey, Service>,
    /// Services that select pods, by namespace.
    pub(super) selecting: HashMap<Namespace, Selection<Selecting>>,
    pub(super) groups: Vec<Group>,
    /// Places in `written` of the endpoints that name a pod.
    pub(super) by_pod: HashMap<ObjectKey, SmallVec<[u32; 2]>>,
    /// Places in `written` of all endpoints.
    pub(super) by_address: HashMap<IpAddr, SmallVec<[u32; 2]>>,
    /// Every endpoint of an EndpointSlice or ServiceEntry.
    pub(super) written: Vec<Written>,
    /// How many services claim a cluster IP.
    pub(super) claims: HashMap<IpAddr, u32>,
    /// Services that have an EndpointSlice.
    pub(super) sliced: HashSet<ObjectKey>,
    /// Services that are made from other objects than a Service, or would be.
    pub(super) others: HashSet<ServiceKey>,
}

impl Services {
    /// Whether an address is a service's, or would be if nobody else had it.
    pub(super) fn has_cluster_ip(&self, address: IpAddr) -> bool {
        self.claims.contains_key(&address)
    }
}

/// Builds the services.
pub(super) struct Assembly<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) options: &'a Options,
    pub(super) waypoints: &'a Waypoints,
    pub(super) problems: &'a mut Vec<Problem>,
    pub(super) services: Services,
    /// Addresses and ranges that are no cluster IPs, and which service of a namespace has them.
    taken: HashMap<(Namespace, Vip), ServiceKey>,
}

impl<'a> Assembly<'a> {
    pub(super) fn new(
        inventory: &'a Inventory,
        options: &'a Options,
        waypoints: &'a Waypoints,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        Self { inventory, options, waypoints, problems, services: Services::default(), taken: HashMap::new() }
    }

    /// Adds to services that are there one that has nothing to do with any of them.
    pub(super) fn add(mut self, services: Services, item: &Item<kind::Service>) -> Services {
        self.services = services;
        self.count(item);
        self.service(item, false);
        self.services
    }

    /// All services.
    pub(super) fn run(mut self) -> Services {
        let sliced = self.inventory.slices.iter();
        let sliced =
            sliced.map(|slice| ObjectKey { namespace: slice.meta.namespace.clone(), name: slice.spec.service.clone() });
        self.services.sliced = sliced.collect();
        let mut items: Vec<_> = self.inventory.services.iter().filter(|item| !item.spec.external_name).collect();
        items.sort_by(|a, b| a.age().cmp(&b.age()));
        items.iter().for_each(|item| self.count(item));
        for item in items {
            let has_slices = self.services.sliced.contains(&item.meta.key());
            self.service(item, has_slices);
        }
        for implied in self.waypoints.implied(self.options) {
            self.implied(implied);
        }
        for slice in self.inventory.slices.iter() {
            self.slice(slice);
        }
        let mut entries: Vec<_> = self.inventory.entries.iter().collect();
        entries.sort_by(|a, b| a.age().cmp(&b.age()));
        for entry in entries {
            self.entry(entry);
        }
        self.services
    }

    fn service(&mut self, item: &Item<kind::Service>, has_slices: bool) {
        let spec = &item.spec;
        let key = ServiceKey { namespace: item.meta.namespace.clone(), hostname: self.options.hostname(&item.meta) };
        let object = format!("Service {}", item.meta.key());
        let mut vips = self.cluster_ips(item, &object);
        vips.extend(self.vips(&key, item, &object, spec.external.iter().copied().map(Vip::External)));
        let service = Service {
            name: item.meta.name.clone(),
            key: key.clone(),
            vips: vips.into(),
            headless: spec.headless,
            ports: published_ports(&spec.ports),
            subject_alt_names: Box::default(),
            waypoint: self.waypoint(item, "Service", &object),
            load_balancing: spec.load_balancing.clone(),
            canonical: true,
            reach: self.reach(&item.meta.namespace, &spec.exported),
        };
        self.services.published.insert(key.clone(), service);
        if !has_slices {
            let selection = self.services.selecting.entry(key.namespace.clone()).or_default();
            selection.add(spec.selector.clone(), Selecting { service: key, ports: spec.ports.clone() });
        }
    }

    /// The pods of a Gateway that has no Service are endpoints of one all the same.
    fn implied(&mut self, implied: Implied) {
        let Implied { key, gateway, hbone_port } = implied;
        let port = kind::ServicePort {
            name: Name::default(),
            port: hbone_port,
            target: TargetPort::Number(hbone_port),
            app_protocol: AppProtocol::Unknown,
        };
        let ports: Box<[kind::ServicePort]> = [port].into();
        let service = Service {
            name: gateway.clone(),
            key: key.clone(),
            vips: Box::default(),
            headless: false,
            ports: published_ports(&ports),
            subject_alt_names: Box::default(),
            waypoint: None,
            load_balancing: LoadBalancing::default(),
            canonical: false,
            reach: Reach { root: false, exported: Exported::Own },
        };
        self.services.published.insert(key.clone(), service);
        self.services.others.insert(key.clone());
        let selector = [(Name::from(GATEWAY_NAME), gateway)].into_iter().collect();
        let selection = self.services.selecting.entry(key.namespace.clone()).or_default();
        selection.add(selector, Selecting { service: key, ports });
    }

    fn count(&mut self, item: &Item<kind::Service>) {
        for address in once_each(&item.spec.addresses) {
            *self.services.claims.entry(address).or_default() += 1;
        }
    }

    /// The cluster IPs that a service owns.
    fn cluster_ips(&mut self, item: &Item<kind::Service>, object: &str) -> Vec<Vip> {
        let mut own = Vec::new();
        for address in once_each(&item.spec.addresses) {
            let why = match self.inventory.holders.title_of_service(&item.meta.key(), address) {
                Title::Own => {
                    own.push(Vip::Address(address));
                    continue;
                }
                Title::Node(node) => {
                    format!("{address} belongs to Node {node}: an address is a node's or a pod's before a Service's")
                }
                Title::Nothing(why) => format!("{address} {why}"),
                Title::Taken(owner @ Holder::Pod(_)) => format!(
                    "{address} belongs to {owner}: the kernel shows it there, or the ranges of nodes and Services say so, or \
                     it had it first"
                ),
                Title::Taken(owner @ Holder::Service(_)) => format!(
                    "{address} belongs to {owner}, which keeps it: between namespaces neither age nor files prove anything"
                ),
                Title::Disputed(all) => {
                    let own = Holder::Service(item.meta.key());
                    let others = all.iter().filter(|other| **other != own);
                    let others: Vec<String> = others.map(Holder::to_string).collect();
                    format!(
                        "{address} is claimed by {} too, and nothing proves whose it is: connections to it are refused \
                         until only one claims it",
                        others.join(" and ")
                    )
                }
            };
            self.problems.push(Problem::of(&item.at, object, Severity::Error, why).field("spec.clusterIP"));
        }
        own
    }

    /// What a service claims beside cluster IPs; of several of its namespace that claim one address the first has it.
    fn vips<T>(&mut self, key: &ServiceKey, item: &Item<T>, object: &str, vips: impl Iterator<Item = Vip>) -> Vec<Vip> {
        let mut free = Vec::new();
        for vip in vips {
            if let Vip::External(address) = vip
                && let Some(net) = self.inventory.holders.ranges().inside(address)
            {
                let message = format!(
                    "address {address} is in {net}, from which Pods or Services have their addresses: nobody has it from \
                     outside, and the claim has no effect"
                );
                self.problems.push(Problem::of(&item.at, object, Severity::Error, message));
                continue;
            }
            match self.taken.get(&(key.namespace.clone(), vip)) {
                Some(owner) if owner != key => {
                    let address = match vip {
                        Vip::Address(address) | Vip::External(address) => address.to_string(),
                        Vip::Range(range) => range.to_string(),
                    };
                    let message = format!("address {address} already belongs to {owner}, which keeps it");
                    self.problems.push(Problem::of(&item.at, object, Severity::Error, message));
                }
                Some(_) => {}
                None => {
                    self.taken.insert((key.namespace.clone(), vip), key.clone());
                    free.push(vip);
                }
            }
        }
        free
    }

    fn reach(&self, namespace: &Namespace, exported: &Exported) -> Reach {
        Reach { root: self.options.is_root(namespace), exported: exported.clone() }
    }

    fn waypoint<T>(&mut self, item: &Item<T>, kind: &'static str, object: &str) -> Option<Box<Waypoint>> {
        let asked = Asked {
            kind,
            namespace: &item.meta.namespace,
            name: &item.meta.name,
            own: &item.meta.labels,
            inherited: self.inventory.namespace_labels(&item.meta.namespace),
            addressed: Addressed::Service,
        };
        let found = self.waypoints.of(asked, self.options)?;
        // What a namespace asks for is said of the namespace.
        if let Some(why) = found.closed.filter(|_| item.meta.labels.get(USE_WAYPOINT).is_some()) {
            self.problems.push(Problem::of(&item.at, object, Severity::Warning, why));
        }
        Some(found.waypoint)
    }

    fn slice(&mut self, slice: &Item<EndpointSlice>) {
        let Some(item) = self.inventory.services.get(&slice.meta.namespace, &slice.spec.service) else {
            let message = format!("there is no Service {}/{}", slice.meta.namespace, slice.spec.service);
            let object = format!("EndpointSlice {}", slice.meta.key());
            self.problems.push(Problem::of(&slice.at, object, Severity::Warning, message));
            return;
        };
        if item.spec.external_name {
            return;
        }
        let ports = item.spec.ports.iter().filter_map(|port| {
            Some(ServicePort {
                name: port.name.clone(),
                service_port: port.port,
                target_port: slice.spec.port_named(&port.name)?,
                app_protocol: port.app_protocol,
            })
        });
        let service =
            ServiceKey { namespace: item.meta.namespace.clone(), hostname: self.options.hostname(&item.meta) };
        let group = self.group(Group { service, ports: ports.collect() });
        for (index, endpoint) in slice.spec.endpoints.iter().enumerate() {
            // An endpoint that is not ready is left out unless the service publishes such endpoints too.
            if endpoint.health == Health::Unhealthy && !item.spec.load_balancing.allow_unhealthy {
                continue;
            }
            let pod = endpoint
                .pod
                .as_ref()
                .map(|(namespace, name)| ObjectKey { namespace: namespace.clone(), name: name.clone() });
            let meta = &slice.meta;
            self.written(
                pod,
                Written {
                    group,
                    uid: format!(
                        "{}/discovery.k8s.io/EndpointSlice/{}/{}/{}",
                        self.options.cluster_id, meta.namespace, meta.name, endpoint.address
                    ),
                    name: meta.name.clone(),
                    namespace: meta.namespace.clone(),
                    address: endpoint.address,
                    health: endpoint.health,
                    origin: WrittenIn::Slice { slice: slice.clone(), index },
                },
            );
        }
    }

    fn group(&mut self, group: Group) -> usize {
        self.services.groups.push(group);
        self.services.groups.len() - 1
    }

    fn written(&mut self, pod: Option<ObjectKey>, written: Written) {
        // Endpoints are as many as in the files: far fewer than four billion.
        let place = u32::try_from(self.services.written.len()).unwrap_or(u32::MAX);
        if let Some(pod) = pod {
            self.services.by_pod.entry(pod).or_default().push(place);
        }
        self.services.by_address.entry(written.address).or_default().push(place);
        self.services.written.push(written);
    }

    fn entry(&mut self, item: &Item<ServiceEntry>) {
        let object = format!("ServiceEntry {}", item.meta.key());
        for host in &item.spec.hosts {
            let key = ServiceKey { namespace: item.meta.namespace.clone(), hostname: host.clone() };
            self.services.others.insert(key.clone());
            if let Some(why) = names_of_others(host, &item.meta.namespace, self.inventory, self.options) {
                self.problems.push(Problem::of(&item.at, object.clone(), Severity::Error, why).field("spec.hosts"));
                continue;
            }
            if let Some(other) = self.services.published.get(&key) {
                let what = if other.canonical { "a Service" } else { "an older ServiceEntry" };
                let message = format!("host {host} already belongs to {what}, which keeps it");
                self.problems.push(Problem::of(&item.at, object.clone(), Severity::Warning, message));
                continue;
            }
            let vips = item.spec.addresses.iter().map(|net| match net.prefix_len() == net.max_prefix_len() {
                true => Vip::External(net.addr()),
                false => Vip::Range(*net),
            });
            let vips = self.vips(&key, item, &object, vips).into();
            let mode = match item.spec.resolution {
                Resolution::None => BalanceMode::Passthrough,
                Resolution::Static | Resolution::Dns => BalanceMode::Any,
            };
            let service = Service {
                name: item.meta.name.clone(),
                key: key.clone(),
                vips,
                headless: false,
                ports: published_ports(&item.spec.ports),
                subject_alt_names: item.spec.subject_alt_names.clone(),
                waypoint: self.waypoint(item, "ServiceEntry", &object),
                load_balancing: LoadBalancing { mode, ..LoadBalancing::default() },
                canonical: false,
                reach: self.reach(&key.namespace, &item.spec.exported),
            };
            self.services.published.insert(key.clone(), service);
            if item.spec.resolution != Resolution::Static {
                continue;
            }
            if let Some(selector) = &item.spec.selector {
                let selection = self.services.selecting.entry(key.namespace.clone()).or_default();
                selection.add(selector.clone(), Selecting { service: key.clone(), ports: item.spec.ports.clone() });
            }
            self.entry_endpoints(item, &key);
        }
    }

    fn entry_endpoints(&mut self, item: &Item<ServiceEntry>, key: &ServiceKey) {
        for (index, endpoint) in item.spec.endpoints.iter().enumerate() {
            let ports = published_ports(&item.spec.ports).into_vec().into_iter().map(|port| {
                let own = endpoint.ports.iter().find(|own| own.name == port.name);
                ServicePort { target_port: own.map_or(port.target_port, |own| own.port), ..port }
            });
            let group = self.group(Group { service: key.clone(), ports: ports.collect() });
            let meta = &item.meta;
            self.written(
                None,
                Written {
                    group,
                    uid: format!(
                        "{}/networking.istio.io/ServiceEntry/{}/{}/{}",
                        self.options.cluster_id, meta.namespace, meta.name, endpoint.address
                    ),
                    name: meta.name.clone(),
                    namespace: meta.namespace.clone(),
                    address: endpoint.address,
                    health: Health::Healthy,
                    origin: WrittenIn::Entry { entry: item.clone(), index },
                },
            );
        }
    }
}

impl Written {
    /// Where it is written down.
    pub(super) fn at(&self) -> &Origin {
        match &self.origin {
            WrittenIn::Slice { slice, .. } => &slice.at,
            WrittenIn::Entry { entry, .. } => &entry.at,
        }
    }

    /// The object that it is written in.
    pub(super) fn object(&self) -> String {
        let kind = match &self.origin {
            WrittenIn::Slice { .. } => "EndpointSlice",
            WrittenIn::Entry { .. } => "ServiceEntry",
        };
        format!("{kind} {}/{}", self.namespace, self.name)
    }

    /// The pod that it names.
    pub(super) fn pod(&self) -> Option<&(Namespace, Name)> {
        match &self.origin {
            WrittenIn::Slice { slice, index } => slice.spec.endpoints[*index].pod.as_ref(),
            WrittenIn::Entry { .. } => None,
        }
    }
}

/// Why a ServiceEntry may not claim a host name: it is the name of a service of another namespace.
pub(super) fn names_of_others(
    host: &str,
    namespace: &Namespace,
    inventory: &Inventory,
    options: &Options,
) -> Option<String> {
    let owner = namespace_of_host(host, &options.cluster_domain)?;
    if options.speaks_for(namespace, owner) {
        return None;
    }
    let service = inventory.services.get(owner, host.split('.').next().unwrap_or_default());
    let whose = match service {
        Some(service) => format!("the name of Service {}", service.meta.key()),
        None => format!("a name of namespace {owner}"),
    };
    Some(format!("{host} is {whose} and has no effect: such names are their own namespace's, or a root namespace's"))
}

/// Addresses, each once.
fn once_each(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> + '_ {
    let first = |(place, address): &(usize, &IpAddr)| !addresses[..*place].contains(address);
    addresses.iter().enumerate().filter(first).map(|(_, address)| *address)
}

/// The ports of a service; target port 0 where it differs between workloads.
fn published_ports(ports: &[kind::ServicePort]) -> Box<[ServicePort]> {
    let published = ports.iter().map(|port| ServicePort {
        name: port.name.clone(),
        service_port: port.port,
        target_port: match port.target {
            TargetPort::Number(number) => number,
            TargetPort::Named(_) => 0,
        },
        app_protocol: port.app_protocol,
    });
    published.collect()
}
