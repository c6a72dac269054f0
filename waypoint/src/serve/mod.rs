//! Connections: those that come in, and what is spoken on them.

pub mod listener; // HBONE in: TLS as the waypoint, each CONNECT is a connection for a service
pub mod connection; // one of them: for which service, by which protocol
pub mod opaque; // not HTTP: an endpoint, and bytes both ways
pub mod sniff; // the first bytes
pub mod rewind; // a stream whose first bytes were looked at
