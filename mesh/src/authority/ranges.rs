//! Pure. Whether the CIDRs that the infrastructure allocates support a claim to an address: `spec.podCIDRs` of Nodes
//! and `spec.cidrs` of ServiceCIDRs, which no tenant writes.
//!
//! Cluster IPs come from the ServiceCIDRs only, so a claim that contradicts them is void. A node's own range is weaker
//! evidence: some CNI plugins give pods addresses from other ranges. The claim of a pod outside of its node's range, or
//! of a Service inside of one, holds as long as nobody else claims the address.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Whether the ranges support a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// They support it, or there are none.
    Agrees,
    /// The claim gives way to every claim that they support.
    Yields,
    /// The claim is void.
    Nothing(Contradiction),
}

/// Why a claim is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// The address is in this range of a ServiceCIDR, so only a Service can have it.
    ForServices(IpNet),
    /// The address is in no ServiceCIDR, so no Service can have it.
    NotForServices,
}

/// The ranges that the infrastructure allocates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    pods: BTreeMap<Box<str>, Box<[IpNet]>>,
    services: BTreeMap<Box<str>, Box<[IpNet]>>,
}

impl Ranges {
    /// Sets the ranges that a node gives to its pods; an empty list removes them.
    pub fn set_node(&mut self, node: &str, nets: &[IpNet]) {
        set(&mut self.pods, node, nets);
    }

    /// Sets the ranges that a ServiceCIDR gives to Services; an empty list removes them.
    pub fn set_services(&mut self, name: &str, nets: &[IpNet]) {
        set(&mut self.services, name, nets);
    }

    /// Judges the claim of a pod on `node`.
    pub fn pod(&self, node: &str, address: IpAddr) -> Agreement {
        if let Some(net) = holding(&self.services, address) {
            return Agreement::Nothing(Contradiction::ForServices(net));
        }
        let own = self.pods.get(node).is_some_and(|nets| nets.iter().any(|net| net.contains(&address)));
        // Where nodes have ranges, a pod cannot evade them by naming a node that has none.
        if own || !has_family(&self.pods, address) { Agreement::Agrees } else { Agreement::Yields }
    }

    /// Judges the claim of a Service to a cluster IP.
    pub fn service(&self, address: IpAddr) -> Agreement {
        if has_family(&self.services, address) && holding(&self.services, address).is_none() {
            return Agreement::Nothing(Contradiction::NotForServices);
        }
        if holding(&self.pods, address).is_some() { Agreement::Yields } else { Agreement::Agrees }
    }

    /// The range of pods or Services that contains an address, which then cannot be external.
    pub fn inside(&self, address: IpAddr) -> Option<IpNet> {
        holding(&self.services, address).or_else(|| holding(&self.pods, address))
    }
}

fn set(all: &mut BTreeMap<Box<str>, Box<[IpNet]>>, name: &str, nets: &[IpNet]) {
    if nets.is_empty() {
        all.remove(name);
    } else {
        all.insert(name.into(), nets.into());
    }
}

fn holding(all: &BTreeMap<Box<str>, Box<[IpNet]>>, address: IpAddr) -> Option<IpNet> {
    all.values().flatten().find(|net| net.contains(&address)).copied()
}

fn has_family(all: &BTreeMap<Box<str>, Box<[IpNet]>>, address: IpAddr) -> bool {
    all.values().flatten().any(|net| net.addr().is_ipv4() == address.is_ipv4())
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForServices(net) => write!(f, "is in {net}, which a ServiceCIDR gives to Services: no Pod has it"),
            Self::NotForServices => f.write_str("is in no ServiceCIDR: no Service has it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_say_nothing_where_there_are_none() {
        let none = Ranges::default();
        assert_eq!(
            (none.pod("n", ip("10.0.0.1")), none.service(ip("10.0.0.1"))),
            (Agreement::Agrees, Agreement::Agrees)
        );
        assert_eq!(none.inside(ip("10.0.0.1")), None);
        // Of the other family neither.
        let mut ranges = Ranges::default();
        ranges.set_node("n", &nets(&["fd00::/64"]));
        ranges.set_services("k", &nets(&["fd96::/112"]));
        assert_eq!(
            (ranges.pod("m", ip("10.0.0.1")), ranges.service(ip("10.0.0.1"))),
            (Agreement::Agrees, Agreement::Agrees)
        );
    }

    #[test]
    fn a_claim_is_as_good_as_its_range() {
        let mut ranges = Ranges::default();
        ranges.set_node("n1", &nets(&["10.244.1.0/24", "fd00:1::/64"]));
        ranges.set_node("n2", &nets(&["10.244.2.0/24"]));
        ranges.set_services("kubernetes", &nets(&["10.96.0.0/16"]));
        let services = Agreement::Nothing(Contradiction::ForServices("10.96.0.0/16".parse().unwrap()));
        for (node, address, says) in [
            ("n1", "10.244.1.7", Agreement::Agrees),
            ("n1", "fd00:1::7", Agreement::Agrees),
            ("n1", "10.244.2.7", Agreement::Yields),
            ("n1", "192.0.2.1", Agreement::Yields),
            ("ghost", "10.244.1.7", Agreement::Yields),
            ("n2", "fd00:1::7", Agreement::Yields),
            ("n1", "10.96.0.1", services),
            ("ghost", "10.96.0.1", services),
        ] {
            assert_eq!(ranges.pod(node, ip(address)), says, "{node} {address}");
        }
        for (address, says) in [
            ("10.96.0.1", Agreement::Agrees),
            ("10.97.0.1", Agreement::Nothing(Contradiction::NotForServices)),
            ("10.244.1.7", Agreement::Nothing(Contradiction::NotForServices)),
            ("fd00:1::7", Agreement::Yields),
            ("fd96::1", Agreement::Agrees),
        ] {
            assert_eq!(ranges.service(ip(address)), says, "{address}");
        }
        assert!(ranges.inside(ip("10.244.2.1")).is_some() && ranges.inside(ip("192.0.2.1")).is_none());
        ranges.set_services("kubernetes", &[]);
        ranges.set_node("n1", &[]);
        ranges.set_node("n2", &[]);
        assert_eq!(ranges, Ranges::default());
    }
}
