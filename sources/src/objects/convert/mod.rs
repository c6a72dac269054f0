//! Kubernetes objects -> model. Pure: everything here is a function of the objects and the options.
//!
//! [`Context`] is the state that is derived from all objects except pods; [`Context::workload`] converts one pod within
//! it. So a change of one pod costs the conversion of one pod.

mod workload; // Pod -> Workload
mod exchange; // some services become others, and nothing else is looked at
mod trespass; // objects that say more about another namespace's pod than they may
mod context; // what all objects but pods add up to
mod foreign; // endpoints without a pod -> Workload
mod service; // Service, ServiceEntry -> Service, and whose endpoints are whose
mod peer; // PeerAuthentication -> Authorization
mod authorization; // AuthorizationPolicy -> Authorization
mod waypoint; // labels and Gateways -> Waypoint
mod guards; // what guards the ports behind waypoints
mod selection; // which of many selectors select these labels
mod options; // what the converter is told

pub use context::Context;
pub use exchange::{Exchange, Exchanged};
pub use options::Options;
pub use workload::{Enrollment, Left};
