//! What every program of ours has beside its work: the admin server, metrics, logs, signals, memory given back.
//!
//! A module uses only modules declared below it (`cargo xtask check`).

#[cfg(test)]
mod docs_tests; // documents against metrics and log fields
pub mod admin; // a window onto a running program
pub mod telemetry; // metrics, access log, logging
pub mod footprint; // memory given back once started
pub mod signals; // what the kernel tells a process to do
