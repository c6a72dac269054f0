//! What a handshake has proven about the other end.

use std::time::SystemTime;

use super::certificate::Leaf;
use super::error::{PeerError, TlsError};
use super::provider::ALPN_H2;
use mesh::model::identity::Identity;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Last moment at which its certificate is valid.
    pub not_after: SystemTime,
    /// Whether an earlier session was resumed instead of proving everything again.
    pub resumed: bool,
}

/// Checks what every handshake must have brought, a resumed one too: rustls does not verify a chain again on resumption,
/// so expiry and identity are looked at here.
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
