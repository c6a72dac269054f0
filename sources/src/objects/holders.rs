//! Pure. Which pod or Service owns which address. Nodes take precedence over all others; among several others the one
//! that the kernel shows, then those that the CIDRs of nodes and Services support, then the current owner
//! (`mesh::authority::addresses`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use mesh::authority::addresses::{Claimant, Queue};
use mesh::authority::ranges::{Agreement, Contradiction, Ranges};
use mesh::model::name::{Name, Namespace};

use super::kind::{Item, Node, ObjectKey, Pod, Service, ServiceCidr};

/// What the kernel of this node shows: whether a pod's address is on an interface of the pod's own network namespace.
pub type Evidence = HashMap<(ObjectKey, IpAddr), bool>;

/// A pod or Service that claims an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// A pod.
    Pod(ObjectKey),
    /// A Service that claims it as its cluster IP.
    Service(ObjectKey),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "Pod {key}"),
            Self::Service(key) => write!(f, "Service {key}"),
        }
    }
}

/// An address with more than one claimant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contest {
    queue: Queue<Holder>,
    owner: Option<Holder>,
}

/// Whether a pod or Service owns an address that it claims, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Title {
    /// The claimant owns it.
    Own,
    /// A node owns it.
    Node(Name),
    /// The claim contradicts a range and is void.
    Nothing(Contradiction),
    /// Another claimant owns it.
    Taken(Holder),
    /// Nobody owns it as long as these claimants disagree.
    Disputed(Vec<Holder>),
}

/// The owners of addresses, and everybody who claims them.
#[derive(Debug, Default)]
pub struct Holders {
    /// Which pods claim an address, in the order of the files.
    claims: HashMap<IpAddr, SmallVec<[Item<Pod>; 1]>>,
    /// Which Services claim an address as their cluster IP, the oldest first.
    services: HashMap<IpAddr, SmallVec<[Item<Service>; 1]>>,
    ranges: Ranges,
    /// Which nodes have an address, the first in effect.
    nodes: BTreeMap<IpAddr, SmallVec<[Name; 1]>>,
    /// Addresses that several claim or claimed, or one that has no claim to it.
    contests: BTreeMap<IpAddr, Contest>,
    evidence: Evidence,
}

impl Holders {
    /// Adds the claims of a pod. Pods in the host network use the node's address, and a pod that has ended no longer
    /// uses its own: they claim none.
    pub(crate) fn claim(&mut self, pod: &Item<Pod>) {
        if pod.spec.template.host_network || pod.spec.ended {
            return;
        }
        for &address in &pod.spec.addresses {
            let claims = self.claims.entry(address).or_default();
            let place = claims.partition_point(|other| other.at <= pod.at);
            claims.insert(place, pod.clone());
        }
    }

    /// Removes the claims of a pod.
    pub(crate) fn withdraw(&mut self, pod: &Item<Pod>) {
        for address in &pod.spec.addresses {
            if let Some(claims) = self.claims.get_mut(address) {
                claims.retain(|other| !other.is(pod));
                if claims.is_empty() {
                    self.claims.remove(address);
                }
            }
        }
    }

    /// Adds the cluster IPs of a Service.
    pub(crate) fn claim_service(&mut self, service: &Item<Service>) {
        for &address in service.spec.addresses.iter().filter(|_| !service.spec.external_name) {
            let claims = self.services.entry(address).or_default();
            if claims.iter().any(|other| other.is(service)) {
                continue;
            }
            let place = claims.partition_point(|other| other.age() <= service.age());
            claims.insert(place, service.clone());
        }
    }

    /// Removes the cluster IPs of a Service.
    pub(crate) fn withdraw_service(&mut self, service: &Item<Service>) {
        for address in &service.spec.addresses {
            if let Some(claims) = self.services.get_mut(address) {
                claims.retain(|other| !other.is(service));
                if claims.is_empty() {
                    self.services.remove(address);
                }
            }
        }
    }

    /// Sets the ranges of a ServiceCIDR, or removes them if it is gone.
    pub(crate) fn give_services(&mut self, name: &str, cidr: Option<&Item<ServiceCidr>>) {
        self.ranges.set_services(name, cidr.map_or(&[], |cidr| &cidr.spec.nets));
    }

    /// Adds the addresses of a node.
    pub(crate) fn claim_node(&mut self, node: &Item<Node>) {
        self.ranges.set_node(&node.meta.name, &node.spec.pod_nets);
        for &address in &node.spec.addresses {
            let names = self.nodes.entry(address).or_default();
            if let Err(place) = names.binary_search(&node.meta.name) {
                names.insert(place, node.meta.name.clone());
            }
        }
    }

