//! Captures the workloads of this node that are in the mesh, and releases the others.

mod upkeep; // repairs captures: listeners, rules, programs
pub(crate) mod reconcile; // reconciles wanted (store) with captured (kernel): enroll, release, retry
pub(crate) mod changes; // merged changes of the store
mod outcome; // outcomes of jobs in pods
mod listener_repair; // missing listeners, and when to recreate them
mod workers; // threads for jobs that a pod can block
mod namespaces; // which network namespace is at a path
pub(crate) mod plan; // the steps from captured to wanted
