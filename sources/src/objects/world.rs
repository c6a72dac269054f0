//! Pure. All objects; a change to some of them becomes the fewest updates.
//!
//! Nothing that was published is kept: what a workload was is worked out again from what the objects were. Only the
//! pods that a change can concern are looked at: those that changed, those that share an address with them, and those of
//! the namespaces in which anything else changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use mesh::model::name::{Name, Namespace, NodeName};
use mesh::model::reserved::{Holder, Reserved};
use mesh::model::update::Update;
use mesh::model::workload::Workload;

use super::convert::{Context, Exchange, Options};
use super::diff;
use super::holders::{Evidence, Title};
use super::inventory::{GATEWAY_NAME, Inventory};
use super::kind::{Item, Kind, Object, ObjectKey, Pod};
use super::problem::Problem;
use super::survey;

/// All objects, and what they add up to.
#[derive(Debug)]
pub struct World {
    options: Options,
    inventory: Inventory,
    context: Context,
    /// Workloads of endpoints that are written down and are no pods.
    foreign: BTreeMap<IpAddr, Workload>,
    /// Addresses of nodes, and those that nobody has.
    reserved: BTreeMap<IpAddr, Reserved>,
}

/// A pod of a node that claims what others claim too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which pod.
    pub pod: ObjectKey,
    /// Path of its network namespace.
    pub netns: Box<str>,
    /// What it claims.
    pub addresses: Vec<IpAddr>,
}

/// Which pods a change can concern.
#[derive(Debug, Default)]
struct Concern {
    pods: BTreeSet<ObjectKey>,
    addresses: BTreeSet<IpAddr>,
    namespaces: BTreeSet<Namespace>,
    /// Namespaces in which a service changed: pods of others may be its endpoints, if that is written down.
    service_namespaces: BTreeSet<Namespace>,
    everybody: bool,
    /// Whether more than pods and services changed, or a pod or service on which others depend.
    context: bool,
    services: Exchange,
}

impl World {
    /// A world without objects.
    pub fn new(options: Options) -> Self {
        let inventory = Inventory::default();
        let context = Context::new(&inventory, &options);
        Self { options, inventory, context, foreign: BTreeMap::new(), reserved: BTreeMap::new() }
    }

    /// The objects that are in effect.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Takes objects out that were taken in, and others in; returns what changes by that.
    pub fn change(&mut self, removed: &[Object], added: &[Object]) -> Vec<Update> {
        let concern = self.concern(removed, added);
        self.apply(concern, |inventory| {
            removed.iter().for_each(|object| inventory.remove(object));
            added.iter().for_each(|object| inventory.insert(object));
        })
    }

    /// Pods of a node that claim what others claim too, with where they live: what the kernel shows there decides.
    pub fn questions(&self, node: &NodeName) -> Vec<Question> {
        let here = |pod: &&Arc<Item<Pod>>| pod.spec.node == *node && pod.spec.netns.is_some();
        let mut questions = Vec::new();
        for pod in self.inventory.holders.contestants().filter(here) {
            let netns = pod.spec.netns.as_deref().unwrap_or_default().into();
            let question = Question { pod: pod.meta.key(), netns, addresses: pod.spec.addresses.to_vec() };
            if !questions.contains(&question) {
                questions.push(question);
            }
        }
        questions
    }

    /// Takes in what the kernel shows, instead of what it showed before; returns what changes by that.
    pub fn witness(&mut self, evidence: Evidence) -> Vec<Update> {
        let mut concern = Concern::default();
        concern.addresses.extend(self.inventory.holders.differing(&evidence));
        if concern.addresses.is_empty() {
            return Vec::new();
        }
        self.apply(concern, |inventory| inventory.holders.witness(evidence))
    }

