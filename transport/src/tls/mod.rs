//! mTLS whose names are SPIFFE identities, never DNS. TLS 1.3, ALPN `h2`, a certificate on both sides.

mod server; // accept: present a workload's certificate, learn the peer's identity
mod client; // connect: present the source's certificate, require one of the expected identities
mod sessions; // the tickets that a client may resume with
mod stream; // an encrypted connection: bytes in, bytes out
mod inbox; // bytes from the socket, opened in place
mod outbox; // sealed records on their way to the socket
mod messages; // handshake messages and alerts between the data
mod handshake; // drives a handshake, takes its keys over
mod scratch; // buffers that a thread lends
mod peer; // what a handshake has proven
mod verify; // the two verifiers
mod certificate; // chain, key and roots, parsed once
mod error; // why a handshake was refused
mod record; // TLS 1.3 records
mod provider; // crypto provider, versions, suites

pub use certificate::{Certificate, CertificateError, Leaf, Roots, chain_from_pem};
pub use client::ClientConfig;
pub use error::{PeerError, TlsError};
pub use peer::Peer;
pub use provider::provider;
pub use server::ServerConfig;
pub use stream::TlsStream;

#[cfg(test)]
mod tests;
