//! An encrypted connection, and what its handshake proved.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::certificate::Leaf;
use super::error::{PeerError, TlsError};
use super::provider::ALPN_H2;
use crate::model::identity::Identity;

/// What the handshake proved about the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Last moment at which its certificate is valid.
    pub not_after: SystemTime,
    /// Whether an earlier session was resumed instead of proving everything again.
    pub resumed: bool,
}

/// TLS over TCP.
pub struct TlsStream {
    inner: tokio_rustls::TlsStream<TcpStream>,
}

impl TlsStream {
    pub(crate) fn new(inner: tokio_rustls::TlsStream<TcpStream>) -> Self {
        Self { inner }
    }

    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        self.inner.get_ref().0
    }
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
    let leaf: &CertificateDer<'_> =
        connection.peer_certificates().and_then(|chain| chain.first()).ok_or(TlsError::NoCertificate)?;
    let leaf = Leaf::parse(leaf)?;
    if !leaf.valid_at(now) {
        return Err(PeerError::Expired.into());
    }
    require(&leaf)?;
    let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok(Peer { identity: leaf.identity, not_after: leaf.not_after, resumed })
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
