//! Routing: finds the rule that matches a request. The routes of a service and port are compiled into one table.

pub mod table; // finds the rule without looking at rules that cannot match
pub mod precedence; // which of several matching rules wins
pub mod rule; // what a rule does with its requests

pub use precedence::{Age, Rank};
pub use rule::{Action, Backend, BackendTarget, Mirror, Rule, RuleId};
pub use table::{Found, Table, TableKind};
