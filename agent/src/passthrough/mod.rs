//! Connections that the kernel left to the application: counted, logged, ended when policy turns.

pub(crate) mod kernel_reports; // reads what the kernel half reports
pub(crate) mod connections; // what is known of them
mod sockets; // the TCP sockets of a workload, as the kernel lists them
mod destroy; // ends a connection that does not pass through the agent
mod sock_diag; // how the kernel is asked about sockets, and answers