    /// Removes the addresses of a node.
    pub(crate) fn withdraw_node(&mut self, node: &Item<Node>) {
        self.ranges.set_node(&node.meta.name, &[]);
        for address in &node.spec.addresses {
            if let Some(names) = self.nodes.get_mut(address) {
                names.retain(|name| *name != node.meta.name);
                if names.is_empty() {
                    self.nodes.remove(address);
                }
            }
        }
    }

    /// The node that owns an address.
    pub fn node(&self, address: IpAddr) -> Option<&Name> {
        self.nodes.get(&address)?.first()
    }

    /// Every address of a node.
    pub fn nodes(&self) -> impl Iterator<Item = (IpAddr, &Name)> {
        self.nodes.iter().filter_map(|(address, names)| Some((*address, names.first()?)))
    }

    /// Every pod that claims an address.
    pub fn claimants(&self, address: IpAddr) -> &[Item<Pod>] {
        self.claims.get(&address).map_or(&[], |claims| claims)
    }

    /// The ranges of nodes and ServiceCIDRs.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Every address whose owner may change with the ranges.
    pub(crate) fn ranged(&self, nets: &[IpNet]) -> impl Iterator<Item = IpAddr> {
        let inside = move |address: &&IpAddr| nets.iter().any(|net| net.contains(*address));
        let claimed = self.claims.keys().filter(inside);
        self.contests.keys().chain(claimed).copied()
    }

    /// Whether several claim or claimed an address.
    pub fn is_contested(&self, address: IpAddr) -> bool {
        self.contests.contains_key(&address)
    }

    /// Every address that a pod claims, in no order.
    pub fn claimed(&self) -> impl Iterator<Item = (IpAddr, &Item<Pod>)> {
        self.claims.iter().filter_map(|(address, claims)| Some((*address, claims.first()?)))
    }

