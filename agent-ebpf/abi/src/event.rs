//! Pure. Events in the ring buffer `EVENTS`, and the counters.

use crate::Address;

/// The kind of an [`Event`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A plaintext connection to a pod was refused.
    Refused = 1,
    /// A passthrough connection was established.
    Opened = 2,
    /// A passthrough connection ended.
    Closed = 3,
    /// A passthrough connection could not be established.
    Failed = 4,
}

/// One event.
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
    /// The client's address.
    pub source: Address,
    /// The server's address.
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
    /// Events lost because the ring buffer was full.
    EventsLost = 0,
    /// New connections without an agent: refused when failing closed, else passed through.
    NoAgent = 1,
    /// Connections of a pod that could not be redirected to `lo`.
    NotTurned = 2,
    /// Attempts to bind a port of the agent.
    BindRefused = 3,
    /// Refused connections of pods that should be captured and cannot be.
    Closed = 4,
}
