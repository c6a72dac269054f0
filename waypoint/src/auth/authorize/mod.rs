//! L7 authorization: AuthorizationPolicies that name this waypoint, or a service behind it, in `targetRefs`. Whether
//! one matches is decided in `mesh::policy`, for agents and waypoints alike.

pub mod judge; // all policies on one request

pub use judge::{Judgement, Refusal, judge};

#[cfg(test)]
mod tests; // policies on requests of every kind
