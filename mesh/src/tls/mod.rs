//! mTLS whose names are SPIFFE identities, never DNS. TLS 1.3, ALPN `h2`, a certificate on both sides.

mod server; // accept: present a workload's certificate, learn the peer's identity
mod client; // connect: present the source's certificate, require one of the expected identities
mod sessions; // the tickets that a client may resume with
mod stream; // an encrypted connection
mod verify; // the two verifiers
mod certificate; // chain, key and roots, parsed once
mod error; // why a handshake was refused
mod provider; // crypto provider, versions, suites

pub use certificate::{Certificate, CertificateError, Leaf, Roots, chain_from_pem};
pub use client::ClientConfig;
pub use error::{PeerError, TlsError};
pub use provider::provider;
pub use server::ServerConfig;
pub use stream::{Peer, TlsStream};