    /// The pod that owns an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Item<Pod>> {
        if self.nodes.contains_key(&address) {
            return None;
        }
        let claims = self.claimants(address);
        match self.contests.get(&address) {
            None => claims.first(),
            Some(contest) => {
                let Some(Holder::Pod(owner)) = &contest.owner else { return None };
                claims.iter().find(|pod| pod.meta.namespace == owner.namespace && pod.meta.name == owner.name)
            }
        }
    }

    /// Whether a pod owns an address that it claims.
    pub fn title(&self, pod: &Item<Pod>, address: IpAddr) -> Title {
        let own = |owner: &Holder| matches!(owner, Holder::Pod(key) if (&key.namespace, &key.name) == (&pod.meta.namespace, &pod.meta.name));
        self.title_of(address, self.ranges.pod(&pod.spec.node, address), own)
    }

    /// Whether a Service owns a cluster IP that it claims.
    pub fn title_of_service(&self, key: &ObjectKey, address: IpAddr) -> Title {
        let own = |owner: &Holder| matches!(owner, Holder::Service(owner) if owner == key);
        self.title_of(address, self.ranges.service(address), own)
    }

    fn title_of(&self, address: IpAddr, agreement: Agreement, is_own: impl Fn(&Holder) -> bool) -> Title {
        if let Some(node) = self.node(address) {
            return Title::Node(node.clone());
        }
        if let Agreement::Nothing(why) = agreement {
            return Title::Nothing(why);
        }
        let Some(contest) = self.contests.get(&address) else { return Title::Own };
        match &contest.owner {
            Some(owner) if is_own(owner) => Title::Own,
            Some(owner) => Title::Taken(owner.clone()),
            None => Title::Disputed(self.all(address)),
        }
    }

    /// Every claimant of an address: pods in the order of the files, Services by age.
    fn all(&self, address: IpAddr) -> Vec<Holder> {
        let pods = self.claimants(address).iter().map(|pod| Holder::Pod(pod.meta.key()));
        let services = self.services.get(&address).into_iter().flatten();
        pods.chain(services.map(|service| Holder::Service(service.meta.key()))).collect()
    }

    /// Addresses that nobody owns, with all their claimants.
    pub fn disputed(&self) -> impl Iterator<Item = (IpAddr, Vec<Holder>)> {
        let disputed = self.contests.iter().filter(|(address, contest)| {
            contest.owner.is_none() && !self.nodes.contains_key(address) && self.is_claimed(**address)
        });
        disputed.map(|(address, _)| (*address, self.all(*address)))
    }

    /// Whether an address has a claim that contradicts no range.
    fn is_claimed(&self, address: IpAddr) -> bool {
        let is_any = |agreement: Agreement| !matches!(agreement, Agreement::Nothing(_));
        let mut pods = self.claimants(address).iter();
        pods.any(|pod| is_any(self.ranges.pod(&pod.spec.node, address)))
            || self.services.contains_key(&address) && is_any(self.ranges.service(address))
    }

    /// Whether a Service owns an address.
    pub fn is_of_service(&self, address: IpAddr) -> bool {
        !self.nodes.contains_key(&address)
            && match self.contests.get(&address) {
                Some(contest) => matches!(contest.owner, Some(Holder::Service(_))),
                None => self.services.contains_key(&address),
            }
    }

    /// The owners of these addresses, before a change.
    pub(crate) fn before(&self, addresses: &BTreeSet<IpAddr>) -> HashMap<IpAddr, Holder> {
        let owner = |address: &IpAddr| {
            let holder = match self.contests.get(address) {
                Some(contest) => contest.owner.clone(),
                None => self.all(*address).into_iter().next(),
            };
            holder.filter(|_| !self.nodes.contains_key(address)).map(|holder| (*address, holder))
        };
        addresses.iter().filter_map(owner).collect()
    }

    /// Decides the owners of these addresses after a change; `before` are the owners before it.
    pub(crate) fn settle(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        before: &HashMap<IpAddr, Holder>,
        is_root: impl Fn(&Namespace) -> bool,
    ) {
        for &address in addresses {
            let keys = self.all(address);
            let mut queue = match self.contests.remove(&address) {
                Some(contest) => contest.queue,
                None => Queue::of(before.get(&address).filter(|key| keys.contains(key)).cloned()),
            };
            queue.meet(&keys);
            let claimants = self.claimants_of(address, &is_root);
            let is_sure = claimants.len() == keys.len();
            if keys.is_empty() || keys.len() == 1 && queue.is_plain() && is_sure && !self.nodes.contains_key(&address) {
                continue;
            }
            let owner = match claimants.as_slice() {
                [] => None,
                [one] => Some(one.key.clone()),
                // Of a pod and a Service that came together the pod has it: what goes to a pod's address must not go to
                // whoever makes it a Service's.
                _ => queue.settle(&claimants).or_else(|| {
                    let pods = claimants.iter().filter(|claimant| matches!(claimant.key, Holder::Pod(_)));
                    let pods: Vec<Claimant<Holder>> = pods.cloned().collect();
                    if pods.len() == claimants.len() { None } else { queue.settle(&pods) }
                }),
            };
            self.contests.insert(address, Contest { queue, owner });
        }
    }

    /// The claimants of an address whose claims contradict no range.
    fn claimants_of(&self, address: IpAddr, is_root: impl Fn(&Namespace) -> bool) -> Vec<Claimant<Holder>> {
        let claimant = |key: Holder, namespace: &Namespace, agreement, shown| match agreement {
            Agreement::Nothing(_) => None,
            _ => Some(Claimant {
                key,
                shown,
                yields: agreement == Agreement::Yields,
                namespace: namespace.clone(),
                root: is_root(namespace),
            }),
        };
        let pods = self.claimants(address).iter().filter_map(|pod| {
            let key = pod.meta.key();
            let shown = self.evidence.get(&(key.clone(), address)).copied();
            claimant(Holder::Pod(key), &pod.meta.namespace, self.ranges.pod(&pod.spec.node, address), shown)
        });
        let services = self.services.get(&address).into_iter().flatten();
        let services = services.filter_map(|service| {
            claimant(Holder::Service(service.meta.key()), &service.meta.namespace, self.ranges.service(address), None)
        });
        pods.chain(services).collect()
    }

    /// Every pod that takes part in a contest, with every address that it claims.
    pub fn contestants(&self) -> impl Iterator<Item = &Item<Pod>> {
        self.contests.keys().flat_map(|address| self.claimants(*address))
    }

    /// The addresses for which the kernel's evidence has changed.
    pub(crate) fn differing<'a>(&'a self, evidence: &'a Evidence) -> impl Iterator<Item = IpAddr> + 'a {
        let new = evidence.iter().filter(|(key, shown)| self.evidence.get(*key) != Some(shown));
        let gone = self.evidence.iter().filter(|(key, shown)| evidence.get(*key) != Some(shown));
        new.chain(gone).map(|((_, address), _)| *address)
    }

    /// Replaces the kernel's evidence.
    pub(crate) fn witness(&mut self, evidence: Evidence) {
        self.evidence = evidence;
    }

    /// A copy of the order of claimants, for a world of the same objects (tests).
    #[cfg(test)]
    pub(crate) fn history(&self) -> BTreeMap<IpAddr, Queue<Holder>> {
        self.contests.iter().map(|(address, contest)| (*address, contest.queue.clone())).collect()
    }

    /// Takes over who came first (tests).
    #[cfg(test)]
    pub(crate) fn remember(&mut self, history: BTreeMap<IpAddr, Queue<Holder>>) {
        let contest = |queue| Contest { queue, owner: None };
        self.contests = history.into_iter().map(|(address, queue)| (address, contest(queue))).collect();
    }
}
