//! Which workloads of this node are in the mesh, and making it so.

mod upkeep; // what was captured is looked after
pub(crate) mod reconcile; // wanted (from the store) against captured (in the kernel): enroll, release, retry
pub(crate) mod changes; // what the store changed since we last looked
mod done; // what comes of work in a pod
mod mending; // listeners that are missing, and when they are made anew
mod crew; // threads for work that a pod can hold up
mod looks; // what is at the paths of network namespaces
pub(crate) mod plan; // the steps from captured to wanted
