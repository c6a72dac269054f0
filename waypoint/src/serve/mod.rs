//! Inbound connections: the HBONE listener, protocol detection, HTTP and opaque TCP.

pub mod listener; // HBONE in: TLS as the waypoint, each CONNECT is a connection for a service
pub mod connection; // one of them: for which service, by which protocol
pub mod opaque; // not HTTP: an endpoint, and bytes both ways
pub mod guard; // HTTP/1 that is looked at before it is parsed
pub mod framing; // where requests begin and end, and which heads are ambiguous
pub mod sniff; // the first bytes
pub mod rewind; // a stream whose first bytes were looked at
