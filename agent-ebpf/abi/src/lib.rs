//! Map keys, values and constants shared by the two halves of capture: `agent-ebpf` in the kernel and `agent::capture`
//! in user space.
//!
//! Everything here is `repr(C)` without padding. Addresses are in network byte order, IPv4 as `::ffff:a.b.c.d`; ports
//! and all other numbers are in host byte order. Change [`VERSION`] with any change of a map's key, value, type or
//! size: state of another version is never adopted, because it is pinned in another directory.
#![no_std]

mod account; // payload bytes from TCP's counters
mod address; // addresses in the form of the maps
mod event; // events and counters
mod keys; // keys of the maps
#[cfg(feature = "user")]
mod user; // `aya::Pod` for all types
mod values; // values of the maps

pub use account::{Account, State};
pub use address::Address;
pub use event::{Counter, Event, EventKind};
pub use keys::{AddressKey, BindKey, Kind, ListenKey, NetKey, Tuple, VerdictKey};
pub use values::{Config, Origin, Place, Pod, Verdict};

/// Version of everything in this crate; part of the pin directory's name.
pub const VERSION: u32 = 1;
/// Firewall mark of packets and sockets that are routed to `lo` although their destination is elsewhere.
pub const MARK: u32 = 0x111;
/// The bits of [`MARK`] that the routing rule compares.
pub const MARK_MASK: u32 = 0xfff;
/// The port of HBONE.
pub const HBONE_PORT: u16 = 15008;
/// The interface index of `lo` in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;
/// Bit that turns a pod id into a second key of the map `PODS`: `sk_lookup` programs cannot ask for the netns cookie.
pub const BY_ID: u64 = 1 << 63;
/// Constant in the `sk_lookup` programs which the loader replaces with the pod's id.
pub const POD_ID_PLACEHOLDER: u64 = 0x6375_6c76_6572_7421;
/// The most pods that one node can capture.
pub const MAX_PODS: usize = 1024;
/// How long an announced connection attempt of the kubelet is valid, in nanoseconds: longer than the SYN
/// retransmissions of a probe with the usual timeouts.
pub const ORIGIN_LIFETIME: u64 = 10_000_000_000;

/// Flags in [`Pod::flags`].
pub mod pod_flag {
    /// New connections are refused while no agent runs.
    pub const FAIL_CLOSED: u32 = 1;
    /// Connections to every destination are captured, not only to mesh addresses.
    pub const PROXY_ALL: u32 = 2;
    /// New connections are not captured; those in the handshake still reach their listener.
    pub const RELEASED: u32 = 4;
    /// The pod is captured and cannot be served: it neither accepts nor opens new connections.
    pub const CLOSED: u32 = 8;
}

/// Flags in [`Config::flags`].
pub mod config_flag {
    /// The mesh has more addresses than the map holds: connections to every destination are captured.
    pub const MESH_OVERFLOW: u32 = 1;
    /// `CLOSED` is not empty; only then is it read.
    pub const SOME_CLOSED: u32 = 2;
}