    fn apply(&mut self, mut concern: Concern, change: impl FnOnce(&mut Inventory)) -> Vec<Update> {
        let cluster_ip = concern.addresses.iter().any(|address| self.context.has_cluster_ip(*address));
        concern.context |= cluster_ip;
        let claimants = concern.addresses.iter().flat_map(|&address| self.inventory.claimants(address));
        concern.pods.extend(claimants.map(|pod| pod.meta.key()));
        let before: Vec<Option<Workload>> = concern.pods.iter().map(|key| self.workload(key)).collect();

        let holders = self.inventory.holders.before(&concern.addresses);
        change(&mut self.inventory);
        let options = &self.options;
        self.inventory.holders.settle(&concern.addresses, &holders, |namespace| options.is_root(namespace));

        let mut updates = Vec::new();
        // Endpoints become pods, and pods endpoints, by names and addresses.
        let named = |context: &Context| concern.pods.iter().flat_map(|pod| context.written_of(pod)).collect::<Vec<_>>();
        let mut written: BTreeSet<IpAddr> = concern.addresses.iter().copied().chain(named(&self.context)).collect();
        if concern.context {
            let context = self.context.after(&self.inventory, &self.options);
            diff::maps(self.context.services(), context.services(), &mut updates);
            diff::maps(self.context.authorizations(), context.authorizations(), &mut updates);
            let everybody = concern.everybody || !self.context.has_waypoints_of(&context);
            let old = std::mem::replace(&mut self.context, context);
            self.change_bystanders(&old, &concern, everybody, &mut updates);
            written = old.written().chain(self.context.written()).collect();
        } else if !concern.services.is_empty() {
            let exchanged = self.context.exchange(&concern.services, &self.inventory, &self.options);
            diff::maps(&exchanged.before, &exchanged.after, &mut updates);
        }
        for (key, before) in concern.pods.iter().zip(before) {
            updates.extend(diff::workload(before, self.workload(key)));
        }
        for address in written {
            let foreign = self.context.foreign(address, &self.inventory, &self.options);
            let before = self.foreign.remove(&address);
            self.foreign.extend(foreign.clone().map(|foreign| (address, foreign)));
            // Another file may have become the first to name the address.
            let renamed = before.as_ref().zip(foreign.as_ref()).is_some_and(|(before, after)| before.uid != after.uid);
            if renamed {
                updates.extend(diff::workload(before, None));
                updates.extend(diff::workload(None, foreign));
            } else {
                updates.extend(diff::workload(before, foreign));
            }
        }
        let reserved = self.reserve();
        diff::maps(&self.reserved, &reserved, &mut updates);
        self.reserved = reserved;
        updates
    }

    /// Addresses of nodes, and those that nobody has: they are claimed by pods or services that disagree, or by a pod that
    /// is left out because another of its addresses is somebody else's.
    fn reserve(&self) -> BTreeMap<IpAddr, Reserved> {
        let holders = &self.inventory.holders;
        let node = |(address, name): (IpAddr, &Name)| {
            (address, Reserved { address, by: Holder::Node(NodeName::from(name.as_str())) })
        };
        let mut reserved: BTreeMap<IpAddr, Reserved> = holders.nodes().map(node).collect();
        let mut dispute = |address, claimants: String| {
            let by = Holder::Disputed(claimants.into());
            reserved.entry(address).or_insert(Reserved { address, by });
        };
        let left_out = |pod: &Item<Pod>| {
            let title = |address: &IpAddr| holders.title((&pod.meta.namespace, &pod.meta.name), *address);
            pod.spec.addresses.iter().map(title).find(|title| *title != Title::Own)
        };
        for pod in holders.contestants() {
            let Some(title) = left_out(pod) else { continue };
            for &address in &pod.spec.addresses {
                if holders.owner(address).is_some_and(|owner| left_out(owner).is_none()) {
                    continue;
                }
                let names = match &title {
                    Title::Node(node) => format!("Pod {} and Node {node}", pod.meta.key()),
                    Title::Taken(other) => format!("Pod {} and Pod {other}", pod.meta.key()),
                    Title::Disputed(_) | Title::Own => {
                        named("Pod", holders.claimants(address).iter().map(|pod| pod.meta.key()))
                    }
                };
                dispute(address, names);
            }
        }
        for (address, claimants) in self.context.disputed() {
            if holders.claimants(address).is_empty() {
                dispute(address, named("Service", claimants.iter().cloned()));
            }
        }
        reserved
    }

    /// A world without objects that remembers who came first to which address (tests).
    #[cfg(test)]
    pub(crate) fn heir(&self) -> Self {
        let mut heir = Self::new(self.options.clone());
        heir.inventory.holders.remember(self.inventory.holders.history());
        heir.context.remember(&self.context);
        heir
    }

    /// What is wrong between objects that are each well written.
    pub fn problems(&self) -> Vec<Problem> {
        survey::survey(&self.inventory, &self.context, self.foreign.values(), &self.options)
    }

    /// What leads from the old context to the present one for pods that did not change.
    fn change_bystanders(&self, old: &Context, concern: &Concern, everybody: bool, updates: &mut Vec<Update>) {
        let pods: Box<dyn Iterator<Item = _>> = match everybody {
            true => Box::new(self.inventory.pods.iter()),
            false => Box::new(concern.namespaces.iter().flat_map(|namespace| self.inventory.pods.of(namespace))),
        };
        for pod in pods.filter(|pod| !concern.pods.contains(&pod.meta.key())) {
            let before = old.workload(pod, &self.inventory, &self.options).ok();
            let after = self.context.workload(pod, &self.inventory, &self.options).ok();
            updates.extend(diff::workload(before, after));
        }
    }

    fn workload(&self, key: &ObjectKey) -> Option<Workload> {
        let pod = self.inventory.pods.get(&key.namespace, &key.name)?;
        self.context.workload(pod, &self.inventory, &self.options).ok()
    }

