//! What the parts of `/config_dump` look like. The CLI reads the same types back.
//!
//! Names and nesting are those of ztunnel's dump, so that `istioctl ztunnel-config` and Kiali read ours; fields that
//! only we have are added, never put in place of one of theirs.

mod explanation;
mod connection;
mod certificate;
mod problem;
mod policy;
mod service;
mod workload;

pub use certificate::{CertificateInfo, CertificateView};
pub use connection::{CaptureState, CaptureView, ConnectionView, WorkloadState, workload_states};
pub use explanation::{Explanation, Judged, Verdict};
pub use policy::PolicyView;
pub use problem::ProblemView;
pub use service::{EndpointView, LoadBalancerView, ServiceView};
pub use workload::{LocalityView, WaypointView, WorkloadView};
