//! Why a handshake was refused, in words and as a stable label for counters.

use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible};
use thiserror::Error;

use super::record::RecordError;
use mesh::model::identity::Identity;

/// What is wrong with the identity that a peer's certificate claims.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PeerError {
    /// The leaf has no URI subject alternative name that starts with `spiffe://`.
    #[error("the peer's certificate has no SPIFFE identity")]
    NoIdentity,
    /// The leaf has several; SPIFFE (X509-SVID, section 2) allows one.
    #[error("the peer's certificate has several SPIFFE identities: {0}")]
    SeveralIdentities(String),
    /// The one SPIFFE URI is not of a workload of a mesh.
    #[error("the peer's certificate has an identity of another form: {0}")]
    Malformed(String),
    /// The identity belongs to a trust domain that we do not trust.
    #[error("{found} is not of trust domain {ours}")]
    TrustDomain {
        /// Who the peer is.
        found: Identity,
        /// The trust domain that we accept.
        ours: String,
    },
    /// The peer is somebody else than was called.
    #[error("the peer is {found}, expected {}", expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))]
    Unexpected {
        /// Who the peer is.
        found: Identity,
        /// Who it should have been.
        expected: Box<[Identity]>,
    },
    /// The certificate cannot be parsed.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// The certificate was valid when the session began, and no longer is.
    #[error("the peer's certificate is not valid at this time")]
    Expired,
}

/// Why there is no TLS connection with a peer.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The transport failed or the peer hung up.
    #[error("transport: {0}")]
    Io(#[source] io::Error),
    /// The handshake took too long.
    #[error("the TLS handshake took too long")]
    Timeout,
    /// The handshake is longer than any honest one.
    #[error("the TLS handshake is too long")]
    TooLong,
    /// The first bytes are not TLS.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// The peer has no TLS 1.3, or no suite or group in common.
    #[error("the peer has no TLS version, suite or group in common with us: {0:?}")]
    Incompatible(PeerIncompatible),
    /// The peer presented no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The peer's certificate has expired, or is not valid yet.
    #[error("the peer's certificate is not valid at this time")]
    Expired,
    /// No chain from the peer's certificate to one of our roots.
    #[error("the peer's certificate is not signed by a root that we trust")]
    UnknownRoot,
    /// The certificate is unacceptable in another way.
    #[error("the peer's certificate: {0}")]
    Certificate(CertificateError),
    /// The certificate is good and proves the wrong thing.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer did not agree on `h2`.
    #[error("the peer does not speak HTTP/2 (ALPN h2)")]
    NoAlpn,
    /// The peer refused us and said so.
    #[error("the peer refused the handshake: {0:?}")]
    Alert(AlertDescription),
    /// Any other violation of the protocol.
    #[error("TLS: {0}")]
    Protocol(rustls::Error),
}

impl TlsError {
    /// A short word for the reason, stable: the value of a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io(_) => "transport",
            Self::Timeout => "timeout",
            Self::TooLong => "too_long",
            Self::NotTls => "not_tls",
            Self::Incompatible(_) => "incompatible",
            Self::NoCertificate => "no_certificate",
            Self::Expired | Self::Peer(PeerError::Expired) => "expired",
            Self::UnknownRoot => "unknown_root",
            Self::Certificate(_) | Self::Peer(PeerError::Unreadable) => "bad_certificate",
            Self::Peer(PeerError::NoIdentity) => "no_identity",
            Self::Peer(PeerError::SeveralIdentities(_)) => "several_identities",
            Self::Peer(PeerError::Malformed(_)) => "malformed_identity",
            Self::Peer(PeerError::TrustDomain { .. }) => "trust_domain",
            Self::Peer(PeerError::Unexpected { .. }) => "unexpected_identity",
            Self::NoAlpn => "no_alpn",
            Self::Alert(_) => "refused_by_peer",
            Self::Protocol(_) => "protocol",
        }
    }

    /// Whether the failure is about who somebody is, rather than about reaching them.
    pub fn is_identity(&self) -> bool {
        matches!(self, Self::NoCertificate | Self::Expired | Self::UnknownRoot | Self::Certificate(_) | Self::Peer(_))
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidMessage(_) => Self::NotTls,
            E::PeerIncompatible(why) => Self::Incompatible(why),
            E::NoCertificatesPresented => Self::NoCertificate,
            E::NoApplicationProtocol | E::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::NoAlpn,
            E::AlertReceived(alert) => Self::Alert(alert),
            E::InvalidCertificate(why) => certificate_error(why),
            other => Self::Protocol(other),
        }
    }
}

impl From<RecordError> for TlsError {
    fn from(error: RecordError) -> Self {
        Self::Protocol(rustls::Error::General(error.to_string()))
    }
}

fn certificate_error(why: CertificateError) -> TlsError {
    use CertificateError as C;
    match why {
        C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. } => TlsError::Expired,
        // A root of the same name and another key gives a bad signature: to its reader that is an unknown root too.
        C::UnknownIssuer | C::BadSignature => TlsError::UnknownRoot,
        C::Other(ref other) => match other.0.downcast_ref::<PeerError>() {
            Some(peer) => TlsError::Peer(peer.clone()),
            None => TlsError::Certificate(why),
        },
        _ => TlsError::Certificate(why),
    }
}
