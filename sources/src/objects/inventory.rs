//! Pure. The objects that are in effect, by kind, namespace and name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use mesh::model::name::{Name, Namespace};

use super::holders::Holders;
use super::kind::{
    AuthorizationPolicy, EndpointSlice, Gateway, GatewayClass, Guard, Item, Kind, Labels, Node, Object, ObjectKey,
    PeerAuthentication, Pod, Raw, Service, ServiceEntry,
};
use super::labelled::Labelled;

/// Label of the pods and services that are instances of a Gateway.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The objects of one key, in the order of the files.
type Slot<T> = SmallVec<[Arc<Item<T>>; 1]>;

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
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Item<T>>> {
        self.by_namespace.get(namespace)?.get(name)?.first()
    }

    /// Every object in effect, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Item<T>>> {
        self.by_namespace.values().flat_map(|names| names.values().filter_map(|slot| slot.first()))
    }

    /// The objects of one namespace.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = &Arc<Item<T>>> {
        self.by_namespace.get(namespace).into_iter().flat_map(|names| names.values().filter_map(|slot| slot.first()))
    }

    /// How many are in effect.
    pub fn len(&self) -> usize {
        self.by_namespace.values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_namespace.is_empty()
    }

    /// Objects that are not in effect because another has their key: that one, and this.
    pub fn duplicates(&self) -> impl Iterator<Item = (&Arc<Item<T>>, &Arc<Item<T>>)> {
        let slots = self.by_namespace.values().flat_map(BTreeMap::values);
        slots.filter_map(|slot| slot.split_first()).flat_map(|(first, rest)| rest.iter().map(move |item| (first, item)))
    }

    /// How many objects have a key, those that are not in effect included.
    pub fn all(&self, namespace: &str, name: &str) -> usize {
        self.by_namespace.get(namespace).and_then(|names| names.get(name)).map_or(0, |slot| slot.len())
    }

    fn is_alone(&self, item: &Item<T>) -> bool {
        let slot = self.by_namespace.get(&item.meta.namespace).and_then(|names| names.get(&item.meta.name));
        slot.is_none_or(|slot| slot.len() <= 1)
    }

    fn insert(&mut self, item: Arc<Item<T>>) {
        let names = self.by_namespace.entry(item.meta.namespace.clone()).or_default();
        let slot = names.entry(item.meta.name.clone()).or_default();
        let place = slot.partition_point(|other| other.at <= item.at);
        slot.insert(place, item);
    }

    fn remove(&mut self, item: &Arc<Item<T>>) {
        let Some(names) = self.by_namespace.get_mut(&item.meta.namespace) else { return };
        let Some(slot) = names.get_mut(&item.meta.name) else { return };
        slot.retain(|other| !Arc::ptr_eq(other, item));
        if slot.is_empty() {
            names.remove(&item.meta.name);
        }
        if names.is_empty() {
            self.by_namespace.remove(&item.meta.namespace);
        }
    }
}

/// The shelf of an object that only waypoints read; `None` for one that stands on a shelf of its own kind too.
fn raw_key(item: &Item<Raw>) -> Option<(Box<str>, Box<str>)> {
    let (group, kind) = item.spec.group_kind();
    (Kind::of(&item.spec.api_version, kind) == Some(Kind::Route)).then(|| (group.into(), kind.into()))
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
    /// Objects that only waypoints read, by group and kind.
    pub raws: BTreeMap<(Box<str>, Box<str>), Shelf<Raw>>,
    /// Who has which address.
    pub holders: Holders,
    /// Pods that are instances of a Gateway: namespace, Gateway, pod.
    gateway_pods: BTreeSet<(Namespace, Name, Name)>,
    labelled: Labelled,
}

impl Inventory {
    /// Takes an object in.
    pub fn insert(&mut self, object: &Object) {
        match object {
            Object::Namespace(item) => self.namespaces.insert(Arc::clone(item)),
            Object::Node(item) => self.change_node(item, |nodes| nodes.insert(Arc::clone(item))),
            Object::Pod(item) => self.change_pod(item, |pods| pods.insert(Arc::clone(item))),
            Object::Service(item) => self.services.insert(Arc::clone(item)),
            Object::EndpointSlice(item) => self.slices.insert(Arc::clone(item)),
            Object::Gateway(item) => self.gateways.insert(Arc::clone(item)),
            Object::GatewayClass(item) => self.classes.insert(Arc::clone(item)),
            Object::PeerAuthentication(item) => self.peers.insert(Arc::clone(item)),
            Object::AuthorizationPolicy(item) => self.policies.insert(Arc::clone(item)),
            Object::RequestAuthentication(item) => self.authentications.insert(Arc::clone(item)),
            Object::MeshPolicy(item) => self.mesh_policies.insert(Arc::clone(item)),
            Object::ServiceEntry(item) => self.entries.insert(Arc::clone(item)),
            Object::Raw(item) => {
                if let Some(key) = raw_key(item) {
                    self.raws.entry(key).or_default().insert(Arc::clone(item));
                }
            }
        }
    }

