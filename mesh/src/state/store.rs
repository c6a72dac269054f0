//! The store: applies updates and publishes snapshots; the only writer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::endpoints::{Endpoint, Load};
use super::snapshot::{Claims, ServiceEntry, Snapshot};
use crate::model::name::{NodeName, WorkloadUid};
use crate::model::policy::{Authorization, PolicyKey, Scope};
use crate::model::reserved::{Holder, Reserved};
use crate::model::service::{NetworkAddress, Service, ServiceKey, Vip};
use crate::model::update::Update;
use crate::model::workload::{NetworkMode, Standing, Workload};

/// The changes of a batch that others must act on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Addresses added to the mesh: virtual addresses of services, addresses of enrolled workloads.
    pub mesh_added: Vec<IpNet>,
    /// Addresses removed from the mesh.
    pub mesh_removed: Vec<IpNet>,
    /// Whether authorization may have changed, for any workload.
    pub policies: bool,
    /// Whether a workload of this node changed.
    pub local: bool,
}

/// The state of the mesh as one node knows it.
pub struct Store {
    node: Option<NodeName>,
    published: ArcSwap<Snapshot>,
    writer: Mutex<Writer>,
}

/// State of the writer.
#[derive(Default)]
struct Writer {
    endpoints: HashMap<ServiceKey, BTreeMap<WorkloadUid, Arc<Endpoint>>>,
    loads: HashMap<WorkloadUid, Arc<Load>>,
    /// The number of objects per mesh address.
    claims: HashMap<IpNet, u32>,
    /// Ranges that are valid for a client on this node.
    ranges: HashSet<IpNet>,
}

/// One batch being applied.
struct Batch<'a> {
    node: Option<&'a NodeName>,
    next: Snapshot,
    writer: &'a mut Writer,
    touched: HashSet<ServiceKey>,
    claimed: HashMap<IpNet, i64>,
    /// Whether ranges, or the clients for which they are valid, changed.
    ranges: bool,
    applied: Applied,
}

impl Store {
    /// An empty store. `node` says which workloads are local.
    pub fn new(node: Option<NodeName>) -> Self {
        Self { node, published: ArcSwap::from_pointee(Snapshot::default()), writer: Mutex::default() }
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// Applies a batch atomically. The cost depends on the batch and the services that it touches.
    pub fn apply(&self, updates: impl IntoIterator<Item = Update>) -> Applied {
        let mut writer = self.writer.lock();
        let mut batch = Batch {
            node: self.node.as_ref(),
            next: (**self.published.load()).clone(),
            writer: &mut writer,
            touched: HashSet::new(),
            claimed: HashMap::new(),
            ranges: false,
            applied: Applied::default(),
        };
        let updates: Vec<Update> = updates.into_iter().collect();
        // A virtual address may move between services of one batch, in any order: remove all, then add all.
        for update in &updates {
            match update {
                Update::Service(service) => batch.service_gone(&service.key),
                Update::ServiceGone(key) => batch.service_gone(key),
                _ => {}
            }
        }
        for update in updates {
            match update {
                Update::Workload(workload) => batch.workload(Arc::new(*workload)),
                Update::WorkloadGone(uid) => batch.workload_gone(&uid),
                Update::Service(service) => batch.service(Arc::new(*service)),
                Update::ServiceGone(_) => {}
                Update::Authorization(policy) => batch.authorization(Arc::new(*policy)),
                Update::AuthorizationGone(key) => batch.authorization_gone(&key),
                Update::Reserved(reserved) => batch.reserved(*reserved),
                Update::ReservedGone(address) => batch.reserved_gone(address),
            }
        }
        let (next, applied) = batch.finish();
        self.published.store(Arc::new(next));
        applied
    }
}

impl Batch<'_> {
    fn workload(&mut self, workload: Arc<Workload>) {
        self.workload_gone(&workload.uid);
        for address in addresses_of(&workload) {
            // An endpoint in a manifest at a pod's address does not replace the pod.
            let pod = self.next.by_address.get(&address).is_some_and(|held| held.standing == Standing::Owner);
            if workload.standing == Standing::Owner || workload.standing == Standing::Endpoint && !pod {
                self.next.by_address.insert(address, Arc::clone(&workload));
            }
        }
        for net in mesh_addresses(&workload) {
            *self.claimed.entry(net).or_default() += 1;
        }
        if self.is_local(&workload) {
            self.next.local.insert(workload.uid.clone(), Arc::clone(&workload));
            self.applied.local = true;
        }
        let load = Arc::clone(self.writer.loads.entry(workload.uid.clone()).or_default());
        for service in &workload.services {
            let endpoint = Arc::new(Endpoint {
                workload: Arc::clone(&workload),
                ports: service.ports.clone(),
                health: service.health,
                load: Arc::clone(&load),
            });
            self.writer.endpoints.entry(service.service.clone()).or_default().insert(workload.uid.clone(), endpoint);
            self.touched.insert(service.service.clone());
        }
        // An instance of a waypoint may be a permitted caller of workloads of this node.
        self.applied.policies |= self.is_local(&workload) || workload.native_tunnel;
        self.next.workloads.insert(workload.uid.clone(), workload);
    }

