//! Pure. Keys of the maps.

use crate::Address;

/// What a listener of the agent in a pod is for.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Connections that leave the workload.
    Outbound = 0,
    /// Plaintext connections to the workload that the agent must judge.
    Plaintext = 1,
    /// Tunnels to the workload.
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
    /// The listener of `pod` for `kind` in one address family.
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

/// Key of `VERDICTS`: a port with another verdict than the pod's default.
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

/// Key of `BINDS`: a port that only the agent may bind in a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindKey {
    /// Id of the pod.
    pub pod: u32,
    /// The port.
    pub port: u32,
}

/// Data of a key of `MESH_NETS`; the kernel wants the length of the prefix, up to 128 bits, in front of it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetKey {
    /// First address of the range.
    pub address: Address,
}

/// Key of `ORIGIN` and `AGENT`: a TCP connection, as the side that accepts it sees it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// Who connects.
    pub remote: Address,
    /// Who accepts.
    pub local: Address,
    /// Port of `remote`.
    pub remote_port: u32,
    /// Port of `local`.
    pub local_port: u32,
}
