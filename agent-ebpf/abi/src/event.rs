//! Pure. What the kernel half reports through the ring buffer `EVENTS`.

use crate::Address;

/// What an [`Event`] is about.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// Plaintext to a pod was refused.
    Refused = 1,
    /// A connection that the agent does not carry was opened.
    Opened = 2,
    /// Such a connection has ended.
    Closed = 3,
    /// Such a connection could not be opened.
    Failed = 4,
}

/// One report.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// [`EventKind`].
    pub kind: u32,
    /// Id of the pod.
    pub pod: u32,
    /// Flags of [`Account`](crate::Account).
    pub flags: u32,
    /// Port of `source`.
    pub source_port: u16,
    /// Port of `destination`.
    pub destination_port: u16,
    /// Who connected.
    pub source: Address,
    /// Whom it connected to.
    pub destination: Address,
    /// Payload that the pod sent and the peer acknowledged, in bytes.
    pub sent: u64,
    /// Payload that the pod received, in bytes.
    pub received: u64,
    /// How long the connection was open, in nanoseconds.
    pub duration: u64,
}

/// Index into `COUNTERS`, which counts per CPU.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    /// Events that found the ring buffer full.
    EventsLost = 0,
    /// New connections that found no agent: refused when failing closed, else left alone.
    NoAgent = 1,
    /// Connections of a pod that could not be turned to `lo`.
    NotTurned = 2,
    /// Attempts to bind a port of the agent's.
    BindRefused = 3,
    /// New connections into or out of pods that ought to be captured and cannot be.
    Closed = 4,
}