    fn workload_gone(&mut self, uid: &WorkloadUid) {
        let Some(old) = self.next.workloads.remove(uid) else { return };
        self.applied.policies |= old.native_tunnel;
        for address in addresses_of(&old) {
            if self.next.by_address.get(&address).is_some_and(|w| w.uid == *uid) {
                self.next.by_address.remove(&address);
            }
        }
        for net in mesh_addresses(&old) {
            *self.claimed.entry(net).or_default() -= 1;
        }
        if self.is_local(&old) {
            self.next.local.remove(uid);
            self.applied.local = true;
        }
        for service in &old.services {
            if let Some(endpoints) = self.writer.endpoints.get_mut(&service.service) {
                endpoints.remove(uid);
                if endpoints.is_empty() {
                    self.writer.endpoints.remove(&service.service);
                }
            }
            self.touched.insert(service.service.clone());
        }
    }

    fn service(&mut self, service: Arc<Service>) {
        self.service_gone(&service.key);
        self.applied.policies |= service.waypoint.is_some();
        for vip in &service.vips {
            match vip {
                Vip::Address(address) => {
                    // Cluster IPs are unique by now.
                    self.next.vips.entry(address.to_canonical()).or_insert_with(|| service.key.clone());
                }
                Vip::External(address) => {
                    add_claim(self.next.external.entry(address.to_canonical()).or_default(), &service.key);
                }
                Vip::Range(net) => {
                    add_claim(self.next.ranges.entry(net.trunc()).or_default(), &service.key);
                    Arc::make_mut(&mut self.next.range_lengths).insert(length_key(net));
                    self.ranges = true;
                }
            }
            if let Some(address) = vip.address() {
                *self.claimed.entry(host_net(address)).or_default() += 1;
            }
        }
        let namespaces = self.next.hosts.entry(service.key.hostname.clone()).or_default();
        if !namespaces.contains(&service.key.namespace) {
            namespaces.push(service.key.namespace.clone());
        }
        self.touched.insert(service.key.clone());
        let entry = ServiceEntry { service: Arc::clone(&service), endpoints: Arc::default() };
        self.next.services.insert(service.key.clone(), Arc::new(entry));
    }

    fn service_gone(&mut self, key: &ServiceKey) {
        let Some(old) = self.next.services.remove(key) else { return };
        self.applied.policies |= old.service.waypoint.is_some();
        for vip in &old.service.vips {
            match vip {
                Vip::Address(address) => {
                    let at = address.to_canonical();
                    if self.next.vips.get(&at) == Some(key) {
                        self.next.vips.remove(&at);
                    }
                }
                Vip::External(address) => {
                    let at = address.to_canonical();
                    if self.next.external.get_mut(&at).is_some_and(|claims| drop_claim(claims, key)) {
                        self.next.external.remove(&at);
                    }
                }
                Vip::Range(net) => {
                    if self.next.ranges.get_mut(&net.trunc()).is_some_and(|claims| drop_claim(claims, key)) {
                        self.next.ranges.remove(&net.trunc());
                    }
                    let lengths: BTreeSet<_> = self.next.ranges.keys().map(length_key).collect();
                    self.next.range_lengths = Arc::new(lengths);
                    self.ranges = true;
                }
            }
            if let Some(address) = vip.address() {
                *self.claimed.entry(host_net(address)).or_default() -= 1;
            }
        }
        if let Some(namespaces) = self.next.hosts.get_mut(&key.hostname) {
            namespaces.retain(|n| *n != key.namespace);
            if namespaces.is_empty() {
                self.next.hosts.remove(&key.hostname);
            }
        }
    }

    fn reserved(&mut self, reserved: Reserved) {
        self.reserved_gone(reserved.address);
        let address = reserved.address.to_canonical();
        match reserved.by {
            Holder::Node(node) => _ = self.next.nodes.insert(address, node),
            Holder::Disputed(claimants) => {
                self.next.disputed.insert(address, claimants.into());
                // Connections to it must be captured, so that the agent refuses them.
                *self.claimed.entry(host_net(address)).or_default() += 1;
            }
        }
    }

    fn reserved_gone(&mut self, address: IpAddr) {
        let address = address.to_canonical();
        self.next.nodes.remove(&address);
        if self.next.disputed.remove(&address).is_some() {
            *self.claimed.entry(host_net(address)).or_default() -= 1;
        }
    }

