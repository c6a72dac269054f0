//! Pure. An address that belongs to no workload or service, and that no service may claim.

use std::net::IpAddr;

use super::name::NodeName;

/// A reserved address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The address.
    pub address: IpAddr,
    /// Why it is reserved.
    pub by: Holder,
}

/// The holder of a reserved address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An address of a node (`status.addresses`): outside the mesh, whatever others claim.
    Node(NodeName),
    /// Claimed by several objects, which this names: connections to it are refused.
    Disputed(Box<str>),
}
