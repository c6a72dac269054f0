//! Pure. An address that is known to the mesh and leads to no workload and no service.

use std::net::IpAddr;

use super::name::NodeName;

/// An address that nobody may claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub by: Holder,
}

/// Whose a reserved address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A node's (`status.addresses`): outside of the mesh, whatever others claim.
    Node(NodeName),
    /// Nobody's, until what claims it agrees: connections to it are refused. Names the claimants.
    Disputed(Box<str>),
}
