//! Capture for real: as root, with eBPF, in network namespaces and cgroups of our own, without a tunnel.

#![expect(clippy::unwrap_used, reason = "a rig that cannot be built fails its test")]

#[path = "../../examples/lab/proxy.rs"]
#[expect(dead_code, reason = "the tests use the accept loops, not the program around them")]
mod proxy;

#[path = "../../../xtask/src/programs.rs"]
#[expect(unreachable_pub, reason = "the harness includes the file too, and publishes it")]
mod programs;

mod attach;
mod bind;
mod counts;
mod inbound;
mod lifecycle;
mod many;
mod outbound;
mod rig;
mod walls;
