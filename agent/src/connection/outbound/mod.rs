//! Connections leaving a workload.

pub(crate) mod connection; // one connection, from accept to access log
pub(crate) mod dial; // a destination becomes a byte stream, trying endpoints until one answers
pub(crate) mod next_hop; // where a connection goes next
