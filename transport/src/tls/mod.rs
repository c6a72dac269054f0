//! mTLS with SPIFFE identities instead of DNS names: TLS 1.3, ALPN `h2`, a certificate on both sides.

mod server; // server side: presents a workload's certificate, learns the peer's identity
mod client; // client side: presents the source's certificate, requires an expected identity
mod sessions; // session tickets of a client
mod stream; // an established connection
mod inbox; // receive buffer, decrypted in place
mod outbox; // send buffer of encrypted records
mod messages; // handshake messages and alerts between the data
mod handshake; // drives a handshake, takes over its keys
mod scratch; // buffers shared by the connections of a thread
mod peer; // the authenticated peer
mod verify; // the two verifiers
mod certificate; // chain, key and roots, parsed once
mod error; // why a handshake failed
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
