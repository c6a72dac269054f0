//! One connection of a captured workload, from accept to access log.

pub(crate) mod serve; // the accept loops of one workload
pub(crate) mod outbound; // connections leaving a workload
pub(crate) mod inbound; // connections arriving at a workload
pub(crate) mod carry; // the bytes of one connection
pub(crate) mod record; // the access log and metrics of one connection
pub(crate) mod failure; // why one connection failed
