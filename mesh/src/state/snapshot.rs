//! Pure. The immutable view of the mesh on which a decision is made. Cloning one is a few reference counts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::endpoints::Endpoint;
use crate::authority::claims::{Tier, tier};
use crate::model::name::{Hostname, Namespace, Network, NodeName, WorkloadUid};
use crate::model::policy::{Authorization, PolicyKey, Scope};
use crate::model::service::{NetworkAddress, Service, ServiceKey};
use crate::model::workload::{Standing, Workload};

/// A service with its endpoints.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// The service.
    pub service: Arc<Service>,
    /// Its endpoints, including those that are not ready.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

/// Services with the same claim.
pub(super) type Claims = SmallVec<[ServiceKey; 1]>;

/// The external claim on an address that is valid for one client.
enum Foreign<'a> {
    Nothing,
    One(&'a Arc<ServiceEntry>),
    /// Claims of several foreign namespaces, of which none takes precedence.
    Several(&'a [ServiceKey]),
}

/// An immutable view of the mesh.
///
/// Large collections are ordered maps: a persistent hash map takes two to five times their memory.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub(super) workloads: OrdMap<WorkloadUid, Arc<Workload>>,
    pub(super) by_address: OrdMap<NetworkAddress, Arc<Workload>>,
    pub(super) local: OrdMap<WorkloadUid, Arc<Workload>>,
    pub(super) services: OrdMap<ServiceKey, Arc<ServiceEntry>>,
    /// Cluster IPs.
    pub(super) vips: OrdMap<IpAddr, ServiceKey>,
    /// Claims on a single address that is no cluster IP, sorted by key.
    pub(super) external: OrdMap<IpAddr, Claims>,
    /// Claims on a range, sorted by key.
    pub(super) ranges: HashMap<IpNet, Claims>,
    /// Prefix lengths in `ranges`, so that a lookup tries each length once however many ranges there are.
    pub(super) range_lengths: Arc<BTreeSet<(bool, u8)>>,
    pub(super) nodes: OrdMap<IpAddr, NodeName>,
    /// Disputed addresses, with the objects that claim them.
    pub(super) disputed: OrdMap<IpAddr, Arc<str>>,
    pub(super) hosts: OrdMap<Hostname, SmallVec<[Namespace; 1]>>,
    pub(super) policies: HashMap<PolicyKey, Arc<Authorization>>,
    pub(super) global: OrdMap<PolicyKey, Arc<Authorization>>,
    pub(super) by_namespace: HashMap<Namespace, OrdMap<PolicyKey, Arc<Authorization>>>,
}

