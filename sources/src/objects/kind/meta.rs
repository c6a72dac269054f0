//! Pure. Metadata of every object: key, labels, age and place in a file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use mesh::authority::addresses::unusable;
use mesh::authority::enforcement::ENFORCEMENT;
use mesh::model::name::{Name, Namespace};
use mesh::model::waypoint::EnforcementMode;

use crate::objects::origin::Origin;
use crate::objects::problem::{Problem, Severity};
use crate::objects::schema::meta::Metadata;

use super::shared::Shared;

/// Labels, or a selector: pairs of key and value, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[(Name, Name)]>);

impl Labels {
    /// The labels of a map.
    pub(super) fn new(map: &BTreeMap<String, String>, shared: &mut Shared) -> Self {
        let pairs = map.iter().map(|(key, value)| (shared.names.intern(key), shared.names.intern(value)));
        let pairs: Vec<(Name, Name)> = pairs.collect();
        Self(shared.labels.intern(pairs))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&Name> {
        self.0.iter().find(|(name, _)| name.as_str() == key).map(|(_, value)| value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every pair.
    pub fn iter(&self) -> impl Iterator<Item = &(Name, Name)> {
        self.0.iter()
    }

    /// Whether an object with these labels is selected: it has every pair of the selector. An empty selector selects
    /// all.
    pub fn are_selected_by(&self, selector: &Self) -> bool {
        selector.0.iter().all(|(key, value)| self.get(key) == Some(value))
    }
}

impl FromIterator<(Name, Name)> for Labels {
    fn from_iter<I: IntoIterator<Item = (Name, Name)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort();
        Self(pairs.into())
    }
}

/// Metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its namespace; empty for kinds that have none.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
    /// `metadata.labels`. Annotation `culvert.dev/waypoint-enforcement` is kept here as if it were the label.
    pub labels: Labels,
    /// `metadata.creationTimestamp`, in seconds since 1970.
    pub created: Option<i64>,
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace; empty for kinds that have none.
    pub namespace: Namespace,
    /// Name.
    pub name: Name,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl Meta {
    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// Reads one object: interns its names and collects its problems.
pub(in crate::objects) struct Reader<'a> {
    pub(in crate::objects) shared: &'a mut Shared,
    pub(in crate::objects) at: Origin,
    /// `Kind namespace/name`.
    pub(in crate::objects) object: String,
    pub(in crate::objects) problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// The interned copy of a text, as any of the name types.
    pub(super) fn name<T: From<Arc<str>>>(&mut self, text: &str) -> T {
        self.shared.names.intern(text)
    }

    /// Adds a problem with one field.
    pub(super) fn note(&mut self, severity: Severity, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::of(&self.at, self.object.clone(), severity, message).field(field));
    }

    /// An address in the one form that it has, IPv4 where it is mapped into IPv6; `None`, and a problem noted, for one
    /// that can be nobody's.
    pub(super) fn address(&mut self, severity: Severity, field: &str, address: IpAddr) -> Option<IpAddr> {
        let address = address.to_canonical();
        let allowed = self.shared.local_addresses.iter().any(|range| range.contains(&address));
        let Some(why) = unusable(address).filter(|_| !allowed) else { return Some(address) };
        self.note(severity, field, format!("{address} is {why} and has no effect: it must be an address of its own"));
        None
    }

    /// The same for several, each once.
    pub(super) fn addresses(
        &mut self,
        severity: Severity,
        field: &str,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for address in addresses {
            let address = self.address(severity, field, address);
            found.extend(address.filter(|address| !found.contains(address)));
        }
        found
    }

    /// The same for ranges, of which those are nobody's that hold nothing else.
    pub(super) fn nets(&mut self, field: &str, nets: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
        let mut found = Vec::new();
        for net in nets {
            let net = canonical(net);
            let (first, last) = (net.network(), net.broadcast());
            let single = net.prefix_len() == net.max_prefix_len();
            match unusable(first).filter(|_| single || unusable(last).is_some() && !net.addr().is_unspecified()) {
                Some(why) => {
                    let message = format!("{net} is {why} and has no effect");
                    self.note(Severity::Warning, field, message);
                }
                None => found.push(net),
            }
        }
        found
    }

    /// The metadata of an object of a namespaced kind; without a namespace it is in `default`.
    pub(super) fn meta(&mut self, metadata: &Metadata, namespaced: bool) -> Meta {
        let namespace = match &metadata.namespace {
            _ if !namespaced => "",
            Some(namespace) if !namespace.is_empty() => namespace,
            _ => "default",
        };
        Meta {
            namespace: self.shared.names.intern(namespace),
            name: self.shared.names.intern(&metadata.name),
            labels: match enforcement(metadata) {
                None => Labels::new(&metadata.labels, self.shared),
                Some(mode) => {
                    let mut labels = metadata.labels.clone();
                    labels.insert(ENFORCEMENT.to_owned(), mode.as_str().to_owned());
                    Labels::new(&labels, self.shared)
                }
            },
            created: metadata.creation_timestamp.map(|time| time.0),
        }
    }

    /// Reports values for waypoint enforcement that are not valid.
    pub(super) fn check_enforcement(&mut self, metadata: &Metadata) {
        for (place, map) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
            let wrong = map.get(ENFORCEMENT).and_then(|text| text.parse::<EnforcementMode>().err());
            if let Some(wrong) = wrong {
                let message = format!("{wrong}; strict is assumed, so that nothing goes past a waypoint");
                self.note(Severity::Warning, format!("metadata.{place}[{ENFORCEMENT}]"), message);
            }
        }
    }
}

/// The waypoint enforcement that an object sets by label or annotation; the stricter one if it has both.
fn enforcement(metadata: &Metadata) -> Option<EnforcementMode> {
    let said = [metadata.labels.get(ENFORCEMENT), metadata.annotations.get(ENFORCEMENT)];
    said.into_iter().flatten().map(|text| text.parse().unwrap_or(EnforcementMode::Strict)).max()
}

/// A range of IPv4 addresses that are mapped into IPv6 is a range of IPv4 addresses.
fn canonical(net: IpNet) -> IpNet {
    match (net, net.addr().to_canonical()) {
        (IpNet::V6(v6), IpAddr::V4(v4)) if v6.prefix_len() >= 96 => {
            IpNet::new(v4.into(), v6.prefix_len() - 96).unwrap_or(net).trunc()
        }
        _ => net,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn a_selector_selects_what_has_all_its_pairs() {
        let pod = labels(&[("app", "shop"), ("version", "v1")]);
        for (selector, selected) in [
            (&[][..], true),
            (&[("app", "shop")], true),
            (&[("app", "shop"), ("version", "v1")], true),
            (&[("app", "cart")], false),
            (&[("tier", "web")], false),
            (&[("app", "shop"), ("tier", "web")], false),
        ] {
            assert_eq!(pod.are_selected_by(&labels(selector)), selected, "{selector:?}");
        }
    }
}
