//! Which endpoints of a service may be chosen.

pub mod health; // which endpoints are well enough
pub mod locality; // which endpoints are close enough
