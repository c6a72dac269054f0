//! The model of the mesh: its objects, their state at one moment, and the decisions about them.
//!
//! Nothing here does I/O. Sources send [`model::update`] values into [`state`], which publishes immutable snapshots;
//! [`policy`] and [`balance`] decide on one of them. A module uses only modules declared below it (`cargo xtask
//! check`).

#[cfg(any(test, feature = "testing"))]
mod testing; // what tests make their meshes of
pub mod policy; // authorization
pub mod balance; // which endpoints may be picked
pub mod state; // the store and its snapshots
pub mod authority; // which object may configure what
pub mod model; // workloads, services, policies
