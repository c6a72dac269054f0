//! TLS under HTTP/2, flushed once per poll of the tunnel's task instead of once per frame.
//!
//! h2 flushes after every DATA frame, which would make a TLS record and a system call of each. Here a flush is only
//! recorded; the driver performs it when h2 has nothing more to write, so that the frames of many streams leave
//! together.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::TlsStream;

/// Bytes read in one poll of the tunnel's task. Decrypting them takes a third of a millisecond: without a bound a full
/// tunnel would occupy its thread until the socket is empty.
const TURN: u64 = 512 * 1024;

struct Inner {
    tls: TlsStream,
    received: u64,
    /// `received` at the beginning of this poll.
    turn: u64,
    unflushed: bool,
}

/// A handle to the connection: h2 has one, the driver another. One task uses both, so the lock is uncontended.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Mutex<Inner>>);

impl Transport {
    pub(crate) fn new(tls: TlsStream) -> Self {
        Self(Arc::new(Mutex::new(Inner { tls, received: 0, turn: 0, unflushed: false })))
    }

    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.0.lock().received
    }

    /// Ends the read budget of this poll: the next read begins a new one.
    pub(crate) fn end_turn(&self) {
        let mut inner = self.0.lock();
        inner.turn = inner.received;
    }

    /// Performs the flush that h2 has asked for. The task is woken when the socket accepts the rest.
    pub(crate) fn poll_flush_now(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if !inner.unflushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut inner.tls).poll_flush(cx);
        inner.unflushed = flushed.is_pending();
        flushed
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.received - inner.turn >= TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut inner.tls).poll_read(cx, buf);
        inner.received += (buf.filled().len() - before) as u64;
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().unflushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().tls).poll_shutdown(cx)
    }
}
