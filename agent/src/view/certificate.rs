//! Pure. Certificates in the shape that istioctl asks for.

use serde::{Deserialize, Serialize};

/// The certificate of one identity; the shape is ztunnel's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateView {
    /// The SPIFFE ID.
    pub(crate) identity: String,
    /// `Available`, `Initializing`, or `Unavailable: <reason>`.
    pub(crate) state: String,
    /// The leaf, then what leads to the root.
    pub(crate) cert_chain: Vec<CertificateInfo>,
    /// What peers are verified against.
    pub(crate) root_certs: Vec<CertificateInfo>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateInfo {
    /// The PEM text, in base64 once more (as ztunnel dumps it).
    pub(crate) pem: String,
    /// Decimal.
    pub(crate) serial_number: String,
    /// RFC 3339.
    pub(crate) valid_from: String,
    /// RFC 3339.
    pub(crate) expiration_time: String,
}
