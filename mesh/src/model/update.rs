//! Pure. One change to the model: what every source speaks and the store alone applies.

use std::net::IpAddr;

use super::name::WorkloadUid;
use super::policy::{Authorization, PolicyKey};
use super::reserved::Reserved;
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
    /// An address is reserved, or by somebody else than before.
    Reserved(Box<Reserved>),
    /// An address is no longer reserved.
    ReservedGone(IpAddr),
}
