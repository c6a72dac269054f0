//! Whether, when and how often a failed attempt is made again.

pub mod policy; // is this failure one that may be tried again
pub mod budget; // has the mesh as a whole room for one more try

pub use budget::{Budget, BudgetLimits};
pub use policy::{Attempt, Decision, GaveUp, Outcome, RetryPolicy, StatusSet};
