//! Pure. Names, addresses and paths of the cluster.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The one directory that a cluster has on the machine.
pub(crate) const STATE: &str = "/var/lib/culvert-cluster";
/// The name of the cluster's cgroup in every hierarchy.
pub(crate) const CGROUP: &str = "culvert-cluster";
/// The machine's own link to the nodes' network.
pub(crate) const LINK: &str = "culvert0";
/// The bridge between the nodes; it lies in the control plane's network namespace.
pub(crate) const BRIDGE: &str = "nodes";
/// Where a machine finds the programs and images.
pub(crate) const PROGRAMS: &str = "/cluster";
/// Where a machine finds its keys and configuration files.
pub(crate) const ETC: &str = "/etc/cluster";
/// The control plane's address.
pub(crate) const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 147, 0, 1);
/// This machine's address in the nodes' network.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 147, 0, 254);
/// All pods of all nodes.
pub(crate) const PODS: &str = "10.148.0.0/16";
/// The addresses of Services.
pub(crate) const SERVICES: &str = "10.149.0.0/16";
/// The address of the Service `kubernetes`.
pub(crate) const API: Ipv4Addr = Ipv4Addr::new(10, 149, 0, 1);
/// The address of the cluster's DNS.
pub(crate) const DNS: Ipv4Addr = Ipv4Addr::new(10, 149, 0, 10);
/// The port of the API server.
pub(crate) const API_PORT: u16 = 6443;

/// One machine of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// etcd, API server, controller manager, scheduler, and the bridge between all machines.
    Control,
    /// A node, counted from 1.
    Node(u8),
}

impl Machine {
    /// The machine with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name.strip_prefix("node") {
            Some(number) => number.parse().ok().filter(|number| (1..=MOST_NODES).contains(number)).map(Self::Node),
            None => (name == "control").then_some(Self::Control),
        }
    }

    /// Its host name, which is a node's name in the cluster too.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Control => "control".to_owned(),
            Self::Node(number) => format!("node{number}"),
        }
    }

    /// Its address.
    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            Self::Control => CONTROL,
            Self::Node(number) => Ipv4Addr::new(10, 147, 0, 100 + number),
        }
    }

    /// The addresses of its pods.
    pub(crate) fn pods(self) -> Option<String> {
        match self {
            Self::Control => None,
            Self::Node(number) => Some(format!("10.148.{number}.0/24")),
        }
    }

    /// Its directory on the machine.
    pub(crate) fn directory(self) -> PathBuf {
        Path::new(STATE).join(self.name())
    }
}

/// How many nodes there can be: as many as addresses are set aside for, not as many as a machine can bear.
pub(crate) const MOST_NODES: u8 = 99;

/// The control plane and so many nodes.
pub(crate) fn machines(nodes: u8) -> Vec<Machine> {
    std::iter::once(Machine::Control).chain((1..=nodes).map(Machine::Node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_found_by_its_name() {
        for machine in machines(MOST_NODES) {
            assert_eq!(Machine::named(&machine.name()), Some(machine));
        }
        for name in ["", "node", "node0", "node100", "node300", "node-1", "controls"] {
            assert_eq!(Machine::named(name), None, "{name}");
        }
    }

    #[test]
    fn every_machine_has_an_address_of_its_own() {
        let mut addresses: Vec<Ipv4Addr> = machines(MOST_NODES).into_iter().map(Machine::address).collect();
        addresses.push(HOST);
        let count = addresses.len();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), count);
    }
}
