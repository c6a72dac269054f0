//! Which rule a request falls under. Routes of one service and port are compiled once per configuration into a table.

pub mod table; // finds the rule without looking at rules that cannot match
pub mod precedence; // which of several matching rules wins
pub mod rule; // what a rule does with its requests

pub use precedence::{Age, Rank};
pub use rule::{Action, Backend, BackendTarget, Mirror, Rule, RuleId};
pub use table::{Found, Table, TableKind};
