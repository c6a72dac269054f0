//! Which endpoints of a service may be picked.

pub mod health; // readiness of endpoints
pub mod locality; // locality of endpoints
