//! What the parts of `/config_dump` look like that every program shows. The CLI reads the same types back.
//!
//! Names and nesting are those of ztunnel's dump, so that `istioctl ztunnel-config` and Kiali read ours; fields that
//! only we have are added, never put in place of one of theirs.

mod policy;
mod service;
mod workload;

pub use policy::PolicyView;
pub use service::{EndpointView, LoadBalancerView, ServiceView};
pub use workload::{LocalityView, WaypointView, WorkloadView};
