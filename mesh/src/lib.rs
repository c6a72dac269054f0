//! The mesh as a process knows it: the nouns, what is known of them at one moment, and the decisions about them.
//!
//! Nothing here does I/O. Sources send [`model::update`] values into [`state`], which publishes immutable snapshots;
//! [`policy`] and [`balance`] decide on one of them. A module uses only modules declared below it (`cargo xtask check`).

pub mod policy; // may this peer do this
pub mod balance; // which endpoints may be chosen
pub mod state; // what is known of the mesh
pub mod authority; // who may say what about whom
pub mod model; // the nouns