    /// Computes the ranges of the mesh on this node: those of root namespaces, and those of namespaces with a workload
    /// here. A range of others is valid for nobody here, so its traffic may pass through in the kernel.
    fn settle_ranges(&mut self) {
        if !self.ranges && (!self.applied.local || self.next.ranges.is_empty()) {
            return;
        }
        let here: HashSet<&str> = self.next.local.values().map(|workload| workload.namespace.as_str()).collect();
        let counts = |key: &ServiceKey| {
            let root = || self.next.services.get(key).is_some_and(|entry| entry.service.reach.root);
            here.contains(key.namespace.as_str()) || root()
        };
        let ranges = self.next.ranges.iter().filter(|(_, claims)| claims.iter().any(counts));
        let ranges: HashSet<IpNet> = ranges.map(|(net, _)| *net).collect();
        self.applied.mesh_added.extend(ranges.difference(&self.writer.ranges));
        self.applied.mesh_removed.extend(self.writer.ranges.difference(&ranges));
        self.writer.ranges = ranges;
    }

    fn authorization(&mut self, policy: Arc<Authorization>) {
        self.authorization_gone(&policy.key);
        match policy.scope {
            Scope::Global => {
                self.next.global.insert(policy.key.clone(), Arc::clone(&policy));
            }
            Scope::Namespace => {
                let of_namespace = self.next.by_namespace.entry(policy.key.namespace.clone()).or_default();
                of_namespace.insert(policy.key.clone(), Arc::clone(&policy));
            }
            Scope::WorkloadSelector | Scope::Targets => {}
        }
        self.next.policies.insert(policy.key.clone(), policy);
        self.applied.policies = true;
    }

    fn authorization_gone(&mut self, key: &PolicyKey) {
        if self.next.policies.remove(key).is_none() {
            return;
        }
        self.next.global.remove(key);
        if let Some(of_namespace) = self.next.by_namespace.get_mut(&key.namespace) {
            of_namespace.remove(key);
            if of_namespace.is_empty() {
                self.next.by_namespace.remove(&key.namespace);
            }
        }
        self.applied.policies = true;
    }

    fn finish(mut self) -> (Snapshot, Applied) {
        for key in std::mem::take(&mut self.touched) {
            if let Some(entry) = self.next.services.get(&key) {
                let endpoints =
                    self.writer.endpoints.get(&key).map(|all| all.values().cloned().collect()).unwrap_or_default();
                let entry = ServiceEntry { service: Arc::clone(&entry.service), endpoints };
                self.next.services.insert(key, Arc::new(entry));
            }
        }
        let workloads = &self.next.workloads;
        if self.writer.loads.len() > 2 * workloads.len() + 64 {
            self.writer.loads.retain(|uid, _| workloads.contains_key(uid));
        }
        for (net, change) in std::mem::take(&mut self.claimed) {
            let before = self.writer.claims.get(&net).copied().unwrap_or(0);
            let after = u32::try_from((i64::from(before) + change).max(0)).unwrap_or(u32::MAX);
            match (before, after) {
                (0, 1..) => self.applied.mesh_added.push(net),
                (1.., 0) => self.applied.mesh_removed.push(net),
                _ => {}
            }
            if after == 0 {
                self.writer.claims.remove(&net);
            } else {
                self.writer.claims.insert(net, after);
            }
        }
        self.settle_ranges();
        (self.next, self.applied)
    }

    fn is_local(&self, workload: &Workload) -> bool {
        self.node.is_some_and(|node| *node == workload.node)
    }
}

fn addresses_of(workload: &Workload) -> impl Iterator<Item = NetworkAddress> + use<'_> {
    let addresses = match workload.network_mode {
        NetworkMode::Standard => &workload.addresses[..],
        NetworkMode::HostNetwork => &[],
    };
    addresses
        .iter()
        .map(|address| NetworkAddress { network: workload.network.clone(), address: address.to_canonical() })
}

fn mesh_addresses(workload: &Workload) -> impl Iterator<Item = IpNet> + use<'_> {
    let enrolled = workload.is_enrolled() || workload.waypoint.is_some();
    workload.addresses.iter().filter(move |_| enrolled).map(|address| host_net(*address))
}

fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address.to_canonical())
}

/// Adds a claim; claims are sorted by key.
fn add_claim(claims: &mut Claims, key: &ServiceKey) {
    if let Err(place) = claims.binary_search(key) {
        claims.insert(place, key.clone());
    }
}

/// Removes a claim; returns whether none is left.
fn drop_claim(claims: &mut Claims, key: &ServiceKey) -> bool {
    claims.retain(|other| other != key);
    claims.is_empty()
}

fn length_key(net: &IpNet) -> (bool, u8) {
    (net.addr().is_ipv6(), net.prefix_len())
}
