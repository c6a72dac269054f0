//! Pure. The state that is derived from all objects except pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::objects::inventory::Inventory;
use crate::objects::kind::{Item, Labels, ObjectKey, Pod};
use crate::objects::origin::Origin;
use crate::objects::problem::{Problem, Severity};
use mesh::model::name::{Name, Namespace, NodeName};
use mesh::model::policy::{Authorization, PolicyKey, Scope};
use mesh::model::service::{Service, ServiceKey};
use mesh::model::workload::{Locality, Workload};

use super::authorization::authorization;
use super::foreign;
use super::options::Options;
use super::peer::Peers;
use super::selection::Selection;
use super::service::{Assembly, Services, names_of_others};
use super::waypoint::{Addressed, Asked, Found, Hostnames, Waypoints};

/// The state that is derived from all objects except pods; pods are converted within it.
#[derive(Debug)]
pub struct Context {
    pub(super) waypoints: Waypoints,
    pub(super) services: Services,
    pub(super) peers: Peers,
    /// Policies with a selector, by namespace.
    pub(super) policies: HashMap<Namespace, Selection<PolicyKey>>,
    /// Policies with a selector in a root namespace: they select pods of every namespace.
    pub(super) root_policies: Selection<PolicyKey>,
    /// Labels of every namespace, so that what a pod becomes depends on no other object outside of the context.
    namespaces: HashMap<Namespace, Labels>,
    /// Localities of the nodes; they are also those of their pods that have no labels of their own.
    pub(super) node_localities: HashMap<NodeName, Box<Locality>>,
    /// The canonical revision of workloads without a label for it.
    pub(super) latest: Name,
    no_labels: Labels,
    authorizations: BTreeMap<PolicyKey, Authorization>,
    pub(super) problems: Vec<Problem>,
}

impl Context {
    /// Derives the state from all objects except pods.
    pub fn new(inventory: &Inventory, options: &Options) -> Self {
        let mut problems = Vec::new();
        let waypoints = Waypoints::new(inventory, &hostnames(inventory, options), options);
        let services = Assembly::new(inventory, options, &waypoints, &mut problems).run();
        let mut authorizations = BTreeMap::new();
        let mut policies: HashMap<Namespace, Selection<PolicyKey>> = HashMap::new();
        let mut root_policies = Selection::default();
        for item in inventory.policies.iter() {
            let Some(policy) = authorization(item, options) else { continue };
            if policy.scope == Scope::WorkloadSelector {
                let selection = match options.is_root(&policy.key.namespace) {
                    true => &mut root_policies,
                    false => policies.entry(policy.key.namespace.clone()).or_default(),
                };
                selection.add(item.spec.selector.clone(), policy.key.clone());
            }
            authorizations.insert(policy.key.clone(), policy);
        }
        let peers = Peers::new(inventory, options, &mut authorizations);
        let namespaces = inventory.namespaces.iter();
        let namespaces =
            namespaces.map(|item| (Namespace::from(item.meta.name.as_str()), item.meta.labels.clone())).collect();
        let nodes = inventory.nodes.iter();
        let nodes = nodes.filter_map(|item| Some((item.meta.name.as_str().into(), Self::locality(&item.meta.labels)?)));
        let latest = Name::from("latest");
        let no_labels = Labels::default();
        Self {
            waypoints,
            services,
            peers,
            policies,
            root_policies,
            namespaces,
            node_localities: nodes.collect(),
            latest,
            no_labels,
            authorizations,
            problems,
        }
    }

    /// Every service.
    pub fn services(&self) -> &BTreeMap<ServiceKey, Service> {
        &self.services.published
    }

    /// The locality in labels of `topology.kubernetes.io`.
    pub(super) fn locality(labels: &Labels) -> Option<Box<Locality>> {
        let of = |key| labels.get(key).cloned().unwrap_or_default();
        let locality = Locality {
            region: of("topology.kubernetes.io/region"),
            zone: of("topology.kubernetes.io/zone"),
            subzone: of("topology.istio.io/subzone"),
        };
        (locality != Locality::default()).then(|| Box::new(locality))
    }

