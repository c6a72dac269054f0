//! Trace context: propagated in the format in which it was received, created where there is none.

pub mod propagate; // what a request carries on to the next hop
pub mod w3c; // traceparent
pub mod b3; // b3 and x-b3-*
pub mod binary; // grpc-trace-bin
pub mod context; // ids and the sampling decision

pub use context::{Context, SpanId, TraceId};
pub use propagate::{Incoming, forward};
