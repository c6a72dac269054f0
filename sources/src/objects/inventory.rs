//! Pure. The objects that are in effect, by kind, namespace and name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use mesh::model::name::{Name, Namespace};

use super::holders::Holders;
use super::kind::{
    AuthorizationPolicy, Body, EndpointSlice, Gateway, GatewayClass, Guard, Item, Kind, Labels, Meta, Node, Object,
    ObjectKey, PeerAuthentication, Pod, Service, ServiceCidr, ServiceEntry,
};
use super::labelled::Labelled;

/// Label of the pods and services that are instances of a Gateway.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The objects of one key, in the order of the files.
type Slot<T> = SmallVec<[Item<T>; 1]>;

/// The objects of one kind. Of several with one key, the first in the files is in effect.
#[derive(Debug)]
pub struct Shelf<T> {
    by_namespace: BTreeMap<Namespace, BTreeMap<Name, Slot<T>>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { by_namespace: BTreeMap::new() }
    }
}

impl<T> Shelf<T> {
    /// The object of this key.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Item<T>> {
        self.by_namespace.get(namespace)?.get(name)?.first()
    }

    /// Every object of this key, those that are not in effect included.
    pub fn every(&self, namespace: &str, name: &str) -> &[Item<T>] {
        self.by_namespace.get(namespace).and_then(|names| names.get(name)).map_or(&[], |slot| slot)
    }

    /// Every object in effect, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Item<T>> {
        self.by_namespace.values().flat_map(|names| names.values().filter_map(|slot| slot.first()))
    }

    /// The objects of one namespace.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = &Item<T>> {
        self.by_namespace.get(namespace).into_iter().flat_map(|names| names.values().filter_map(|slot| slot.first()))
    }

    /// Number of objects in effect.
    pub fn len(&self) -> usize {
        self.by_namespace.values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_namespace.is_empty()
    }

    /// Objects that are not in effect because another object has their key, as pairs: the one in effect, and this one.
    pub fn duplicates(&self) -> impl Iterator<Item = (&Item<T>, &Item<T>)> {
        let slots = self.by_namespace.values().flat_map(BTreeMap::values);
        slots.filter_map(|slot| slot.split_first()).flat_map(|(first, rest)| rest.iter().map(move |item| (first, item)))
    }

    /// How many objects have a key, those that are not in effect included.
    pub fn all(&self, namespace: &str, name: &str) -> usize {
        self.every(namespace, name).len()
    }

    fn is_alone(&self, meta: &Meta) -> bool {
        self.all(&meta.namespace, &meta.name) <= 1
    }

    fn insert(&mut self, item: Item<T>) {
        let names = self.by_namespace.entry(item.meta.namespace.clone()).or_default();
        let slot = names.entry(item.meta.name.clone()).or_default();
        let place = slot.partition_point(|other| other.at <= item.at);
        slot.insert(place, item);
    }

    fn remove(&mut self, object: &Object) {
        let Some(names) = self.by_namespace.get_mut(&object.meta.namespace) else { return };
        let Some(slot) = names.get_mut(&object.meta.name) else { return };
        slot.retain(|item| !object.became(item));
        if slot.is_empty() {
            names.remove(&object.meta.name);
        }
        if names.is_empty() {
            self.by_namespace.remove(&object.meta.namespace);
        }
    }
}

/// All objects.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Namespaces.
    pub namespaces: Shelf<()>,
    /// Nodes.
    pub nodes: Shelf<Node>,
    /// Pods.
    pub pods: Shelf<Pod>,
    /// Services.
    pub services: Shelf<Service>,
    /// ServiceCIDRs.
    pub cidrs: Shelf<ServiceCidr>,
    /// EndpointSlices.
    pub slices: Shelf<EndpointSlice>,
    /// Gateways.
    pub gateways: Shelf<Gateway>,
    /// GatewayClasses.
    pub classes: Shelf<GatewayClass>,
    /// PeerAuthentications.
    pub peers: Shelf<PeerAuthentication>,
    /// AuthorizationPolicies.
    pub policies: Shelf<AuthorizationPolicy>,
    /// RequestAuthentications.
    pub authentications: Shelf<Guard>,
    /// MeshPolicies.
    pub mesh_policies: Shelf<Guard>,
    /// ServiceEntries.
    pub entries: Shelf<ServiceEntry>,
    /// Objects that only waypoints read, by kind.
    pub for_waypoints: BTreeMap<Kind, Shelf<()>>,
    /// The owners of addresses.
    pub holders: Holders,
    /// Pods that are instances of a Gateway: namespace, Gateway, pod.
    gateway_pods: BTreeSet<(Namespace, Name, Name)>,
    labelled: Labelled,
}

