//! Pure. What `/config_dump` says about connections and captures; the CLI reads the same types back.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::connection::Direction;

/// One open connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// Number of the connection, unique in the life of the process.
    pub id: u64,
    /// Seen from the workload.
    pub direction: Direction,
    /// Uid of the workload on our side.
    pub workload_uid: String,
    /// Address of the caller.
    pub source: SocketAddr,
    /// Name of the calling workload, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_workload: Option<String>,
    /// Namespace of the calling workload, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_namespace: Option<String>,
    /// What the source proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<String>,
    /// The address that the application called.
    pub original_destination: SocketAddr,
    /// The address that was connected to for it, when it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_destination: Option<SocketAddr>,
    /// Name of the called workload, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_workload: Option<String>,
    /// Namespace of the called workload, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_namespace: Option<String>,
    /// What the destination proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_identity: Option<String>,
    /// The service that was called, as `<namespace>/<hostname>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `HBONE` or `TCP`, as istioctl has it.
    pub protocol: String,
    /// Bytes that the workload on our side has sent.
    pub bytes_sent: u64,
    /// Bytes that the workload on our side has received.
    pub bytes_received: u64,
    /// Milliseconds since it was accepted.
    pub age_ms: u64,
}

/// One workload of this node, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaptureView {
    /// Uid of the workload.
    pub workload_uid: String,
    /// Name of the pod.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Identity that the agent speaks for.
    pub identity: String,
    /// Path of the network namespace.
    pub netns: String,
    /// Number under which the kernel's maps know the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Cookie of the network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<u64>,
    /// How far enrolling has come.
    pub state: CaptureState,
    /// What becomes of plaintext to ports that are not in `plaintext_ports`: `pass`, `refuse` or `proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<String>,
    /// Ports with another verdict, as `<port>=<verdict>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plaintext_ports: Vec<String>,
    /// Why it is not captured, or not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far enrolling a workload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureState {
    /// It ought to be captured and is not yet.
    Pending,
    /// New connections go through the agent.
    Captured,
    /// Released; captured connections are still open.
    Releasing,
    /// It cannot be captured; `error` says why. It is tried again.
    Failed,
}

/// A file or object of the configuration that is not in effect as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemView {
    /// Where: `<file>:<line>`, or the object.
    pub at: String,
    /// `warning` or `error`.
    pub severity: String,
    /// What is wrong.
    pub message: String,
}

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