    /// Takes an object out that was taken in.
    pub fn remove(&mut self, object: &Object) {
        match object {
            Object::Namespace(item) => self.namespaces.remove(item),
            Object::Node(item) => self.change_node(item, |nodes| nodes.remove(item)),
            Object::Pod(item) => self.change_pod(item, |pods| pods.remove(item)),
            Object::Service(item) => self.services.remove(item),
            Object::EndpointSlice(item) => self.slices.remove(item),
            Object::Gateway(item) => self.gateways.remove(item),
            Object::GatewayClass(item) => self.classes.remove(item),
            Object::PeerAuthentication(item) => self.peers.remove(item),
            Object::AuthorizationPolicy(item) => self.policies.remove(item),
            Object::RequestAuthentication(item) => self.authentications.remove(item),
            Object::MeshPolicy(item) => self.mesh_policies.remove(item),
            Object::ServiceEntry(item) => self.entries.remove(item),
            Object::Raw(item) => {
                if let Some(key) = raw_key(item)
                    && let Some(shelf) = self.raws.get_mut(&key)
                {
                    shelf.remove(item);
                    if shelf.is_empty() {
                        self.raws.remove(&key);
                    }
                }
            }
        }
    }

    /// The labels of a namespace; none when it is not written down.
    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        static NONE: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);
        self.namespaces.get("", namespace).map_or(&NONE, |item| &item.meta.labels)
    }

    /// The pod that has an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<Item<Pod>>> {
        self.holders.owner(address)
    }

    /// Every pod that claims an address.
    pub fn claimants(&self, address: IpAddr) -> &[Arc<Item<Pod>>] {
        self.holders.claimants(address)
    }

    /// Whether no other object has the key of this one, nor, for a pod, one of its addresses: then it does not matter
    /// where in the files it stands.
    pub fn is_alone(&self, object: &Object) -> bool {
        match object {
            Object::Namespace(item) => self.namespaces.is_alone(item),
            Object::Node(item) => self.nodes.is_alone(item),
            Object::Pod(item) => {
                let mut addresses = item.spec.addresses.iter();
                self.pods.is_alone(item) && addresses.all(|&address| self.claimants(address).len() <= 1)
            }
            Object::Service(item) => self.services.is_alone(item),
            Object::EndpointSlice(item) => self.slices.is_alone(item),
            Object::Gateway(item) => self.gateways.is_alone(item),
            Object::GatewayClass(item) => self.classes.is_alone(item),
            Object::PeerAuthentication(item) => self.peers.is_alone(item),
            Object::AuthorizationPolicy(item) => self.policies.is_alone(item),
            Object::RequestAuthentication(item) => self.authentications.is_alone(item),
            Object::MeshPolicy(item) => self.mesh_policies.is_alone(item),
            Object::ServiceEntry(item) => self.entries.is_alone(item),
            Object::Raw(_) => true,
        }
    }

    /// The pods of a namespace that a selector selects; none for an empty one.
    pub fn selected<'a>(
        &'a self,
        namespace: &'a Namespace,
        selector: &'a Labels,
    ) -> impl Iterator<Item = &'a Arc<Item<Pod>>> {
        self.labelled.selected(namespace, selector)
    }

    /// The pods that are instances of a Gateway.
    pub fn pods_of_gateway(&self, gateway: &ObjectKey) -> impl Iterator<Item = &Arc<Item<Pod>>> {
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

    /// Changes what is known under the key of a pod, and with it who has which address.
    fn change_pod(&mut self, pod: &Item<Pod>, change: impl FnOnce(&mut Shelf<Pod>)) {
        let (namespace, name) = (&pod.meta.namespace, &pod.meta.name);
        if let Some(before) = self.pods.get(namespace, name).cloned() {
            self.withdraw(&before);
        }
        change(&mut self.pods);
        if let Some(after) = self.pods.get(namespace, name).cloned() {
            self.claim(&after);
        }
    }

    /// The same for a node.
    fn change_node(&mut self, node: &Item<Node>, change: impl FnOnce(&mut Shelf<Node>)) {
        if let Some(before) = self.nodes.get("", &node.meta.name) {
            self.holders.withdraw_node(before);
        }
        change(&mut self.nodes);
        if let Some(after) = self.nodes.get("", &node.meta.name) {
            self.holders.claim_node(after);
        }
    }

    fn withdraw(&mut self, pod: &Arc<Item<Pod>>) {
        self.labelled.remove(pod);
        self.holders.withdraw(pod);
        if let Some(gateway) = pod.meta.labels.get(GATEWAY_NAME) {
            self.gateway_pods.remove(&(pod.meta.namespace.clone(), gateway.clone(), pod.meta.name.clone()));
        }
    }

    fn claim(&mut self, pod: &Arc<Item<Pod>>) {
        self.labelled.insert(pod);
        if let Some(gateway) = pod.meta.labels.get(GATEWAY_NAME) {
            self.gateway_pods.insert((pod.meta.namespace.clone(), gateway.clone(), pod.meta.name.clone()));
        }
        self.holders.claim(pod);
    }
}
