//! Pure. Certificates in the shape that istioctl asks for.

use serde::{Deserialize, Serialize};

/// The certificate of one identity; the shape is ztunnel's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    /// The SPIFFE ID.
    pub identity: String,
    /// `Available`, `Initializing`, or `Unavailable: <reason>`.
    pub state: String,
    /// The leaf, then what leads to the root.
    pub cert_chain: Vec<CertificateInfo>,
    /// What peers are verified against.
    pub root_certs: Vec<CertificateInfo>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// The PEM text, in base64 once more (as ztunnel dumps it).
    pub pem: String,
    /// Decimal.
    pub serial_number: String,
    /// RFC 3339.
    pub valid_from: String,
    /// RFC 3339.
    pub expiration_time: String,
}
