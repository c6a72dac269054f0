//! Pure. What one decision sees of the mesh. Cloning one is a few reference counts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::endpoints::Endpoint;
use crate::model::name::{Hostname, Namespace, Network, WorkloadUid};
use crate::model::policy::{Authorization, PolicyKey, Scope};
use crate::model::service::{NetworkAddress, Service, ServiceKey};
use crate::model::workload::Workload;

/// A service with its endpoints.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// The service.
    pub service: Arc<Service>,
    /// Its endpoints, those that are not ready included.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

/// An immutable view of the mesh.
///
/// What there is much of is in ordered maps: a persistent hash map takes two to five times their memory.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub(super) workloads: OrdMap<WorkloadUid, Arc<Workload>>,
    pub(super) by_address: OrdMap<NetworkAddress, Arc<Workload>>,
    pub(super) local: OrdMap<WorkloadUid, Arc<Workload>>,
    pub(super) services: OrdMap<ServiceKey, Arc<ServiceEntry>>,
    pub(super) vips: OrdMap<NetworkAddress, ServiceKey>,
    pub(super) ranges: HashMap<IpNet, ServiceKey>,
    /// Prefix lengths in `ranges`, so that a look-up tries each length once however many ranges there are.
    pub(super) range_lengths: Arc<BTreeSet<(bool, u8)>>,
    pub(super) hosts: OrdMap<Hostname, SmallVec<[Namespace; 1]>>,
    pub(super) policies: HashMap<PolicyKey, Arc<Authorization>>,
    pub(super) global: OrdMap<PolicyKey, Arc<Authorization>>,
    pub(super) by_namespace: HashMap<Namespace, OrdMap<PolicyKey, Arc<Authorization>>>,
}

impl Snapshot {
    /// The workload of this uid.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload with this address; never one in a host's network namespace.
    pub fn workload_at(&self, network: &Network, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&NetworkAddress { network: network.clone(), address: address.to_canonical() })
    }

    /// The service of this key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        self.services.get(key)
    }

    /// The service with this virtual address: an exact one before a range, the longest range first.
    pub fn service_at(&self, network: &Network, address: IpAddr) -> Option<&Arc<ServiceEntry>> {
        let address = address.to_canonical();
        let exact = self.vips.get(&NetworkAddress { network: network.clone(), address });
        let key = exact.or_else(|| self.range_of(address))?;
        self.services.get(key)
    }

    fn range_of(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.range_lengths.iter().rev().filter(|(v6, _)| *v6 == address.is_ipv6()).find_map(|(_, length)| {
            let net = IpNet::new(address, *length).ok()?.trunc();
            self.ranges.get(&net)
        })
    }

    /// The service of this host name, that of `prefer` first when several namespaces have one.
    pub fn service_named(&self, hostname: &Hostname, prefer: &Namespace) -> Option<&Arc<ServiceEntry>> {
        let namespaces = self.hosts.get(hostname)?;
        let namespace = namespaces.iter().find(|n| *n == prefer).or_else(|| namespaces.first())?;
        self.services.get(&ServiceKey { namespace: namespace.clone(), hostname: hostname.clone() })
    }

    /// The policies that apply to a workload: global, of its namespace, and those it is selected by.
    pub fn policies_of(&self, workload: &Workload) -> Vec<Arc<Authorization>> {
        let namespaced = self.by_namespace.get(&workload.namespace);
        let selected = workload
            .policies
            .iter()
            .filter_map(|key| self.policies.get(key))
            .filter(|policy| policy.scope == Scope::WorkloadSelector);
        self.global.values().chain(namespaced.into_iter().flat_map(OrdMap::values)).chain(selected).cloned().collect()
    }

    /// The policy of this key.
    pub fn authorization(&self, key: &PolicyKey) -> Option<&Arc<Authorization>> {
        self.policies.get(key)
    }

    /// Workloads of this node, in the order of their uids.
    pub fn local(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.local.values()
    }

    /// Every workload, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// Every service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.services.values()
    }

    /// Every policy, in no order.
    pub fn authorizations(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.policies.values()
    }

    /// How many workloads and services there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.workloads.len(), self.services.len())
    }
}
