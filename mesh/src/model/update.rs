//! Pure. One change to the model: what every source speaks and the store alone applies.

use super::name::WorkloadUid;
use super::policy::{Authorization, PolicyKey};
use super::service::{Service, ServiceKey};
use super::workload::Workload;

/// One change. A source sends changes in batches; a batch becomes visible at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A workload is new or different.
    Workload(Box<Workload>),
    /// A workload is gone.
    WorkloadGone(WorkloadUid),
    /// A service is new or different.
    Service(Box<Service>),
    /// A service is gone.
    ServiceGone(ServiceKey),
    /// A policy is new or different.
    Authorization(Box<Authorization>),
    /// A policy is gone.
    AuthorizationGone(PolicyKey),
}
