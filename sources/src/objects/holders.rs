//! Pure. Which pod has which address: nodes come before pods, and of several pods the one that the kernel shows, else the
//! one that has it already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use mesh::authority::addresses::{Claimant, Queue};
use mesh::model::name::{Name, Namespace};

use super::kind::{Item, Node, ObjectKey, Pod};

/// What the kernel of this node shows: whether a pod's address is on an interface of the pod's own network namespace.
pub type Evidence = HashMap<(ObjectKey, IpAddr), bool>;

/// An address that more than one claims.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contest {
    queue: Queue<ObjectKey>,
    owner: Option<ObjectKey>,
}

/// Why a pod has an address, or has it not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Title {
    /// It is the pod's.
    Own,
    /// It is a node's.
    Node(Name),
    /// It is another pod's.
    Taken(ObjectKey),
    /// It is nobody's until these agree.
    Disputed(Vec<ObjectKey>),
}

/// Who has which address.
#[derive(Debug, Default)]
pub struct Holders {
    /// Which pods claim an address, in the order of the files.
    claims: HashMap<IpAddr, SmallVec<[Arc<Item<Pod>>; 1]>>,
    /// Which nodes have an address, the first in effect.
    nodes: BTreeMap<IpAddr, SmallVec<[Name; 1]>>,
    /// Addresses that several claim or claimed, pods among themselves or with a node.
    contests: BTreeMap<IpAddr, Contest>,
    evidence: Evidence,
}

impl Holders {
    /// Takes the claims of a pod in. Pods in the host's network share the node's address; a pod that has ended has given its
    /// address back.
    pub(crate) fn claim(&mut self, pod: &Arc<Item<Pod>>) {
        if pod.spec.template.host_network || pod.spec.ended {
            return;
        }
        for &address in &pod.spec.addresses {
            let claims = self.claims.entry(address).or_default();
            let place = claims.partition_point(|other| other.at <= pod.at);
            claims.insert(place, Arc::clone(pod));
        }
    }

    /// Takes the claims of a pod back.
    pub(crate) fn withdraw(&mut self, pod: &Arc<Item<Pod>>) {
        for address in &pod.spec.addresses {
            if let Some(claims) = self.claims.get_mut(address) {
                claims.retain(|other| !Arc::ptr_eq(other, pod));
                if claims.is_empty() {
                    self.claims.remove(address);
                }
            }
        }
    }

    /// Takes the addresses of a node in.
    pub(crate) fn claim_node(&mut self, node: &Item<Node>) {
        for &address in &node.spec.addresses {
            let names = self.nodes.entry(address).or_default();
            if let Err(place) = names.binary_search(&node.meta.name) {
                names.insert(place, node.meta.name.clone());
            }
        }
    }

    /// Takes the addresses of a node back.
    pub(crate) fn withdraw_node(&mut self, node: &Item<Node>) {
        for address in &node.spec.addresses {
            if let Some(names) = self.nodes.get_mut(address) {
                names.retain(|name| *name != node.meta.name);
                if names.is_empty() {
                    self.nodes.remove(address);
                }
            }
        }
    }

    /// The node that has an address.
    pub fn node(&self, address: IpAddr) -> Option<&Name> {
        self.nodes.get(&address)?.first()
    }

    /// Every address of a node.
    pub fn nodes(&self) -> impl Iterator<Item = (IpAddr, &Name)> {
        self.nodes.iter().filter_map(|(address, names)| Some((*address, names.first()?)))
    }

    /// Every pod that claims an address.
    pub fn claimants(&self, address: IpAddr) -> &[Arc<Item<Pod>>] {
        self.claims.get(&address).map_or(&[], |claims| claims)
    }

    /// Every address that a pod claims, in no order.
    pub fn claimed(&self) -> impl Iterator<Item = (IpAddr, &Arc<Item<Pod>>)> {
        self.claims.iter().filter_map(|(address, claims)| Some((*address, claims.first()?)))
    }

