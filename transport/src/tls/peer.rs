//! The authenticated peer of a connection.

use std::time::SystemTime;

use super::certificate::Leaf;
use super::error::{PeerError, TlsError};
use super::provider::ALPN_H2;
use mesh::model::identity::Identity;

/// The peer of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its identity.
    pub identity: Identity,
    /// When its certificate expires.
    pub not_after: SystemTime,
    /// Whether the session was resumed, without a full handshake.
    pub resumed: bool,
}

/// Checks the result of every handshake, resumed ones included: rustls does not verify a chain again on resumption, so
/// expiry and identity are checked here.
pub(crate) fn examine(
    connection: &rustls::CommonState,
    now: SystemTime,
    require: impl FnOnce(&Leaf) -> Result<(), PeerError>,
) -> Result<Peer, TlsError> {
    if connection.alpn_protocol() != Some(ALPN_H2) {
        return Err(TlsError::NoAlpn);
    }
    let leaf = connection.peer_certificates().and_then(|chain| chain.first()).ok_or(TlsError::NoCertificate)?;
    let leaf = Leaf::parse(leaf)?;
    if !leaf.valid_at(now) {
        return Err(PeerError::Expired.into());
    }
    require(&leaf)?;
    let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok(Peer { identity: leaf.identity, not_after: leaf.not_after, resumed })
}
