//! Pure. The facts of one connection: what policy judges, logs show and metrics count; and whose doing a failure was.

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

/// What policy may look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Address of the peer: for HBONE the TCP peer of the tunnel.
    pub source: SocketAddr,
    /// What the peer's certificate proved; `None` on plain text.
    pub source_identity: Option<Identity>,
    /// The address that was called, with the port on the workload.
    pub destination: SocketAddr,
    /// On whose behalf the peer says that it calls. Believed only of a waypoint of the destination (`policy::cover`).
    pub on_behalf_of: Option<Box<OnBehalfOf>>,
}

/// The client that a waypoint speaks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OnBehalfOf {
    /// What the client proved to the waypoint.
    pub identity: Identity,
    /// The client's socket; `None` when the connection serves several clients of the identity.
    pub source: Option<SocketAddr>,
}

impl Facts {
    /// A connection without identity.
    pub fn plaintext(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source, source_identity: None, destination, on_behalf_of: None }
    }
}

/// Whose doing a failure was. Log level, response flag and status of a refused CONNECT come from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// The peer spoke nonsense or hung up: 400.
    Client,
    /// Refused on purpose: 401, as ztunnel answers.
    Policy,
    /// The far side refused or vanished: 503.
    Upstream,
    /// No certificate, no such workload yet: 503.
    ControlPlane,
    /// A bug: 500.
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
    /// Nothing to say.
    #[serde(rename = "-")]
    None,
    /// Refused by policy.
    #[serde(rename = "DENY")]
    Deny,
    /// The next hop could not be connected to, or refused the CONNECT.
    #[serde(rename = "CONNECT")]
    Connect,
    /// The TLS handshake did not succeed.
    #[serde(rename = "TLS_FAILURE")]
    TlsFailure,
    /// The HTTP/2 handshake did not succeed.
    #[serde(rename = "H2_HANDSHAKE_FAILURE")]
    H2HandshakeFailure,
    /// The connect to 15008 timed out: perhaps a NetworkPolicy blocks it.
    #[serde(rename = "NETWORK_POLICY")]
    NetworkPolicy,
    /// No certificate for the identity, or the peer proved another one.
    #[serde(rename = "IDENTITY_ERROR")]
    IdentityError,
}

impl ResponseFlag {
    /// The label's text.
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
