//! The test harness: a mesh on one machine in network namespaces, with the real binaries and real eBPF.
//!
//! A test builds a `mesh` (or uses a common one), adds pods, starts servers and clients of `peer` in them through
//! `apps`, and then observes from outside: what the application saw, what was on the `wire`, what the agents report
//! (`observe`).

pub mod demo;
pub mod incident;
pub mod waypoint;
pub mod mesh;
pub mod agent;
pub mod manifest;
pub mod apps;
pub mod observe;
pub mod envoy;
pub mod scribe;
pub mod tunnel;
pub mod pki;
pub mod wire;
pub mod net;
pub mod process;
#[path = "../../xtask/src/programs.rs"]
pub mod programs;
pub mod run;
pub mod eventually;
pub mod peer;
