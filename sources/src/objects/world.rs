//! Pure. All objects of the cluster; turns a change of some objects into the smallest set of updates.
//!
//! Published workloads are not kept: the earlier state of a workload is computed again from the earlier objects. Only
//! pods that a change can affect are visited: those that changed, those that share an address with them, and those of
//! the namespaces in which anything else changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use mesh::model::name::{Name, Namespace, NodeName};
use mesh::model::reserved::{Holder, Reserved};
use mesh::model::update::Update;
use mesh::model::workload::Workload;

use super::convert::{Context, Exchange, Options};
use super::diff;
use super::holders::{Evidence, Holder as Claimer, Title};
use super::inventory::{GATEWAY_NAME, Inventory};
use super::kind::{Body, Item, Kind, Object, ObjectKey, Pod};
use super::last_good::{Changed, LastGood};
use super::origin::{ApiKey, ApiKind};
use super::parse::Version;
use super::problem::Problem;
use super::survey;

/// All objects, and the state that is derived from them.
#[derive(Debug)]
pub struct World {
    options: Options,
    inventory: Inventory,
    context: Context,
    /// Workloads of endpoints (EndpointSlice, ServiceEntry) that are not pods.
    foreign: BTreeMap<IpAddr, Workload>,
    /// Addresses of nodes, and those that nobody owns.
    reserved: BTreeMap<IpAddr, Reserved>,
    /// The last good version of each API object.
    watched: BTreeMap<ApiKey, Watched>,
}

/// An object of an API.
#[derive(Debug)]
struct Watched {
    uid: Box<str>,
    said: LastGood,
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
    /// Ranges of pods and Services that come or go.
    ranges: Vec<IpNet>,
}

impl World {
    /// A world without objects.
    pub fn new(options: Options) -> Self {
        let inventory = Inventory::default();
        let context = Context::new(&inventory, &options);
        Self {
            options,
            inventory,
            context,
            foreign: BTreeMap::new(),
            reserved: BTreeMap::new(),
            watched: BTreeMap::new(),
        }
    }

    /// The objects that are in effect.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Removes some objects and adds others; returns the updates.
    pub fn change(&mut self, removed: &[Object], added: &[Object]) -> Vec<Update> {
        let concern = self.concern(removed, added);
        self.bring_about(concern, |inventory| {
            removed.iter().for_each(|object| inventory.remove(object));
            added.iter().for_each(|object| inventory.insert(object));
        })
    }

    /// Applies a version of an API object; returns the updates. If it cannot be read, the last good version stays in
    /// effect and [`World::problems`] reports the error.
    pub fn apply(&mut self, version: Version) -> Vec<Update> {
        self.apply_all([version])
    }

    /// The same for several that take effect together, as those of all kinds do once all are known.
    pub fn apply_all(&mut self, versions: impl IntoIterator<Item = Version>) -> Vec<Update> {
        let mut changed = Changed::default();
        versions.into_iter().for_each(|version| self.watch(version, &mut changed));
        self.change(&changed.removed, &changed.added)
    }

    /// Removes an API object; returns the updates.
    pub fn delete(&mut self, key: &ApiKey) -> Vec<Update> {
        let mut changed = Changed::default();
        if let Some(gone) = self.watched.remove(key) {
            gone.said.end(&mut changed);
        }
        self.change(&changed.removed, &changed.added)
    }

    /// Replaces all API objects of a kind (a list): those that are not in the list any more are removed. Returns the
    /// updates.
    pub fn replace_all(&mut self, kind: &ApiKind, versions: Vec<Version>) -> Vec<Update> {
        let mut changed = Changed::default();
        let stays: HashSet<ApiKey> = versions.iter().map(|version| version.at.key.clone()).collect();
        let first = ApiKey { kind: kind.clone(), namespace: Namespace::default(), name: Name::default() };
        let of_kind = self.watched.range(first..).map(|(key, _)| key).take_while(|key| key.kind == *kind);
        let gone: Vec<ApiKey> = of_kind.filter(|key| !stays.contains(key)).cloned().collect();
        for gone in gone.iter().filter_map(|key| self.watched.remove(key)) {
            gone.said.end(&mut changed);
        }
        versions.into_iter().for_each(|version| self.watch(version, &mut changed));
        self.change(&changed.removed, &changed.added)
    }

