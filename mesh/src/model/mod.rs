//! The objects of the mesh, independent of their source. Nothing here does I/O.

pub mod update; // Upsert | Remove for each kind: the only input of the store
pub mod hop; // how one workload is reached
pub mod connection; // the properties of one connection for policies, logs and metrics
pub mod workload; // an address with an identity, usually a pod
pub mod policy; // authorization policies as data
pub mod rule; // the conditions of their rules on connections and requests
pub mod reserved; // addresses that no service may claim
pub mod service; // services and their ports
pub mod waypoint; // the waypoint of a service or workload
pub mod identity; // spiffe://<trust domain>/ns/<namespace>/sa/<service account>
pub mod name; // newtypes over shared strings
pub mod syntax; // the syntax of names
