//! The server side: presents a workload's certificate and learns the peer's identity.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::CommonState;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;

use super::certificate::Certificate;
use super::error::TlsError;
use super::handshake::shake_hands;
use super::peer::{Peer, examine};
use super::provider::{ALPN_H2, VERSIONS, provider};
use super::stream::TlsStream;
use super::verify::{ClientVerifier, require_trust_domain};
use mesh::model::name::TrustDomain;

/// The server configuration of one identity, built once per certificate and not per connection. It has a ticket key of
/// its own, so that a new certificate or new roots end every resumable session.
pub struct ServerConfig {
    rustls: Arc<rustls::ServerConfig>,
    trust_domain: TrustDomain,
}

impl ServerConfig {
    /// Presents `certificate` and accepts peers of its trust domain.
    pub fn new(certificate: &Certificate) -> Result<Self, TlsError> {
        let trust_domain = certificate.identity().trust_domain.clone();
        let verifier = ClientVerifier::new(certificate.roots(), trust_domain.clone())?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Always(Arc::clone(certificate.certified()))));
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.ticketer = Ticketer::new()?;
        // Stateless tickets: the server stores no session. Every tunnel can be resumed once.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        config.enable_secret_extraction = true;
        Ok(Self { rustls: Arc::new(config), trust_domain })
    }

    /// Performs a handshake. The caller sets the timeout.
    pub async fn accept(&self, tcp: TcpStream) -> Result<(TlsStream, Peer), TlsError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.rustls))?;
        let judge = |state: &CommonState| {
            examine(state, SystemTime::now(), |leaf| require_trust_domain(leaf, &self.trust_domain))
        };
        let (done, peer) = shake_hands(tcp, connection, judge).await?;
        Ok((TlsStream::new(done)?, peer))
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// Presents the one certificate, whatever name the client asks for: mesh clients send no SNI.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