    /// The pod that has an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<Item<Pod>>> {
        if self.nodes.contains_key(&address) {
            return None;
        }
        let claims = self.claimants(address);
        match self.contests.get(&address) {
            None => claims.first(),
            Some(contest) => {
                let owner = contest.owner.as_ref()?;
                claims.iter().find(|pod| pod.meta.namespace == owner.namespace && pod.meta.name == owner.name)
            }
        }
    }

    /// Whether a pod has an address that it claims.
    pub fn title(&self, key: (&Namespace, &Name), address: IpAddr) -> Title {
        if let Some(node) = self.node(address) {
            return Title::Node(node.clone());
        }
        let Some(contest) = self.contests.get(&address) else { return Title::Own };
        match &contest.owner {
            Some(owner) if (&owner.namespace, &owner.name) == key => Title::Own,
            Some(owner) => Title::Taken(owner.clone()),
            None => Title::Disputed(self.claimants(address).iter().map(|pod| pod.meta.key()).collect()),
        }
    }

    /// Who has these addresses, before a change.
    pub(crate) fn before(&self, addresses: &BTreeSet<IpAddr>) -> HashMap<IpAddr, ObjectKey> {
        let owner = |address: &IpAddr| Some((*address, self.owner(*address)?.meta.key()));
        addresses.iter().filter_map(owner).collect()
    }

    /// Settles who has these addresses, after a change; `before` is who had them.
    pub(crate) fn settle(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        before: &HashMap<IpAddr, ObjectKey>,
        is_root: impl Fn(&Namespace) -> bool,
    ) {
        for &address in addresses {
            let claims = self.claims.get(&address).map_or(&[][..], |claims| claims);
            let keys: Vec<ObjectKey> = claims.iter().map(|pod| pod.meta.key()).collect();
            let mut queue = match self.contests.remove(&address) {
                Some(contest) => contest.queue,
                None => Queue::of(before.get(&address).filter(|key| keys.contains(key)).cloned()),
            };
            queue.meet(&keys);
            if keys.len() <= 1 && queue.is_plain() && !self.nodes.contains_key(&address) {
                continue;
            }
            let claimants: Vec<Claimant<ObjectKey>> = keys
                .into_iter()
                .map(|key| Claimant {
                    shown: self.evidence.get(&(key.clone(), address)).copied(),
                    namespace: key.namespace.clone(),
                    root: is_root(&key.namespace),
                    key,
                })
                .collect();
            if claimants.is_empty() {
                continue;
            }
            let owner = match claimants.as_slice() {
                [one] => Some(one.key.clone()),
                _ => queue.settle(&claimants),
            };
            self.contests.insert(address, Contest { queue, owner });
        }
    }

    /// Every pod that takes part in a contest, with every address that it claims.
    pub fn contestants(&self) -> impl Iterator<Item = &Arc<Item<Pod>>> {
        self.contests.keys().flat_map(|address| self.claimants(*address))
    }

    /// At which addresses the kernel shows something else than before.
    pub(crate) fn differing<'a>(&'a self, evidence: &'a Evidence) -> impl Iterator<Item = IpAddr> + 'a {
        let new = evidence.iter().filter(|(key, shown)| self.evidence.get(*key) != Some(shown));
        let gone = self.evidence.iter().filter(|(key, shown)| evidence.get(*key) != Some(shown));
        new.chain(gone).map(|((_, address), _)| *address)
    }

    /// Takes in what the kernel shows, instead of what it showed before.
    pub(crate) fn witness(&mut self, evidence: Evidence) {
        self.evidence = evidence;
    }

    /// A copy of who came first, for a world of the same objects (tests).
    #[cfg(test)]
    pub(crate) fn history(&self) -> BTreeMap<IpAddr, Queue<ObjectKey>> {
        self.contests.iter().map(|(address, contest)| (*address, contest.queue.clone())).collect()
    }

    /// Takes over who came first (tests).
    #[cfg(test)]
    pub(crate) fn remember(&mut self, history: BTreeMap<IpAddr, Queue<ObjectKey>>) {
        let contest = |queue| Contest { queue, owner: None };
        self.contests = history.into_iter().map(|(address, queue)| (address, contest(queue))).collect();
    }
}