    /// The labels of a namespace; none if there is no Namespace object.
    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        self.namespaces.get(namespace).unwrap_or(&self.no_labels)
    }

    /// Whether pods have the waypoints that they had.
    pub fn has_waypoints_of(&self, other: &Self) -> bool {
        self.waypoints.are_the_same_for_pods(&other.waypoints)
    }

    /// Every policy.
    pub fn authorizations(&self) -> &BTreeMap<PolicyKey, Authorization> {
        &self.authorizations
    }

    /// Problems of services and Gateways.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The key of a service in the model.
    pub fn service_key<T>(item: &Item<T>, options: &Options) -> ServiceKey {
        ServiceKey { namespace: item.meta.namespace.clone(), hostname: options.hostname(&item.meta) }
    }

    /// Why the waypoint of a pod cannot be used.
    pub fn closed_waypoint(&self, pod: &Item<Pod>, options: &Options) -> Option<String> {
        self.waypoint_of(pod, options)?.closed
    }

    /// The waypoint for traffic that is addressed to a pod.
    pub(super) fn waypoint_of(&self, pod: &Item<Pod>, options: &Options) -> Option<Found> {
        let asked = Asked {
            kind: "Pod",
            namespace: &pod.meta.namespace,
            name: &pod.meta.name,
            own: &pod.meta.labels,
            inherited: self.namespace_labels(&pod.meta.namespace),
            addressed: Addressed::Workload,
        };
        self.waypoints.of(asked, options)
    }

    /// Whether one of these is the address of a Gateway.
    pub fn names_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) -> bool {
        addresses.into_iter().any(|address| self.waypoints.names_address(address))
    }

    /// Namespaces whose waypoint cannot be used.
    pub fn namespace_problems(&self, inventory: &Inventory, options: &Options) -> Vec<Problem> {
        let closed = inventory.namespaces.iter().filter_map(|item| {
            let of = |addressed| {
                let (namespace, name) = (item.meta.name.as_str(), item.meta.name.as_str());
                let (own, inherited) = (&self.no_labels, &item.meta.labels);
                self.waypoints.of(Asked { kind: "Namespace", namespace, name, own, inherited, addressed }, options)
            };
            let found = of(Addressed::Service).or_else(|| of(Addressed::Workload))?;
            Some(Problem::of(&item.at, format!("Namespace {}", item.meta.name), Severity::Warning, found.closed?))
        });
        closed.collect()
    }

    /// Services whose waypoint closes the ports of this endpoint to those who call it by its own address: unless what
    /// is addressed to the endpoint goes through the same waypoint.
    pub fn closed_to_callers_of(&self, workload: &Workload, options: &Options) -> Vec<ServiceKey> {
        if !workload.is_enrolled() || workload.may_bypass_waypoint {
            return Vec::new();
        }
        let own = workload.waypoint.as_deref().map(|waypoint| (&waypoint.namespace, &waypoint.name));
        let closed = workload.services.iter().filter(|served| {
            let service = self.services.published.get(&served.service);
            let waypoint = service.and_then(|service| service.waypoint.as_deref());
            options.speaks_for(&served.service.namespace, &workload.namespace)
                && waypoint.is_some_and(|waypoint| {
                    let closed = waypoint.enforcement.is_closed() || workload.strict_waypoint;
                    closed && own != Some((&waypoint.namespace, &waypoint.name))
                })
        });
        closed.map(|served| served.service.clone()).collect()
    }

    /// The workload of the endpoints that are written down with an address, if it is no pod's.
    pub fn foreign(&self, address: IpAddr, inventory: &Inventory, options: &Options) -> Option<Workload> {
        foreign::workload_at(address, &self.services, inventory, options)
    }

    /// Whether a service claims an address as its cluster IP.
    pub fn has_cluster_ip(&self, address: IpAddr) -> bool {
        self.services.has_cluster_ip(address)
    }

    /// Endpoints that are written down with a cluster IP, and where.
    pub fn endpoints_at_cluster_ips(&self) -> Vec<(&Origin, String, IpAddr)> {
        let wrong = self.services.written.iter().filter(|written| self.has_cluster_ip(written.address));
        wrong.map(|written| (written.at(), written.object(), written.address)).collect()
    }

    /// Every address of an endpoint that is written down.
    pub fn written(&self) -> impl Iterator<Item = IpAddr> {
        self.services.by_address.keys().copied()
    }

    /// The addresses with which endpoints that name a pod are written down.
    pub fn written_of(&self, pod: &ObjectKey) -> impl Iterator<Item = IpAddr> {
        let places = self.services.by_pod.get(pod).into_iter().flatten();
        places.filter_map(|&place| Some(self.services.written.get(place as usize)?.address))
    }
}

fn hostnames(inventory: &Inventory, options: &Options) -> Hostnames {
    let services = inventory.services.iter().filter(|item| !item.spec.external_name);
    let services = services.map(|item| (options.hostname(&item.meta), item.meta.namespace.clone()));
    let entries = inventory.entries.iter();
    let entries =
        entries.flat_map(|item| item.spec.hosts.iter().map(|host| (host.clone(), item.meta.namespace.clone())));
    let entries = entries.filter(|(host, namespace)| names_of_others(host, namespace, inventory, options).is_none());
    services.chain(entries).collect::<BTreeSet<_>>()
}
