//! Which workloads of this node are in the mesh, and making it so.

pub(crate) mod reconcile; // wanted (from the store) against captured (in the kernel): enroll, release, retry
pub(crate) mod changes; // what the store changed since we last looked
pub(crate) mod plan; // the steps from captured to wanted
