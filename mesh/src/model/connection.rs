//! Pure. The properties of one connection that policies, logs and metrics use; and which side caused a failure.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::identity::Identity;

/// Which side of an application's connection this agent is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Arriving at the workload.
    Inbound,
    /// Leaving the workload.
    Outbound,
}

/// The properties that policies may match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Address of the peer: for HBONE the TCP peer of the tunnel.
    pub source: SocketAddr,
    /// The peer's authenticated identity; `None` in plaintext.
    pub source_identity: Option<Identity>,
    /// The address that was called, with the port on the workload.
    pub destination: SocketAddr,
    /// The client on whose behalf the peer says it calls. Trusted only from a waypoint of the destination
    /// (`policy::coverage`).
    pub on_behalf_of: Option<Box<OnBehalfOf>>,
}

/// The client on whose behalf a waypoint calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OnBehalfOf {
    /// The identity that the waypoint has authenticated.
    pub identity: Identity,
    /// The client's socket; `None` when the connection serves several clients of the identity.
    pub source: Option<SocketAddr>,
}

impl Facts {
    /// A plaintext connection.
    pub fn plaintext(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source, source_identity: None, destination, on_behalf_of: None }
    }
}

/// Which side caused a failure; decides log level, response flag and the status of a refused CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// A protocol error or disconnect of the peer: 400.
    Client,
    /// Denied by policy: 401, like ztunnel.
    Policy,
    /// The upstream side refused or disconnected: 503.
    Upstream,
    /// Missing certificate, or a workload that is not known yet: 503.
    ControlPlane,
    /// A bug in this process: 500.
    Ours,
}

impl Fault {
    /// HTTP status of a refused CONNECT.
    pub fn status(self) -> u16 {
        match self {
            Self::Client => 400,
            Self::Policy => 401,
            Self::Upstream | Self::ControlPlane => 503,
            Self::Ours => 500,
        }
    }
}

/// Value of the metric label `response_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum ResponseFlag {
    /// No flag.
    #[serde(rename = "-")]
    None,
    /// Denied by policy.
    #[serde(rename = "DENY")]
    Deny,
    /// Connecting to the next hop failed, or it refused the CONNECT.
    #[serde(rename = "CONNECT")]
    Connect,
    /// The TLS handshake failed.
    #[serde(rename = "TLS_FAILURE")]
    TlsFailure,
    /// The HTTP/2 handshake failed.
    #[serde(rename = "H2_HANDSHAKE_FAILURE")]
    H2HandshakeFailure,
    /// The connect to 15008 timed out: perhaps a NetworkPolicy blocks it.
    #[serde(rename = "NETWORK_POLICY")]
    NetworkPolicy,
    /// No certificate for the identity, or the peer has an unexpected one.
    #[serde(rename = "IDENTITY_ERROR")]
    IdentityError,
}

impl ResponseFlag {
    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }
}