impl Inventory {
    /// Adds an object.
    pub fn insert(&mut self, object: &Object) {
        match &object.body {
            Body::Namespace => self.namespaces.insert(object.item(&Arc::new(()))),
            Body::Node(node) => self.change_node(&object.meta, |nodes| nodes.insert(object.item(node))),
            Body::Pod(pod) => self.change_pod(&object.meta, |pods| pods.insert(object.item(pod))),
            Body::Service(body) => self.change_service(&object.meta, |services| services.insert(object.item(body))),
            Body::ServiceCidr(body) => self.change_cidr(&object.meta, |cidrs| cidrs.insert(object.item(body))),
            Body::EndpointSlice(body) => self.slices.insert(object.item(body)),
            Body::Gateway(body) => self.gateways.insert(object.item(body)),
            Body::GatewayClass(body) => self.classes.insert(object.item(body)),
            Body::PeerAuthentication(body) => self.peers.insert(object.item(body)),
            Body::AuthorizationPolicy(body) => self.policies.insert(object.item(body)),
            Body::RequestAuthentication(body) => self.authentications.insert(object.item(body)),
            Body::MeshPolicy(body) => self.mesh_policies.insert(object.item(body)),
            Body::ServiceEntry(body) => self.entries.insert(object.item(body)),
            Body::ForWaypoints(kind) => {
                self.for_waypoints.entry(*kind).or_default().insert(object.item(&Arc::new(())));
            }
        }
    }

    /// Removes an object that was added.
    pub fn remove(&mut self, object: &Object) {
        match &object.body {
            Body::Namespace => self.namespaces.remove(object),
            Body::Node(_) => self.change_node(&object.meta, |nodes| nodes.remove(object)),
            Body::Pod(_) => self.change_pod(&object.meta, |pods| pods.remove(object)),
            Body::Service(_) => self.change_service(&object.meta, |services| services.remove(object)),
            Body::ServiceCidr(_) => self.change_cidr(&object.meta, |cidrs| cidrs.remove(object)),
            Body::EndpointSlice(_) => self.slices.remove(object),
            Body::Gateway(_) => self.gateways.remove(object),
            Body::GatewayClass(_) => self.classes.remove(object),
            Body::PeerAuthentication(_) => self.peers.remove(object),
            Body::AuthorizationPolicy(_) => self.policies.remove(object),
            Body::RequestAuthentication(_) => self.authentications.remove(object),
            Body::MeshPolicy(_) => self.mesh_policies.remove(object),
            Body::ServiceEntry(_) => self.entries.remove(object),
            Body::ForWaypoints(kind) => {
                if let Some(shelf) = self.for_waypoints.get_mut(kind) {
                    shelf.remove(object);
                    if shelf.is_empty() {
                        self.for_waypoints.remove(kind);
                    }
                }
            }
        }
    }

