//! The certificate verifiers: a chain to our roots, then the SPIFFE identity of the leaf.
//!
//! DNS names are ignored. The server accepts any identity of its own trust domain; the client one of the expected
//! identities.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};

use super::certificate::{Leaf, Roots};
use super::error::PeerError;
use super::provider::{provider, signature_algorithms};
use mesh::model::identity::Identity;
use mesh::model::name::TrustDomain;

fn refused(why: PeerError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// Checks that a leaf's identity is of our trust domain.
pub(crate) fn require_trust_domain(leaf: &Leaf, ours: &TrustDomain) -> Result<(), PeerError> {
    if leaf.identity.trust_domain == *ours {
        return Ok(());
    }
    Err(PeerError::TrustDomain { found: leaf.identity.clone(), ours: ours.to_string() })
}

/// Checks that a leaf's identity is one of the expected ones.
pub(crate) fn require_expected(leaf: &Leaf, expected: &[Identity]) -> Result<(), PeerError> {
    if expected.contains(&leaf.identity) {
        return Ok(());
    }
    Err(PeerError::Unexpected { found: leaf.identity.clone(), expected: expected.into() })
}

/// Server side: verifies the client's certificate.
pub(crate) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
}

impl ClientVerifier {
    pub(crate) fn new(roots: &Roots, trust_domain: TrustDomain) -> Result<Self, Error> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots.store()), provider())
            // Root hints only lengthen the handshake: a mesh peer has one certificate.
            .clear_root_hint_subjects()
            .build()
            .map_err(|why| Error::General(why.to_string()))?;
        Ok(Self { chain, trust_domain })
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientVerifier").field(&self.trust_domain).finish()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let leaf = Leaf::parse(leaf).map_err(refused)?;
        require_trust_domain(&leaf, &self.trust_domain).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken in a mesh".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Client side: verifies the server's certificate.
pub(crate) struct ServerVerifier {
    roots: Arc<Roots>,
    expected: Box<[Identity]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(crate) fn new(roots: Arc<Roots>, expected: &[Identity]) -> Self {
        Self { roots, expected: expected.into(), algorithms: signature_algorithms() }
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerVerifier").field(&self.expected).finish()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            self.roots.store(),
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let leaf = Leaf::parse(leaf).map_err(refused)?;
        require_expected(&leaf, &self.expected).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken in a mesh".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
