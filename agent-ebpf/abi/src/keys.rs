//! Pure. Keys of the maps.

use crate::Address;

/// The purpose of a listener of the agent in a pod.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Connections that leave the workload.
    Outbound = 0,
    /// Plaintext connections to the workload that the agent must authorize.
    Plaintext = 1,
    /// HBONE connections to the workload.
    Hbone = 2,
}

/// Key of `LISTEN`: a listener of the agent in a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenKey {
    /// Id of the pod.
    pub pod: u32,
    /// [`Kind`], plus 16 for IPv6.
    pub kind: u32,
}

impl ListenKey {
    /// The key of the listener of `pod` for `kind` in one address family.
    #[inline(always)]
    pub const fn new(pod: u32, kind: Kind, v6: bool) -> Self {
        Self { pod, kind: kind as u32 + if v6 { 16 } else { 0 } }
    }
}

/// Key of `OWN`: an address of the pod itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressKey {
    /// Id of the pod.
    pub pod: u32,
    /// One of its addresses.
    pub address: Address,
}

/// Key of `VERDICTS`: a port whose verdict differs from the pod's default.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerdictKey {
    /// Id of the pod.
    pub pod: u32,
    /// [`Pod::generation`](crate::Pod::generation) that the entry belongs to.
    pub generation: u32,
    /// The port.
    pub port: u32,
}

/// Key of `BINDS`: a port in a pod that is reserved for the agent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindKey {
    /// Id of the pod.
    pub pod: u32,
    /// The port.
    pub port: u32,
}

/// Data of a key of `MESH_NETS`; in front of it the kernel expects the prefix length, up to 128 bits.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetKey {
    /// First address of the range.
    pub address: Address,
}

/// Key of `ORIGIN` and `AGENT`: a TCP connection from the accepting side's point of view.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// Address of the connecting side.
    pub remote: Address,
    /// Address of the accepting side.
    pub local: Address,
    /// Port of `remote`.
    pub remote_port: u32,
    /// Port of `local`.
    pub local_port: u32,
}
