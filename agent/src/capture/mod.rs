//! User-space half of eBPF capture: pods are enrolled, their connections arrive at listeners; verdicts and mesh
//! addresses go down to the kernel, events come up. How it works is in `agent-ebpf` and in ARCHITECTURE.md.
//!
//! ```text
//!  Capture ──▶ Pods ──▶ network (rule, route, sysctls)   one namespace
//!     │          ├────▶ sockets (the agent's listeners)
//!     │          ├────▶ object, attach (sk_lookup)       pinned under /sys/fs/bpf/culvert/v<abi>
//!     │          └────▶ tables (what the programs read)
//!     └──▶ Watch ─▶ upkeep: repairs what others change in a pod
//! ```
//!
//! Nothing here is async. All state is in the kernel and pinned: an agent that dies leaves enrolled pods closed (or
//! open, as configured), and the next one takes over.

pub mod kernel; // what this kernel can do (`culvert check`)
mod cleanup; // removes everything
mod handle; // `Capture`: opened once per node
mod watch; // notices what others change in a pod
mod upkeep; // repairs what others change in captured pods
mod closing; // closes pods that cannot be captured
mod pods; // the captured pods: enroll, release, forget
mod events; // events of passthrough connections
mod attach; // links: attached, pinned, taken over
mod tables; // typed access to the maps
mod quota; // one pod's quota of a shared map
mod object; // the embedded object: maps and programs
mod claims; // ownership of network namespaces
mod network; // rule, route and sysctls of a pod
mod rtnl; // routing netlink in one namespace
mod sockets; // the agent's sockets in a pod
mod netns; // network namespaces
mod option; // socket options
mod cgroup; // cgroup2 and the agent's own group
mod bpf; // bpf(2)
mod error; // errors

pub use agent_abi::Kind;
pub use error::CaptureError;
pub use events::{Event, Events};
pub use handle::{Capture, CaptureConfig, Counters};
pub use netns::Netns;
pub use network::addresses_shown;
pub use pods::{CapturedPod, NotCaptured, PodSpec, PodStatus};
pub use sockets::{app_socket, upstream_socket};
pub use upkeep::Listener;
