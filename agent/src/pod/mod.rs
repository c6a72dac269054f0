//! One captured workload, and how much of the agent it may use.

pub(crate) mod captures; // what is captured, for the admin server
pub(crate) mod workload; // one captured workload
pub(crate) mod quota; // what each workload holds of the agent
pub(crate) mod limits; // how much that may be