impl Snapshot {
    /// The workload with this uid.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload with this address; never one in a host's network namespace.
    pub fn workload_at(&self, network: &Network, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&NetworkAddress { network: network.clone(), address: address.to_canonical() })
    }

    /// The service with this key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        self.services.get(key)
    }

    /// The service with this address for a client of a namespace. A cluster IP is valid for every client. An address
    /// that is no cluster IP, no pod's, no node's and not disputed may be claimed: first by the client's own namespace
    /// (an exact address before a range, the longest range first), then by a root namespace, then by a single other
    /// namespace, with an exact address.
    pub fn service_at(&self, network: &Network, address: IpAddr, client: &Namespace) -> Option<&Arc<ServiceEntry>> {
        let address = address.to_canonical();
        if let Some(key) = self.vips.get(&address) {
            return self.services.get(key);
        }
        match self.foreign_at(network, address, client) {
            Foreign::One(entry) => Some(entry),
            Foreign::Nothing | Foreign::Several(_) => None,
        }
    }

    /// Why an address is unreachable: several pods or services claim it.
    pub fn disputed_at(&self, network: &Network, address: IpAddr, client: &Namespace) -> Option<Arc<str>> {
        let address = address.to_canonical();
        if let Some(claimants) = self.disputed.get(&address) {
            return Some(Arc::clone(claimants));
        }
        match self.foreign_at(network, address, client) {
            Foreign::Several(keys) => {
                let names: Vec<String> = keys.iter().map(|key| format!("service {key}")).collect();
                Some(names.join(" and ").into())
            }
            Foreign::Nothing | Foreign::One(_) => None,
        }
    }

    /// Whether an address is a pod's, a node's or disputed, so that no service may claim it.
    fn is_taken(&self, network: &Network, address: IpAddr) -> bool {
        let pod = || self.workload_at(network, address).is_some_and(|held| held.standing != Standing::Endpoint);
        self.nodes.contains_key(&address) || self.disputed.contains_key(&address) || pod()
    }

    fn foreign_at(&self, network: &Network, address: IpAddr, client: &Namespace) -> Foreign<'_> {
        if self.external.is_empty() && self.ranges.is_empty() {
            return Foreign::Nothing;
        }
        let exact = self.external.get(&address).map_or(&[][..], SmallVec::as_slice);
        let of = |keys: &'_ [ServiceKey], wanted: Tier| {
            keys.iter().find_map(|key| {
                let entry = self.services.get(key)?;
                (tier(client, &key.namespace, &entry.service.reach) == Some(wanted)).then_some(entry)
            })
        };
        let found = [Tier::Own, Tier::Root]
            .into_iter()
            .find_map(|wanted| of(exact, wanted).or_else(|| self.ranges_of(address).find_map(|keys| of(keys, wanted))));
        let found = match found {
            Some(entry) => Foreign::One(entry),
            None => match of(exact, Tier::Other) {
                None => return Foreign::Nothing,
                Some(first) => {
                    let other = exact.iter().filter(|key| key.namespace != first.service.key.namespace);
                    let visible = |key: &&ServiceKey| of(std::slice::from_ref(*key), Tier::Other).is_some();
                    if other.clone().any(|key| visible(&key)) { Foreign::Several(exact) } else { Foreign::One(first) }
                }
            },
        };
        // Checked last: most addresses are claimed by no service.
        if self.is_taken(network, address) { Foreign::Nothing } else { found }
    }

    /// The claims on ranges that contain an address, the longest range first.
    fn ranges_of(&self, address: IpAddr) -> impl Iterator<Item = &Claims> {
        let lengths = self.range_lengths.iter().rev().filter(move |(v6, _)| *v6 == address.is_ipv6());
        lengths.filter_map(move |(_, length)| self.ranges.get(&IpNet::new(address, *length).ok()?.trunc()))
    }

    /// The service with this host name for a client of a namespace: a Kubernetes Service before any other, then that of
    /// the client's own namespace, of a root namespace, of the only other one that exports it.
    pub fn service_named(&self, hostname: &Hostname, client: &Namespace) -> Option<&Arc<ServiceEntry>> {
        let entry = |namespace: &Namespace| {
            self.services.get(&ServiceKey { namespace: namespace.clone(), hostname: hostname.clone() })
        };
        let entries: SmallVec<[&Arc<ServiceEntry>; 2]> = self.hosts.get(hostname)?.iter().filter_map(entry).collect();
        if let Some(canonical) = entries.iter().copied().find(|entry| entry.service.canonical) {
            return Some(canonical);
        }
        let of = |wanted: Tier| {
            entries
                .iter()
                .copied()
                .filter(move |entry| tier(client, &entry.service.key.namespace, &entry.service.reach) == Some(wanted))
        };
        let close = of(Tier::Own).chain(of(Tier::Root)).next();
        close.or_else(|| of(Tier::Other).next().filter(|_| of(Tier::Other).nth(1).is_none()))
    }

    /// The policies that apply to a workload: global, of its namespace, and by selector.
    pub fn policies_of(&self, workload: &Workload) -> Vec<Arc<Authorization>> {
        let namespaced = self.by_namespace.get(&workload.namespace);
        let selected = workload
            .policies
            .iter()
            .filter_map(|key| self.policies.get(key))
            .filter(|policy| policy.scope == Scope::WorkloadSelector);
        self.global.values().chain(namespaced.into_iter().flat_map(OrdMap::values)).chain(selected).cloned().collect()
    }

    /// The policy with this key.
    pub fn authorization(&self, key: &PolicyKey) -> Option<&Arc<Authorization>> {
        self.policies.get(key)
    }

    /// Workloads of this node, sorted by uid.
    pub fn local(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.local.values()
    }

    /// Every workload, unordered.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// Every service, unordered.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.services.values()
    }

    /// Every policy, unordered.
    pub fn authorizations(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.policies.values()
    }

    /// The number of workloads and services.
    pub fn counts(&self) -> (usize, usize) {
        (self.workloads.len(), self.services.len())
    }
}
