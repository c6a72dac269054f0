//! The nouns of the mesh; the same whichever source named them. Nothing here does I/O.

pub mod update; // Upsert | Remove for each kind: the only input of the store
pub mod connection; // the facts of one connection: what policy judges and logs show
pub mod workload; // one thing with an address and an identity
pub mod policy; // authorization policies as data
pub mod rule; // what their rules ask of a connection and a request
pub mod reserved; // addresses that nobody may claim
pub mod service; // services and their ports
pub mod waypoint; // where the waypoint of something is
pub mod identity; // spiffe://<trust domain>/ns/<namespace>/sa/<service account>
pub mod name; // newtypes over shared strings
pub mod syntax; // what is a name at all
