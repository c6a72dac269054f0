//! How bytes travel between workloads: sockets, mutual TLS by SPIFFE identity, certificates and HBONE tunnels.
//!
//! A module uses only modules declared below it (`cargo xtask check`).

pub mod hbone; // tunnels: HTTP/2 CONNECT over mTLS
pub mod keyring; // one live certificate per identity
pub mod ca; // who signs certificates
pub mod tls; // mTLS by SPIFFE identity
pub mod fair_queue; // fair queueing between workloads
pub mod net; // sockets
