//! Pure. One change to the model, produced by sources and applied by the store.

use std::net::IpAddr;

use super::name::WorkloadUid;
use super::policy::{Authorization, PolicyKey};
use super::reserved::Reserved;
use super::service::{Service, ServiceKey};
use super::workload::Workload;

/// One change. A source sends changes in batches; a batch becomes visible atomically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Adds or replaces a workload.
    Workload(Box<Workload>),
    /// Removes a workload.
    WorkloadGone(WorkloadUid),
    /// Adds or replaces a service.
    Service(Box<Service>),
    /// Removes a service.
    ServiceGone(ServiceKey),
    /// Adds or replaces a policy.
    Authorization(Box<Authorization>),
    /// Removes a policy.
    AuthorizationGone(PolicyKey),
    /// Reserves an address, or replaces its holder.
    Reserved(Box<Reserved>),
    /// Ends the reservation of an address.
    ReservedGone(IpAddr),
}
