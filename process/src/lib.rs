//! What every program of ours has beside its work: its life from flags to the last log line, the admin server, metrics,
//! logs.
//!
//! A module uses only modules declared below it (`cargo xtask check`).

#[cfg(test)]
mod docs_tests; // documents against log fields
pub mod life; // log, runtimes, start, drain, end
pub mod issuer; // who signs certificates
pub mod admin; // what a running program shows, and takes orders from
pub mod terminal; // what a command prints, and its exit code
pub mod flags; // the flags that programs have in common
pub mod telemetry; // metrics, access log, logging
pub mod readiness; // what must still happen
pub mod allocator; // jemalloc and its settings
pub mod footprint; // memory given back once started
pub mod signals; // SIGTERM and SIGINT