    fn concern(&self, removed: &[Object], added: &[Object]) -> Concern {
        let mut concern = Concern::default();
        let mut before: HashMap<(Kind, ObjectKey), Vec<&Object>> = HashMap::new();
        for object in removed {
            before.entry((object.kind(), object.meta().key())).or_default().push(object);
        }
        for object in added {
            let twins = before.get_mut(&(object.kind(), object.meta().key()));
            let twin = twins.and_then(|twins| {
                let place = twins.iter().position(|twin| twin.says_the_same(object))?;
                Some(twins.swap_remove(place))
            });
            match twin {
                Some(twin) if twin.at() == object.at() => {}
                Some(twin) if object.kind() == Kind::Service => {
                    concern.add(twin, false, &self.options);
                    concern.add(object, true, &self.options);
                }
                Some(_) => concern.moved(object, self.inventory.is_alone(object), &self.options),
                None => concern.add(object, true, &self.options),
            }
        }
        before.into_values().flatten().for_each(|object| concern.add(object, false, &self.options));
        // Whose pod it is that a Gateway names by its address says whether the Gateway may.
        concern.context |= self.context.names_addresses(concern.addresses.iter().copied());
        self.concern_of_services(&mut concern);
        for namespace in &concern.service_namespaces {
            let slices = self.inventory.slices.of(namespace);
            for endpoint in slices.flat_map(|slice| &slice.spec.endpoints) {
                concern.addresses.insert(endpoint.address);
                let pod = endpoint.pod.clone().filter(|(home, _)| home != namespace);
                concern.pods.extend(pod.map(|(namespace, name)| ObjectKey { namespace, name }));
            }
            let entries = self.inventory.entries.of(namespace);
            concern.addresses.extend(entries.flat_map(|entry| &entry.spec.endpoints).map(|endpoint| endpoint.address));
        }
        concern
    }

    fn concern_of_services(&self, concern: &mut Concern) {
        let services = &concern.services;
        if services.is_empty() {
            return;
        }
        if concern.context || !self.context.is_apart(services, &self.inventory, &self.options) {
            concern.context = true;
            for item in services.services() {
                concern.namespaces.insert(item.meta.namespace.clone());
                concern.service_namespaces.insert(item.meta.namespace.clone());
            }
            return;
        }
        for item in services.services() {
            let selected = self.inventory.selected(&item.meta.namespace, &item.spec.selector);
            concern.pods.extend(selected.map(|pod| pod.meta.key()));
        }
    }
}

fn named(kind: &str, keys: impl Iterator<Item = ObjectKey>) -> String {
    let names: Vec<String> = keys.map(|key| format!("{kind} {key}")).collect();
    names.join(" and ")
}

impl Concern {
    /// An object says what it said, but at another place, and so perhaps with another age.
    fn moved(&mut self, object: &Object, alone: bool, options: &Options) {
        match object {
            _ if !alone => self.add(object, true, options),
            Object::PeerAuthentication(_) | Object::ServiceEntry(_) => self.add(object, true, options),
            Object::Pod(_) | Object::Raw(_) => {}
            Object::Node(_) => self.add(object, true, options),
            _ => self.context = true,
        }
    }

    /// An object is new or gone, or says something else.
    fn add(&mut self, object: &Object, new: bool, options: &Options) {
        let namespace = &object.meta().namespace;
        self.context |= !matches!(object, Object::Pod(_) | Object::Service(_) | Object::Raw(_));
        match object {
            Object::Pod(pod) => {
                self.pods.insert(pod.meta.key());
                self.addresses.extend(pod.spec.addresses.iter());
                self.context |= pod.meta.labels.get(GATEWAY_NAME).is_some();
            }
            Object::Namespace(item) => {
                self.namespaces.insert(item.meta.name.as_str().into());
            }
            Object::Node(node) => {
                self.everybody = true;
                self.addresses.extend(node.spec.addresses.iter());
            }
            Object::EndpointSlice(slice) => {
                self.namespaces.insert(namespace.clone());
                self.addresses.extend(slice.spec.endpoints.iter().map(|endpoint| endpoint.address));
                let named = slice.spec.endpoints.iter().filter_map(|endpoint| endpoint.pod.clone());
                self.pods.extend(named.map(|(namespace, name)| ObjectKey { namespace, name }));
            }
            Object::Service(item) => {
                let services = if new { &mut self.services.come } else { &mut self.services.gone };
                services.push(Arc::clone(item));
            }
            Object::ServiceEntry(entry) => {
                self.namespaces.insert(namespace.clone());
                self.service_namespaces.insert(namespace.clone());
                self.addresses.extend(entry.spec.endpoints.iter().map(|endpoint| endpoint.address));
            }
            Object::PeerAuthentication(_) | Object::AuthorizationPolicy(_) if options.is_root(namespace) => {
                self.everybody = true;
            }
            Object::PeerAuthentication(_) | Object::AuthorizationPolicy(_) => {
                self.namespaces.insert(namespace.clone());
            }
            // Whether waypoints are somewhere else than before, or guarded by something else, is seen when the contexts are compared.
            Object::Gateway(_)
            | Object::GatewayClass(_)
            | Object::RequestAuthentication(_)
            | Object::MeshPolicy(_)
            | Object::Raw(_) => {}
        }
    }
}
