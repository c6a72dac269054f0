//! `cargo xtask cluster`: a real Kubernetes of several nodes on this machine, without Docker.
//!
//! A machine of the cluster (the control plane, or one node) is a set of namespaces: network, mounts over an overlay of
//! this machine's root, host name, IPC, process ids, cgroups. Its first process starts its programs and starts them
//! again when they end. All that is outside these namespaces is one directory, one cgroup and one network link.

mod cli; // the commands
mod check; // what a cluster must be able to do
mod status; // what runs and what it takes
mod up; // from nothing to ready
mod down; // from anything to nothing
mod network; // links, addresses and routes
mod pki; // keys, certificates, kubeconfigs
mod images; // the images that nodes hold before any pod asks
mod build; // programs from Go modules
mod archive; // image archives
mod machine; // a machine's first process
mod mounts; // a machine's file system
mod services; // the programs of a machine, with their arguments
mod enter; // commands inside a machine, and kubectl
mod state; // what a cluster leaves in its directory for later commands
mod cgroups; // one subtree in every hierarchy
mod template; // configuration files with holes
mod layout; // names, addresses and paths

pub(crate) use cli::{Cluster, run};