    /// The labels of a namespace; none if there is no Namespace object.
    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        static NONE: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);
        self.namespaces.get("", namespace).map_or(&NONE, |item| &item.meta.labels)
    }

    /// The pod that owns an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Item<Pod>> {
        self.holders.owner(address)
    }

    /// Every pod that claims an address.
    pub fn claimants(&self, address: IpAddr) -> &[Item<Pod>] {
        self.holders.claimants(address)
    }

    /// Whether no other object has the key of this one, nor, for a pod, one of its addresses: then it does not matter
    /// where in the files it stands.
    pub fn is_alone(&self, object: &Object) -> bool {
        let meta = &object.meta;
        match &object.body {
            Body::Namespace => self.namespaces.is_alone(meta),
            Body::Node(_) => self.nodes.is_alone(meta),
            Body::Pod(pod) => {
                let mut addresses = pod.addresses.iter();
                self.pods.is_alone(meta) && addresses.all(|&address| self.claimants(address).len() <= 1)
            }
            Body::Service(_) => self.services.is_alone(meta),
            Body::ServiceCidr(_) => self.cidrs.is_alone(meta),
            Body::EndpointSlice(_) => self.slices.is_alone(meta),
            Body::Gateway(_) => self.gateways.is_alone(meta),
            Body::GatewayClass(_) => self.classes.is_alone(meta),
            Body::PeerAuthentication(_) => self.peers.is_alone(meta),
            Body::AuthorizationPolicy(_) => self.policies.is_alone(meta),
            Body::RequestAuthentication(_) => self.authentications.is_alone(meta),
            Body::MeshPolicy(_) => self.mesh_policies.is_alone(meta),
            Body::ServiceEntry(_) => self.entries.is_alone(meta),
            Body::ForWaypoints(_) => true,
        }
    }

    /// The pods of a namespace that a selector selects; none for an empty one.
    pub fn selected<'a>(
        &'a self,
        namespace: &'a Namespace,
        selector: &'a Labels,
    ) -> impl Iterator<Item = &'a Item<Pod>> {
        self.labelled.selected(namespace, selector)
    }

    /// The pods that are instances of a Gateway.
    pub fn pods_of_gateway(&self, gateway: &ObjectKey) -> impl Iterator<Item = &Item<Pod>> {
        let first = (gateway.namespace.clone(), gateway.name.clone(), Name::default());
        let of_gateway = |entry: &&(Namespace, Name, Name)| entry.0 == gateway.namespace && entry.1 == gateway.name;
        self.gateway_pods
            .range(first..)
            .take_while(of_gateway)
            .filter_map(|(namespace, _, pod)| self.pods.get(namespace, pod))
    }

    /// How many objects of each kind are in effect.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let counts = [
            (Kind::Namespace, self.namespaces.len()),
            (Kind::Node, self.nodes.len()),
            (Kind::Pod, self.pods.len()),
            (Kind::Service, self.services.len()),
            (Kind::ServiceCidr, self.cidrs.len()),
            (Kind::EndpointSlice, self.slices.len()),
            (Kind::Gateway, self.gateways.len()),
            (Kind::GatewayClass, self.classes.len()),
            (Kind::PeerAuthentication, self.peers.len()),
            (Kind::AuthorizationPolicy, self.policies.len()),
            (Kind::RequestAuthentication, self.authentications.len()),
            (Kind::MeshPolicy, self.mesh_policies.len()),
            (Kind::ServiceEntry, self.entries.len()),
        ];
        counts.into_iter().filter(|&(_, count)| count > 0).collect()
    }

    /// Changes the objects under the key of a pod, and with them the owners of addresses.
    fn change_pod(&mut self, pod: &Meta, change: impl FnOnce(&mut Shelf<Pod>)) {
        let (namespace, name) = (&pod.namespace, &pod.name);
        if let Some(before) = self.pods.get(namespace, name).cloned() {
            self.withdraw(&before);
        }
        change(&mut self.pods);
        if let Some(after) = self.pods.get(namespace, name).cloned() {
            self.claim(&after);
        }
    }

    /// The same for a node.
    fn change_node(&mut self, node: &Meta, change: impl FnOnce(&mut Shelf<Node>)) {
        if let Some(before) = self.nodes.get("", &node.name) {
            self.holders.withdraw_node(before);
        }
        change(&mut self.nodes);
        if let Some(after) = self.nodes.get("", &node.name) {
            self.holders.claim_node(after);
        }
    }

    /// The same for a Service.
    fn change_service(&mut self, service: &Meta, change: impl FnOnce(&mut Shelf<Service>)) {
        let (namespace, name) = (&service.namespace, &service.name);
        if let Some(before) = self.services.get(namespace, name) {
            self.holders.withdraw_service(before);
        }
        change(&mut self.services);
        if let Some(after) = self.services.get(namespace, name) {
            self.holders.claim_service(after);
        }
    }

    /// The same for a ServiceCIDR.
    fn change_cidr(&mut self, cidr: &Meta, change: impl FnOnce(&mut Shelf<ServiceCidr>)) {
        change(&mut self.cidrs);
        self.holders.give_services(&cidr.name, self.cidrs.get("", &cidr.name));
    }

    fn withdraw(&mut self, pod: &Item<Pod>) {
        self.labelled.remove(pod);
        self.holders.withdraw(pod);
        if let Some(gateway) = pod.meta.labels.get(GATEWAY_NAME) {
            self.gateway_pods.remove(&(pod.meta.namespace.clone(), gateway.clone(), pod.meta.name.clone()));
        }
    }

    fn claim(&mut self, pod: &Item<Pod>) {
        self.labelled.insert(pod);
        if let Some(gateway) = pod.meta.labels.get(GATEWAY_NAME) {
            self.gateway_pods.insert((pod.meta.namespace.clone(), gateway.clone(), pod.meta.name.clone()));
        }
        self.holders.claim(pod);
    }
}
