//! The embedded CA: signs with a local key, generated on first start or the user's own (Istio's `cacerts` files).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::csr::{SigningRequest, leaf_params};
use super::directory::{Directory, DirectoryError, Files, Maker};
use super::error::IssueError;
use super::issuer::{IssueFuture, Issued, Issuer};
use crate::tls::{Certificate, Roots, chain_from_pem};
use mesh::model::identity::Identity;
use mesh::model::name::TrustDomain;

/// Default validity of a leaf.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Validity of a generated root.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Validity begins this long before now, for peers whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// A CA inside this process.
pub struct EmbeddedCa {
    signer: rcgen::Issuer<'static, KeyPair>,
    intermediates: Vec<CertificateDer<'static>>,
    roots: Arc<Roots>,
    not_after: SystemTime,
    lifetime: Duration,
}

impl EmbeddedCa {
    /// Opens the CA in `directory`; creates it if the directory is empty or missing. The trust domain names a root that
    /// is generated here; leaves take theirs from the requested identity. Blocks on disk I/O.
    pub fn open(directory: &Path, trust_domain: &TrustDomain, lifetime: Duration) -> Result<Self, DirectoryError> {
        let directory = Directory::new(directory);
        let files = directory.load_or_make(&RootMaker { trust_domain })?;
        let ca = Self::parse(&directory, &files, lifetime)?;
        ca.try_out(trust_domain)
            .map_err(|why| DirectoryError::Content { path: directory.certificate_path(), why: why.to_string() })?;
        Ok(ca)
    }

    fn parse(directory: &Directory, files: &Files, lifetime: Duration) -> Result<Self, DirectoryError> {
        let wrong_key = |why: String| DirectoryError::Content { path: directory.key_path(), why };
        let wrong = |why: String| DirectoryError::Content { path: directory.certificate_path(), why };
        let key = parse_key(&files.key).map_err(wrong_key)?;

        let own = chain_from_pem("ca-cert.pem", &files.certificate).map_err(|why| wrong(why.to_string()))?;
        let ca_der = own[0].clone();
        let (_, ca) = X509Certificate::from_der(&ca_der).map_err(|why| wrong(why.to_string()))?;
        if ca.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(wrong("it is not the certificate of the key in ca-key.pem".to_owned()));
        }
        if !ca.is_ca() {
            return Err(wrong("it is not the certificate of a CA (basicConstraints CA:TRUE)".to_owned()));
        }
        if !ca.validity().is_valid() {
            return Err(wrong(format!(
                "it is not valid now: {} to {}",
                ca.validity().not_before,
                ca.validity().not_after
            )));
        }
        let not_after = SystemTime::from(ca.validity().not_after.to_datetime());

        let roots = match &files.roots {
            Some(pem) => chain_from_pem("root-cert.pem", pem).map_err(|why| wrong(why.to_string()))?,
            None => vec![own[own.len() - 1].clone()],
        };
        let chain = match &files.chain {
            Some(pem) => chain_from_pem("cert-chain.pem", pem).map_err(|why| wrong(why.to_string()))?,
            None => own,
        };
        let mut intermediates: Vec<_> = chain.into_iter().filter(|link| !roots.contains(link)).collect();
        if !roots.contains(&ca_der) && !intermediates.contains(&ca_der) {
            intermediates.insert(0, ca_der.clone());
        }
        let roots = Roots::new(roots).map_err(|why| wrong(why.to_string()))?;
        let signer = rcgen::Issuer::from_ca_cert_der(&ca_der, key).map_err(|why| wrong(why.to_string()))?;
        Ok(Self { signer, intermediates, roots: Arc::new(roots), not_after, lifetime })
    }

    /// Signs a throw-away leaf and verifies its chain, so that mismatched files are found at startup.
    fn try_out(&self, trust_domain: &TrustDomain) -> Result<(), IssueError> {
        let request = SigningRequest::new(Identity::new(trust_domain.clone(), "culvert-system", "start"))?;
        let issued = self.sign(&request)?;
        let unusable = |why: String| IssueError::Unusable(why);
        let certificate =
            Certificate::new(issued.chain, request.key(), issued.roots).map_err(|why| unusable(why.to_string()))?;
        certificate
            .verify(SystemTime::now())
            .map_err(|why| unusable(format!("what it signs does not chain to the roots: {why}")))
    }

    /// The roots that peers of this CA are verified against.
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    fn sign(&self, request: &SigningRequest) -> Result<Issued, IssueError> {
        request.identity.check().map_err(|why| IssueError::Refused(why.to_string()))?;
        let refused = |why: rcgen::Error| IssueError::Refused(format!("{}: {why}", request.identity));
        // Only the public key is taken from the request, and parsing it verifies the proof of possession.
        let mut csr = CertificateSigningRequestParams::from_der(&request.der).map_err(refused)?;
        let now = SystemTime::now();
        let not_after = (now + self.lifetime).min(self.not_after);
        let mut params = leaf_params(&request.identity).map_err(refused)?;
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW.min(self.lifetime / 10));
        params.not_after = OffsetDateTime::from(not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        csr.params = params;
        let leaf = csr.signed_by(&self.signer).map_err(refused)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(Issued { chain, roots: Arc::clone(&self.roots) })
    }
}

impl Issuer for EmbeddedCa {
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> IssueFuture<'a> {
        // Tens of microseconds of CPU: not worth a blocking thread.
        Box::pin(std::future::ready(self.sign(request)))
    }
}

/// Parses a private key in any of openssl's formats: PKCS#8, SEC1 (also after `EC PARAMETERS`) and PKCS#1.
fn parse_key(pem: &[u8]) -> Result<KeyPair, String> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|why| format!("not a private key in PEM: {why}"))?;
    KeyPair::try_from(&der).map_err(|why| format!("not an EC or RSA key that can sign: {why}"))
}

struct RootMaker<'a> {
    trust_domain: &'a TrustDomain,
}

impl Maker for RootMaker<'_> {
    fn key(&self) -> Result<String, String> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|why| why.to_string())?;
        Ok(key.serialize_pem())
    }

    fn certificate(&self, key: &[u8]) -> Result<String, String> {
        let key = parse_key(key)?;
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, self.trust_domain.as_str());
        params.distinguished_name.push(DnType::CommonName, "Culvert CA");
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from(now + ROOT_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params.self_signed(&key).map_err(|why| why.to_string())?.pem())
    }
}
