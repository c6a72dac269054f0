//! A fresh key pair and the certificate signing request of one identity.

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::IssueError;
use mesh::model::identity::Identity;

/// A certificate signing request and the private key that stays here.
pub struct SigningRequest {
    /// The requested identity.
    pub identity: Identity,
    /// PKCS#10, DER: P-256, no common name, one critical URI subject alternative name.
    pub der: CertificateSigningRequestDer<'static>,
    /// The same in PEM, as `IstioCertificateService` wants it.
    pub pem: String,
    key: Vec<u8>,
}

impl SigningRequest {
    /// Generates a key pair and the request for it.
    ///
    /// # Errors
    /// `Unusable` when the identity is not valid.
    pub fn new(identity: Identity) -> Result<Self, IssueError> {
        identity.check().map_err(|why| IssueError::Refused(why.to_string()))?;
        let made = || {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let request = leaf_params(&identity)?.serialize_request(&key)?;
            Ok::<_, rcgen::Error>((request.der().clone(), request.pem()?, key.serialize_der()))
        };
        let (der, pem, key) = made().map_err(|why| IssueError::Unusable(format!("request for {identity}: {why}")))?;
        Ok(Self { identity, der, pem, key })
    }

    /// The private key of the request, PKCS#8.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// The parameters that request and leaf have in common. With an empty subject the name extension is critical (RFC 5280,
/// 4.2.1.6).
pub(crate) fn leaf_params(identity: &Identity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string())?)];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, ParsedExtension, X509CertificationRequest};

    use super::*;

    #[test]
    fn a_request_names_the_identity_critically_and_nothing_else() {
        let identity = Identity::new("cluster.local", "default", "shop");
        let request = SigningRequest::new(identity).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&request.der).unwrap();
        csr.verify_signature().unwrap();
        assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
        let extensions: Vec<_> = csr.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(san)] = extensions[..] else { panic!("{extensions:?}") };
        assert_eq!(san.general_names.len(), 1);
        assert!(san.general_names[0].to_string().contains("spiffe://cluster.local/ns/default/sa/shop"));
        assert!(request.pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    }

    #[test]
    fn there_is_no_request_for_what_is_no_identity() {
        for (trust_domain, namespace, account) in [
            ("cluster.local", "default", "x;URI=root,By=y"),
            ("cluster.local", "default", "shop/sa/root"),
            ("cluster.local", "default/ns", "shop"),
            ("cluster.local/ns/bank/sa/root", "default", "shop"),
            ("cluster.local", "", "shop"),
        ] {
            let refused = SigningRequest::new(Identity::new(trust_domain, namespace, account));
            assert!(matches!(refused, Err(IssueError::Refused(_))), "{trust_domain} {namespace} {account}");
        }
    }
}
