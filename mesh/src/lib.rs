//! What the agent and the waypoint share.
//!
//! Read from the top: configuration comes in through `source`, becomes `model` values in `state`; connections go out
//! through `hbone`, with certificates from `keyring`, judged by `policy`. A module uses only modules declared below it
//! (`cargo xtask check`).

pub mod admin; // a window onto all of the below
pub mod source; // manifest files, Kubernetes, istiod -> model::update
pub mod connections; // what is open now, and closing what policy no longer allows
pub mod hbone; // tunnels: HTTP/2 CONNECT over mTLS
pub mod keyring; // one live certificate per identity
pub mod ca; // who signs certificates
pub mod tls; // mTLS by SPIFFE identity
pub mod policy; // may this peer do this
pub mod balance; // which endpoint
pub mod state; // what we know of the mesh
pub mod telemetry; // metrics, access log, logging
pub mod footprint; // memory given back once started
pub mod signals; // what the kernel tells a process to do
pub mod lane; // turns: one workload's work among that of others
pub mod net; // sockets
pub mod authority; // who may say what about whom
pub mod model; // the nouns