    /// Objects of an API that the consumer reads by itself, by key.
    pub fn watched_documents(&self) -> impl Iterator<Item = &Object> {
        let objects = self.watched.values().flat_map(|watched| watched.said.objects());
        objects.filter(|object| object.document.is_some())
    }

    fn watch(&mut self, Version { at, parsed }: Version, changed: &mut Changed) {
        // Another object of the same name is not the one that said something.
        if let Some(other) = self.watched.get(&at.key).filter(|known| known.uid != at.uid).map(|_| &at.key)
            && let Some(gone) = self.watched.remove(other)
        {
            gone.said.end(changed);
        }
        let fresh = || Watched { uid: at.uid.clone(), said: LastGood::default() };
        self.watched.entry(at.key.clone()).or_insert_with(fresh).said.take(parsed, changed);
    }

    /// Pods of a node that claim what others claim too, with where they live: what the kernel shows there decides.
    pub fn questions(&self, node: &NodeName) -> Vec<Question> {
        let here = |pod: &&Item<Pod>| pod.spec.node == *node && pod.spec.netns.is_some();
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

    /// Replaces the kernel's evidence; returns the updates.
    pub fn witness(&mut self, evidence: Evidence) -> Vec<Update> {
        let mut concern = Concern::default();
        concern.addresses.extend(self.inventory.holders.differing(&evidence));
        if concern.addresses.is_empty() {
            return Vec::new();
        }
        self.bring_about(concern, |inventory| inventory.holders.witness(evidence))
    }

    fn bring_about(&mut self, mut concern: Concern, change: impl FnOnce(&mut Inventory)) -> Vec<Update> {
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
            let context = Context::new(&self.inventory, &self.options);
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

    /// Addresses of nodes, and those that nobody owns: they are claimed by pods or services that disagree, or by a pod
    /// that is left out because another of its addresses is somebody else's.
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
            let title = |address: &IpAddr| holders.title(pod, *address);
            pod.spec.addresses.iter().map(title).find(|title| *title != Title::Own)
        };
        for pod in holders.contestants() {
            let Some(title) = left_out(pod) else { continue };
            for &address in &pod.spec.addresses {
                let owned = holders.owner(address).is_some_and(|owner| left_out(owner).is_none());
                if owned || holders.is_of_service(address) {
                    continue;
                }
                let names = match &title {
                    Title::Node(node) => format!("Pod {} and Node {node}", pod.meta.key()),
                    Title::Taken(other) => format!("Pod {} and {other}", pod.meta.key()),
                    Title::Nothing(why) => format!("Pod {}, whose address {why}", pod.meta.key()),
                    Title::Disputed(all) if holders.claimants(address).len() < 2 => named(all),
                    Title::Disputed(_) | Title::Own => {
                        let pods = holders.claimants(address).iter();
                        named(&pods.map(|pod| Claimer::Pod(pod.meta.key())).collect::<Vec<_>>())
                    }
                };
                dispute(address, names);
            }
        }
        for (address, claimants) in holders.disputed() {
            dispute(address, named(&claimants));
        }
        reserved
    }

    /// A world without objects that remembers who came first to which address (tests).
    #[cfg(test)]
    pub(crate) fn heir(&self) -> Self {
        let mut heir = Self::new(self.options.clone());
        heir.inventory.holders.remember(self.inventory.holders.history());
        heir
    }

