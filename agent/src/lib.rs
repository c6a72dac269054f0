//! The node agent.
//!
//! The order of the modules is their order of use: a module uses only modules declared below it (`cargo xtask check`).

pub mod cli; // the command line
pub mod config; // flags and environment
pub mod capture; // the kernel half, seen from here
