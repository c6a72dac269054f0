//! One captured workload and its quota.

pub(crate) mod captures; // capture state, for the admin server
pub(crate) mod workload; // one captured workload
pub(crate) mod quota; // what each workload uses of the agent
pub(crate) mod limits; // the limits of that