    /// What is wrong between objects that are each well written, and with those of an API that are not.
    pub fn problems(&self) -> Vec<Problem> {
        let between = survey::survey(&self.inventory, &self.context, self.foreign.values(), &self.options);
        let within = self.watched.values().flat_map(|watched| watched.said.problems()).cloned();
        let mut problems: Vec<Problem> = within.chain(between).collect();
        problems.sort();
        problems
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
            before.entry((object.kind(), object.meta.key())).or_default().push(object);
        }
        for object in added {
            let twins = before.get_mut(&(object.kind(), object.meta.key()));
            let twin = twins.and_then(|twins| {
                let place = twins.iter().position(|twin| twin.says_the_same(object))?;
                Some(twins.swap_remove(place))
            });
            match twin {
                Some(twin) if twin.at.is_same_place(&object.at) => {}
                Some(twin) if object.kind() == Kind::Service => {
                    concern.add(twin, false, &self.options);
                    concern.add(object, true, &self.options);
                }
                Some(_) => concern.moved(object, self.inventory.is_alone(object), &self.options),
                None => concern.add(object, true, &self.options),
            }
        }
        before.into_values().flatten().for_each(|object| concern.add(object, false, &self.options));
        for key in &concern.pods {
            let twins = self.inventory.pods.every(&key.namespace, &key.name);
            concern.addresses.extend(twins.iter().flat_map(|pod| pod.spec.addresses.iter()));
        }
        if !concern.ranges.is_empty() {
            concern.addresses.extend(self.inventory.holders.ranged(&concern.ranges));
        }
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
                // Another of the name may come into effect in its place.
                let twins = self.inventory.services.every(&item.meta.namespace, &item.meta.name);
                concern.addresses.extend(twins.iter().chain([item]).flat_map(|item| item.spec.addresses.iter()));
            }
            return;
        }
        for item in services.services() {
            let selected = self.inventory.selected(&item.meta.namespace, &item.spec.selector);
            concern.pods.extend(selected.map(|pod| pod.meta.key()));
        }
    }
}

fn named(claimants: &[Claimer]) -> String {
    let names: Vec<String> = claimants.iter().map(Claimer::to_string).collect();
    names.join(" and ")
}

impl Concern {
    /// An object says what it said, but at another place, and so perhaps with another age.
    fn moved(&mut self, object: &Object, alone: bool, options: &Options) {
        match &object.body {
            _ if !alone => self.add(object, true, options),
            Body::PeerAuthentication(_) | Body::ServiceEntry(_) => self.add(object, true, options),
            Body::Pod(_) | Body::ForWaypoints(_) => {}
            Body::Node(_) => self.add(object, true, options),
            _ => self.context = true,
        }
    }

    /// An object is new or gone, or says something else.
    fn add(&mut self, object: &Object, new: bool, options: &Options) {
        let namespace = &object.meta.namespace;
        self.context |= !matches!(object.body, Body::Pod(_) | Body::Service(_) | Body::ForWaypoints(_));
        match &object.body {
            Body::Pod(pod) => {
                self.pods.insert(object.meta.key());
                self.addresses.extend(pod.addresses.iter());
                self.context |= object.meta.labels.get(GATEWAY_NAME).is_some();
            }
            Body::Namespace => {
                self.namespaces.insert(object.meta.name.as_str().into());
            }
            Body::Node(node) => {
                self.everybody = true;
                self.addresses.extend(node.addresses.iter());
                self.ranges.extend(node.pod_nets.iter());
            }
            Body::ServiceCidr(cidr) => self.ranges.extend(cidr.nets.iter()),
            Body::EndpointSlice(slice) => {
                self.namespaces.insert(namespace.clone());
                self.addresses.extend(slice.endpoints.iter().map(|endpoint| endpoint.address));
                let named = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.clone());
                self.pods.extend(named.map(|(namespace, name)| ObjectKey { namespace, name }));
            }
            Body::Service(service) => {
                let services = if new { &mut self.services.come } else { &mut self.services.gone };
                services.push(object.item(service));
            }
            Body::ServiceEntry(entry) => {
                self.namespaces.insert(namespace.clone());
                self.service_namespaces.insert(namespace.clone());
                self.addresses.extend(entry.endpoints.iter().map(|endpoint| endpoint.address));
            }
            Body::PeerAuthentication(_) | Body::AuthorizationPolicy(_) if options.is_root(namespace) => {
                self.everybody = true;
            }
            Body::PeerAuthentication(_) | Body::AuthorizationPolicy(_) => {
                self.namespaces.insert(namespace.clone());
            }
            // Whether waypoints are somewhere else than before, or guarded by something else, is seen when the contexts
            // are compared.
            Body::Gateway(_)
            | Body::GatewayClass(_)
            | Body::RequestAuthentication(_)
            | Body::MeshPolicy(_)
            | Body::ForWaypoints(_) => {}
        }
    }
}
