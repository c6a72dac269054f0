//! Applies updates and publishes snapshots; the only writer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::endpoints::{Endpoint, Load};
use super::snapshot::{ServiceEntry, Snapshot};
use crate::model::name::{NodeName, WorkloadUid};
use crate::model::policy::{Authorization, PolicyKey, Scope};
use crate::model::service::{NetworkAddress, Service, ServiceKey, Vip};
use crate::model::update::Update;
use crate::model::workload::{NetworkMode, Workload};

/// What a batch changed, for those who must act on it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Addresses whose traffic is now the mesh's: virtual addresses of services, addresses of enrolled workloads.
    pub mesh_added: Vec<IpNet>,
    /// Addresses whose traffic no longer is.
    pub mesh_removed: Vec<IpNet>,
    /// Some policy, or the policies of some workload, may judge differently.
    pub policies: bool,
    /// Some workload of this node changed.
    pub local: bool,
}

/// The state of the mesh as one node knows it.
pub struct Store {
    node: Option<NodeName>,
    published: ArcSwap<Snapshot>,
    writer: Mutex<Writer>,
}

/// What only the writer needs.
#[derive(Default)]
struct Writer {
    endpoints: HashMap<ServiceKey, BTreeMap<WorkloadUid, Arc<Endpoint>>>,
    loads: HashMap<WorkloadUid, Arc<Load>>,
    /// How many objects claim an address as the mesh's.
    claims: HashMap<IpNet, u32>,
}

/// One batch being applied.
struct Batch<'a> {
    node: Option<&'a NodeName>,
    next: Snapshot,
    writer: &'a mut Writer,
    touched: HashSet<ServiceKey>,
    claimed: HashMap<IpNet, i64>,
    applied: Applied,
}

impl Store {
    /// An empty store. `node` says which workloads are local.
    pub fn new(node: Option<NodeName>) -> Self {
        Self { node, published: ArcSwap::from_pointee(Snapshot::default()), writer: Mutex::default() }
    }

    /// What is known now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// Applies a batch; it becomes visible at once. The cost follows the batch and the services it touches.
    pub fn apply(&self, updates: impl IntoIterator<Item = Update>) -> Applied {
        let mut writer = self.writer.lock();
        let mut batch = Batch {
            node: self.node.as_ref(),
            next: (**self.published.load()).clone(),
            writer: &mut writer,
            touched: HashSet::new(),
            claimed: HashMap::new(),
            applied: Applied::default(),
        };
        let updates: Vec<Update> = updates.into_iter().collect();
        // A virtual address may move between services of one batch, in any order: all let go before any takes.
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
            self.next.by_address.insert(address, Arc::clone(&workload));
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
        // An instance of a waypoint may be the one that workloads of this node are to be called by.
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
                    let at = NetworkAddress { network: Default::default(), address: address.to_canonical() };
                    // The first to claim an address keeps it, unless a Kubernetes Service takes it from a ServiceEntry.
                    let holder = self.next.vips.get(&at).and_then(|key| self.next.services.get(key));
                    if holder.is_none_or(|held| service.canonical && !held.service.canonical) {
                        self.next.vips.insert(at, service.key.clone());
                    }
                }
                Vip::Range(net) => {
                    self.next.ranges.insert(net.trunc(), service.key.clone());
                    Arc::make_mut(&mut self.next.range_lengths).insert(length_key(net));
                }
            }
            *self.claimed.entry(vip_net(*vip)).or_default() += 1;
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
                    let at = NetworkAddress { network: Default::default(), address: address.to_canonical() };
                    if self.next.vips.get(&at) == Some(key) {
                        self.next.vips.remove(&at);
                    }
                }
                Vip::Range(net) => {
                    if self.next.ranges.get(&net.trunc()) == Some(key) {
                        self.next.ranges.remove(&net.trunc());
                    }
                    let lengths: BTreeSet<_> = self.next.ranges.keys().map(length_key).collect();
                    self.next.range_lengths = Arc::new(lengths);
                }
            }
            *self.claimed.entry(vip_net(*vip)).or_default() -= 1;
        }
        if let Some(namespaces) = self.next.hosts.get_mut(&key.hostname) {
            namespaces.retain(|n| *n != key.namespace);
            if namespaces.is_empty() {
                self.next.hosts.remove(&key.hostname);
            }
        }
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
            Scope::WorkloadSelector => {}
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

fn vip_net(vip: Vip) -> IpNet {
    match vip {
        Vip::Address(address) => host_net(address),
        Vip::Range(net) => net.trunc(),
    }
}

fn length_key(net: &IpNet) -> (bool, u8) {
    (net.addr().is_ipv6(), net.prefix_len())
}
