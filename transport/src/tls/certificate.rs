//! A certificate chain with its key and the roots it is verified against, parsed once.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::{PeerError, TlsError};
use super::provider::{provider, signature_algorithms};
use mesh::model::identity::Identity;

/// Why a chain, a key or roots cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// It has no certificate.
    #[error("{0}: no certificate")]
    Empty(&'static str),
    /// Not PEM, or not the DER of a certificate.
    #[error("{0}: not a certificate: {1}")]
    Unreadable(&'static str, String),
    /// The key is unusable, or does not belong to the certificate.
    #[error("key: {0}")]
    Key(rustls::Error),
    /// The leaf does not name exactly one workload.
    #[error("leaf: {0}")]
    Identity(#[from] PeerError),
}

/// The parsed fields of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its one SPIFFE identity.
    pub identity: Identity,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number in decimal, as in the dumps of Istio's tools.
    pub serial: String,
}

impl Leaf {
    /// Parses a leaf. A certificate with no SPIFFE identity or with several is refused (X509-SVID, section 2).
    pub fn parse(der: &[u8]) -> Result<Self, PeerError> {
        let (_, x509) = X509Certificate::from_der(der).map_err(|_| PeerError::Unreadable)?;
        let identity = spiffe_identity(&x509)?;
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            identity,
            not_before: at(x509.validity().not_before.timestamp()),
            not_after: at(x509.validity().not_after.timestamp()),
            serial: x509.tbs_certificate.serial.to_string(),
        })
    }

    /// Whether the leaf is valid at `now`.
    pub fn valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

fn spiffe_identity(x509: &X509Certificate<'_>) -> Result<Identity, PeerError> {
    let san = x509.subject_alternative_name().map_err(|_| PeerError::Unreadable)?;
    let names = san.as_ref().map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if is_spiffe(uri) => Some(*uri),
        _ => None,
    });
    let Some(first) = uris.next() else { return Err(PeerError::NoIdentity) };
    if let Some(second) = uris.next() {
        return Err(PeerError::SeveralIdentities(format!("{first}, {second}")));
    }
    first.parse().map_err(|_| PeerError::Malformed(first.to_owned()))
}

/// The scheme of a URI is case-insensitive (RFC 3986, section 3.1): `SPIFFE://…` is a second identity, not another
/// name.
fn is_spiffe(uri: &str) -> bool {
    uri.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://"))
}

/// The roots that chains are verified against.
pub struct Roots {
    store: Arc<RootCertStore>,
    der: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Roots from DER.
    pub fn new(der: Vec<CertificateDer<'static>>) -> Result<Self, CertificateError> {
        if der.is_empty() {
            return Err(CertificateError::Empty("roots"));
        }
        let mut store = RootCertStore::empty();
        for root in &der {
            store.add(root.clone()).map_err(|why| CertificateError::Unreadable("roots", why.to_string()))?;
        }
        Ok(Self { store: Arc::new(store), der })
    }

    /// Roots from a PEM bundle.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        Self::new(chain_from_pem("roots", pem)?)
    }

    /// The roots in rustls's form.
    pub fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    /// The roots in DER.
    pub fn der(&self) -> &[CertificateDer<'static>] {
        &self.der
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.der.len())
    }
}

/// One identity's leaf, intermediates, key and roots.
pub struct Certificate {
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
    roots: Arc<Roots>,
}

impl Certificate {
    /// A certificate from its parts: the chain with the leaf first, the leaf's key, and the roots to verify peers
    /// against.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Arc<Roots>,
    ) -> Result<Self, CertificateError> {
        let first = chain.first().ok_or(CertificateError::Empty("chain"))?;
        let leaf = Leaf::parse(first)?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(CertificateError::Key)?;
        Ok(Self { leaf, certified: Arc::new(certified), roots })
    }

    /// The identity that the certificate proves.
    pub fn identity(&self) -> &Identity {
        &self.leaf.identity
    }

    /// Start of validity.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Serial number in decimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// Leaf first, then intermediates; without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The roots that peers are verified against.
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// Verifies the chain against the roots, as a peer will.
    pub fn verify(&self, now: SystemTime) -> Result<(), TlsError> {
        let chain = self.chain();
        let parsed = ParsedCertificate::try_from(&chain[0])?;
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            self.roots.store(),
            &chain[1..],
            UnixTime::since_unix_epoch(since_epoch),
            signature_algorithms().all,
        )?;
        Ok(())
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("identity", &self.leaf.identity)
            .field("serial", &self.leaf.serial)
            .finish_non_exhaustive()
    }
}

/// Parses all certificates of a PEM text, in order. `what` names the text in errors.
pub fn chain_from_pem(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|why| CertificateError::Unreadable(what, why.to_string()))?;
    if chain.is_empty() { Err(CertificateError::Empty(what)) } else { Ok(chain) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn leaf(names: &[SanType]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn name() -> impl Strategy<Value = SanType> {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        prop_oneof![
            Just(uri("spiffe://cluster.local/ns/default/sa/shop")),
            Just(uri("SPIFFE://cluster.local/ns/default/sa/shop")),
            Just(uri("spiffe://cluster.local/other")),
            Just(uri("https://cluster.local/ns/default/sa/shop")),
            Just(SanType::DnsName("shop.example".try_into().unwrap())),
            Just(SanType::IpAddress([10, 0, 0, 1].into())),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_spiffe_name_of_a_workload_makes_an_identity(names in prop::collection::vec(name(), 0..4)) {
            let spiffe: Vec<&str> = names
                .iter()
                .filter_map(|name| match name {
                    SanType::URI(uri) if uri.as_str().to_ascii_lowercase().starts_with("spiffe:") => Some(uri.as_str()),
                    _ => None,
                })
                .collect();
            let parsed = Leaf::parse(&leaf(&names)).map(|leaf| leaf.identity);
            match spiffe[..] {
                [] => prop_assert_eq!(parsed, Err(PeerError::NoIdentity)),
                ["spiffe://cluster.local/ns/default/sa/shop"] => {
                    prop_assert_eq!(parsed, Ok(Identity::new("cluster.local", "default", "shop")));
                }
                [other] => prop_assert_eq!(parsed, Err(PeerError::Malformed(other.to_owned()))),
                _ => prop_assert!(matches!(parsed, Err(PeerError::SeveralIdentities(_)))),
            }
        }

        #[test]
        fn a_damaged_certificate_parses_or_does_not(at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
            let mut der = leaf(&[SanType::URI("spiffe://cluster.local/ns/default/sa/shop".try_into().unwrap())]);
            let at = at.index(der.len());
            der[at] = with;
            if cut {
                der.truncate(at);
            }
            let _ = Leaf::parse(&der);
        }

        #[test]
        fn any_bytes_parse_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Leaf::parse(&bytes).is_err());
        }
    }

    #[test]
    fn a_certificate_and_a_key_that_do_not_belong_together_are_refused() {
        let der = leaf(&[SanType::URI("spiffe://cluster.local/ns/default/sa/shop".try_into().unwrap())]);
        let roots = Arc::new(Roots::new(vec![der.clone().into()]).unwrap());
        let key = KeyPair::generate().unwrap().serialize_der();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key).into();
        let error = Certificate::new(vec![der.into()], key, roots).unwrap_err();
        assert!(matches!(error, CertificateError::Key(_)), "{error}");
    }
}
