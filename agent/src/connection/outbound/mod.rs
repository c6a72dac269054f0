//! Connections leaving a workload.

pub(crate) mod connection; // one connection, from accept to access log
pub(crate) mod dial; // dials a destination, trying endpoints until one answers
pub(crate) mod next_hop; // the next hop of a connection
