//! L7 authorization: AuthorizationPolicies that name this waypoint, or a service behind it, in `targetRefs`.

pub mod judge; // all policies on one request
pub mod rule; // policies and rules, and whether one matches
pub mod readings; // what an attribute may mean to whoever reads it
pub mod pattern; // how one value is compared
pub mod request; // what rules look at

pub use judge::{Judgement, judge};
pub use pattern::Pattern;
pub use request::{Http, Request};
pub use rule::{Action, Attribute, Policy, Rule, Test};

#[cfg(test)]
mod tests; // policies on requests of every kind
