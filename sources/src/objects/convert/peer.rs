//! Pure. PeerAuthentication -> Authorization: STRICT becomes a DENY of peers that prove no identity.
//!
//! For a workload the oldest object that selects it counts, else the oldest of its namespace, else the oldest of the
//! root namespaces. What an object leaves UNSET comes from the level above. The conversion is Istio's
//! (`pilot/pkg/serviceregistry/ambient/authorization.go`): attached by name like any policy with a selector, so that
//! judging needs no special case.

use std::collections::{BTreeMap, HashMap};

use crate::objects::inventory::Inventory;
use crate::objects::kind::{Item, Labels, PeerAuthentication, PeerMode};
use mesh::model::name::{Name, Namespace};
use mesh::model::policy::{Action, Authorization, PolicyKey, Scope};
use mesh::model::rule::{Attribute, Rule, StringMatch, Test};

use super::options::Options;
use super::selection::Selection;

/// Name of the policy for STRICT without exceptions.
const STATIC_STRICT: &str = "istio_converted_static_strict";
/// Prefix of the names of all other converted policies.
const CONVERTED: &str = "converted_peer_authentication_";

/// The mTLS requirements of some workloads.
#[derive(Clone, Debug)]
struct Level {
    mode: PeerMode,
    /// The policy that enforces them; `None` if there are none.
    policy: Option<PolicyKey>,
}

/// The mTLS requirements of all workloads.
#[derive(Debug)]
pub(super) struct Peers {
    root: Level,
    namespaces: HashMap<Namespace, Level>,
    selected: HashMap<Namespace, Selection<Level>>,
}

impl Peers {
    /// Works out every level, and adds the policies that are needed.
    pub(super) fn new(
        inventory: &Inventory,
        options: &Options,
        policies: &mut BTreeMap<PolicyKey, Authorization>,
    ) -> Self {
        let mut items: Vec<&Item<PeerAuthentication>> = inventory.peers.iter().collect();
        items.sort_by(|a, b| a.age().cmp(&b.age()));
        let permissive = Level { mode: PeerMode::Permissive, policy: None };
        let whole = |item: &&&Item<PeerAuthentication>| item.spec.selector.is_empty();
        let root = items.iter().filter(whole).find(|item| options.is_root(&item.meta.namespace));
        let root = root.map_or(permissive.clone(), |item| level(item, &permissive, options, policies));
        let mut namespaces: HashMap<Namespace, Level> = HashMap::new();
        for item in items.iter().filter(whole) {
            let namespace = &item.meta.namespace;
            if !namespaces.contains_key(namespace) {
                namespaces.insert(namespace.clone(), level(item, &root, options, policies));
            }
        }
        let mut selected: HashMap<Namespace, Selection<Level>> = HashMap::new();
        for item in items.iter().filter(|item| !item.spec.selector.is_empty()) {
            let namespace = &item.meta.namespace;
            let above = namespaces.get(namespace).unwrap_or(&root);
            let level = level(item, above, options, policies);
            selected.entry(namespace.clone()).or_default().add(item.spec.selector.clone(), level);
        }
        Self { root, namespaces, selected }
    }

    /// The policy that enforces the mTLS requirements of a workload.
    pub(super) fn of<'a>(&'a self, namespace: &Namespace, labels: &'a Labels) -> Option<&'a PolicyKey> {
        let selected = self.selected.get(namespace).and_then(|selection| selection.select(labels).next());
        let level = selected.or_else(|| self.namespaces.get(namespace)).unwrap_or(&self.root);
        level.policy.as_ref()
    }
}

fn level(
    item: &Item<PeerAuthentication>,
    above: &Level,
    options: &Options,
    policies: &mut BTreeMap<PolicyKey, Authorization>,
) -> Level {
    let spec = &item.spec;
    if spec.mode.is_none() && spec.ports.is_empty() {
        return above.clone();
    }
    let mode = spec.mode.unwrap_or(above.mode);
    let others: Box<[u16]> = spec.ports.iter().filter(|&&(_, other)| other != mode).map(|&(port, _)| port).collect();
    let stranger = Test::is_not(Attribute::Principal([StringMatch::Presence].into()));
    let (key, tests) = match (mode, others.is_empty()) {
        (PeerMode::Permissive, true) => return Level { mode, policy: None },
        (PeerMode::Strict, true) => {
            let namespace = options.root_namespaces.first().cloned().unwrap_or_default();
            (PolicyKey { namespace, name: Name::from(STATIC_STRICT) }, vec![stranger])
        }
        (PeerMode::Strict, false) => {
            (converted(item), vec![stranger, Test::is_not(Attribute::DestinationPort(others))])
        }
        (PeerMode::Permissive, false) => {
            (converted(item), vec![stranger, Test::is(Attribute::DestinationPort(others))])
        }
    };
    policies.entry(key.clone()).or_insert_with(|| Authorization {
        key: key.clone(),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: [Rule::of_source(tests)].into(),
        dry_run: false,
    });
    Level { mode, policy: Some(key) }
}

fn converted(item: &Item<PeerAuthentication>) -> PolicyKey {
    let name = Name::from(format!("{CONVERTED}{}", item.meta.name));
    PolicyKey { namespace: item.meta.namespace.clone(), name }
}
