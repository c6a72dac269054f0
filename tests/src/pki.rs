//! Certificates for tests: a CA whose key the tests hold, in the files of Istio's `cacerts` secret, and leaves of every
//! kind, the wrong ones too.

use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
    cert_pem: String,
}

/// A certificate with its key, in PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Leaf first.
    pub chain_pem: String,
    /// PKCS #8.
    pub key_pem: String,
}

/// What a leaf says. `Default` is a good leaf without a name.
#[derive(Clone, Debug)]
pub struct LeafSpec {
    /// URI names.
    pub uris: Vec<String>,
    /// Valid from this much before now.
    pub began: Duration,
    /// Valid until this much after now; may be negative.
    pub ends: Duration,
    /// Whether it is its own issuer.
    pub self_signed: bool,
}

impl LeafSpec {
    /// A good leaf for one identity.
    pub fn of(uri: &str) -> Self {
        Self { uris: vec![uri.to_owned()], ..Self::nameless() }
    }

    /// A leaf that names nobody.
    pub fn nameless() -> Self {
        Self { uris: Vec::new(), began: Duration::hours(1), ends: Duration::hours(1), self_signed: false }
    }
}

impl Authority {
    /// Makes a root.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(365);
        let cert = params.self_signed(&key)?;
        let (key_pem, cert_pem) = (key.serialize_pem(), cert.pem());
        Ok(Self { issuer: Issuer::new(params, key), key_pem, cert_pem })
    }

    /// The files of a `cacerts` secret.
    pub fn files(&self) -> Vec<(String, String)> {
        [
            ("ca-cert.pem", &self.cert_pem),
            ("ca-key.pem", &self.key_pem),
            ("cert-chain.pem", &self.cert_pem),
            ("root-cert.pem", &self.cert_pem),
        ]
        .map(|(name, text)| (name.to_owned(), text.clone()))
        .into()
    }

    /// The root certificate in PEM.
    pub fn root_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Makes a leaf.
    pub fn leaf(&self, spec: &LeafSpec) -> Result<Leaf> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            spec.uris.iter().map(|uri| Ok(SanType::URI(uri.as_str().try_into()?))).collect::<Result<_>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = OffsetDateTime::now_utc() - spec.began;
        params.not_after = OffsetDateTime::now_utc() + spec.ends;
        let cert = if spec.self_signed { params.self_signed(&key)? } else { params.signed_by(&key, &self.issuer)? };
        Ok(Leaf { chain_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Makes a good leaf for a service account of the default trust domain.
    pub fn identity(&self, namespace: &str, account: &str) -> Result<Leaf> {
        self.leaf(&LeafSpec::of(&format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")))
    }
}

impl Leaf {
    /// Chain and key in the types of rustls.
    pub fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(self.chain_pem.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes());
        Ok((chain.context("certificate")?, key.context("key")?))
    }
}

/// A TLS client that trusts any server, as an attacker would, and shows this certificate or none.
pub fn tls_client(leaf: Option<&Leaf>, tls12: bool, alpn: &[&str]) -> Result<Arc<rustls::ClientConfig>> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if tls12 { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let (chain, key) = leaf.parse()?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Accepts whatever certificate a server shows.
#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &rustls_pki_types::ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
