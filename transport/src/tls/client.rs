//! The client side: presents the source's certificate and requires one of the expected identities.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::client::{ResolvesClientCert, Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig as RustlsConfig, CommonState, SignatureScheme};
use tokio::net::TcpStream;

use super::certificate::{Certificate, Roots};
use super::error::TlsError;
use super::handshake::shake_hands;
use super::peer::{Peer, examine};
use super::provider::{ALPN_H2, VERSIONS, provider};
use super::sessions::Sessions;
use super::stream::TlsStream;
use super::verify::{ServerVerifier, require_expected};
use mesh::model::identity::Identity;

/// Sets of expected identities for which configuration and sessions are cached.
const KNOWN_SETS: usize = 1024;

/// The client configuration of one identity, built once per certificate.
///
/// rustls resumes a session only with the verifier that it began with, and the verifier holds the expected identities:
/// so there is one rustls configuration per set of them, built on first use.
pub struct ClientConfig {
    creds: Arc<dyn ResolvesClientCert>,
    roots: Arc<Roots>,
    by_expected: Mutex<HashMap<Box<[Identity]>, Arc<RustlsConfig>>>,
}

impl ClientConfig {
    /// Presents `certificate` and verifies peers against its roots.
    pub fn new(certificate: &Certificate) -> Self {
        Self {
            creds: Arc::new(Always(Arc::clone(certificate.certified()))),
            roots: Arc::clone(certificate.roots()),
            by_expected: Mutex::default(),
        }
    }

    /// Performs a handshake with a server that must be one of `expected`. The caller sets the timeout.
    pub async fn connect(&self, tcp: TcpStream, expected: &[Identity]) -> Result<(TlsStream, Peer), TlsError> {
        // The name is not sent (no SNI); it only separates cached sessions.
        let server = ServerName::from(tcp.peer_addr().map_err(TlsError::Io)?.ip());
        let connection = UnbufferedClientConnection::new(self.config_for(expected)?, server)?;
        let judge = |state: &CommonState| examine(state, SystemTime::now(), |leaf| require_expected(leaf, expected));
        let (done, peer) = shake_hands(tcp, connection, judge).await?;
        Ok((TlsStream::new(done)?, peer))
    }

    fn config_for(&self, expected: &[Identity]) -> Result<Arc<RustlsConfig>, TlsError> {
        if let Some(known) = self.by_expected.lock().get(expected) {
            return Ok(Arc::clone(known));
        }
        let verifier = ServerVerifier::new(Arc::clone(&self.roots), expected);
        let mut config = RustlsConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)?
            .dangerous() // The verifier is stricter than the default one, and about other names.
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.creds));
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.enable_sni = false;
        config.enable_secret_extraction = true;
        config.resumption = Resumption::store(Arc::new(Sessions::default()));
        let config = Arc::new(config);
        let mut known = self.by_expected.lock();
        if known.len() >= KNOWN_SETS {
            known.clear();
        }
        known.insert(expected.into(), Arc::clone(&config));
        Ok(config)
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("sets", &self.by_expected.lock().len()).finish_non_exhaustive()
    }
}

/// Presents the one certificate, whatever the server hints at.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
