//! Why a handshake failed, as a message and as a stable metric label.

use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible};
use thiserror::Error;

use super::record::RecordError;
use mesh::model::identity::Identity;

/// What is wrong with the identity in a peer's certificate.
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
    /// The identity is of a foreign trust domain.
    #[error("{found} is not of trust domain {ours}")]
    TrustDomain {
        /// The peer's identity.
        found: Identity,
        /// The accepted trust domain.
        ours: String,
    },
    /// The peer is none of the expected identities.
    #[error("the peer is {found}, expected {}", expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))]
    Unexpected {
        /// The peer's identity.
        found: Identity,
        /// The expected identities.
        expected: Box<[Identity]>,
    },
    /// The certificate cannot be parsed.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// The certificate of a resumed session has expired.
    #[error("the peer's certificate is not valid at this time")]
    Expired,
}

/// Why a TLS connection failed.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The TCP connection failed or was closed.
    #[error("transport: {0}")]
    Io(#[source] io::Error),
    /// Handshake timeout.
    #[error("TLS handshake timeout")]
    Timeout,
    /// The handshake exceeds its size limit.
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
    /// The certificate is invalid for another reason.
    #[error("the peer's certificate: {0}")]
    Certificate(CertificateError),
    /// The certificate is valid but has the wrong identity.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// ALPN: the peer did not select `h2`.
    #[error("the peer does not speak HTTP/2 (ALPN h2)")]
    NoAlpn,
    /// The peer rejected the handshake with an alert.
    #[error("the peer refused the handshake: {0:?}")]
    Alert(AlertDescription),
    /// Another protocol violation.
    #[error("TLS: {0}")]
    Protocol(rustls::Error),
}

impl TlsError {
    /// The stable value of a metric label.
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

    /// Whether the failure is one of authentication, not of connectivity.
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
        // A root with the same name and another key fails with a bad signature: to the reader that is an unknown root
        // too.
        C::UnknownIssuer | C::BadSignature => TlsError::UnknownRoot,
        C::Other(ref other) => match other.0.downcast_ref::<PeerError>() {
            Some(peer) => TlsError::Peer(peer.clone()),
            None => TlsError::Certificate(why),
        },
        _ => TlsError::Certificate(why),
    }
}
