//! One stream in a tunnel, as an end of a copy: owned chunks, exact flow control, reset and end kept apart.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::baggage::Baggage;
use super::load::Place;
use crate::net::duplex::{Duplex, Queue};
use mesh::model::identity::Identity;

/// Upper bound in bytes of one `poll_write`.
const WRITE: usize = 64 * 1024;

/// An open stream, and what is known about the peer.
#[derive(Debug)]
pub struct Opened {
    /// The stream.
    pub stream: Stream,
    /// The peer's authenticated identity.
    pub peer: Identity,
    /// The labels of the destination workload, if the peer sent them.
    pub baggage: Option<Baggage>,
}

/// One stream in a tunnel. Dropped before both directions have ended, it is reset (`CANCEL`).
#[derive(Debug)]
pub struct Stream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    received: Bytes,
    /// Referenced by each chunk that h2 has not written yet.
    unsent: Arc<()>,
    place: Place,
}

impl Stream {
    pub(crate) fn new(send: SendStream<Bytes>, mut receive: RecvStream, mut place: Place) -> Self {
        place.take(receive.flow_control().clone());
        Self { send, receive, received: Bytes::new(), unsent: Arc::default(), place }
    }

    /// The bytes that may be sent now, at least one; pending without capacity.
    fn poll_capacity(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(wanted);
        loop {
            // Checked first: h2 wakes for an increase only, not for capacity that was there before.
            let capacity = self.send.capacity();
            if capacity > 0 {
                self.place.go();
                return Poll::Ready(Ok(capacity));
            }
            match self.send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(None) => return Poll::Ready(Err(self.refusal(cx))),
                Poll::Pending => {
                    self.place.wait();
                    return Poll::Pending;
                }
            }
        }
    }

    /// The error of a send on a stream that accepts no more.
    fn refusal(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => reset_for(reason),
            Poll::Ready(Err(error)) => broken(error),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }

    /// Whether the peer has responded and asked to stop sending (RFC 9113, 8.1): what is still written is dropped.
    fn takes_no_more(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.send.poll_reset(cx), Poll::Ready(Ok(Reason::NO_ERROR)))
    }
}

/// A chunk in flight: h2 drops it once it is written.
struct Unsent {
    chunk: Bytes,
    _of: Arc<()>,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

/// Maps the peer's reset to a socket error.
fn reset_for(reason: Reason) -> io::Error {
    let kind = match reason {
        // A complete response before the end of the request (RFC 9113, 8.1): nothing is broken.
        Reason::NO_ERROR => io::ErrorKind::BrokenPipe,
        // What a client sends when its connection was closed.
        Reason::CANCEL => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, reason.to_string())
}

/// Maps the failure of a stream to a socket error.
fn broken(error: h2::Error) -> io::Error {
    let kind = if error.is_reset() && error.reason() == Some(Reason::CANCEL) {
        io::ErrorKind::NotConnected
    } else if error.is_reset() {
        io::ErrorKind::ConnectionReset
    } else if error.is_io() || error.is_go_away() {
        io::ErrorKind::ConnectionAborted
    } else {
        io::ErrorKind::Other
    };
    io::Error::new(kind, error)
}

impl Duplex for Stream {
    const READS_AHEAD: bool = true;
    const STOPS: bool = true;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            return match ready!(self.receive.poll_data(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => continue,
                Some(Ok(chunk)) => Poll::Ready(Ok(Some(chunk))),
                // The peer has sent everything and asked to stop sending (RFC 9113, 8.1).
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) && error.is_reset() => {
                    Poll::Ready(Ok(None))
                }
                Some(Err(error)) => Poll::Ready(Err(broken(error))),
                None => Poll::Ready(Ok(None)),
            };
        }
    }

    fn consumed(&mut self, len: usize) {
        // Fails only for more than was received, or on a closed stream.
        let _ = self.receive.flow_control().release_capacity(len);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>> {
        let capacity = ready!(self.poll_capacity(cx, queue.len()))?;
        let chunk = queue.take(capacity);
        let len = chunk.len();
        let chunk = Unsent { chunk, _of: Arc::clone(&self.unsent) };
        match self.send.send_data(Bytes::from_owner(chunk), false) {
            Ok(()) => Poll::Ready(Ok(len)),
            Err(_) => Poll::Ready(Err(self.refusal(cx))),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(self.refusal(cx))),
        }
    }

    fn is_flushed(&self) -> bool {
        // No empty frame is sent as a marker: h2 accepts a hundred of them per connection, and then closes it.
        Arc::strong_count(&self.unsent) == 1
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(reset_for(reason)),
            Err(error) => Poll::Ready(broken(error)),
        }
    }

    fn take_error(&mut self) -> Option<io::Error> {
        None
    }

    fn reset(&mut self) {
        // A proxy treats any error of the TCP connection as CONNECT_ERROR (RFC 9113, 8.5).
        self.send.send_reset(Reason::CONNECT_ERROR);
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            match ready!(self.poll_receive(cx))? {
                Some(chunk) => self.received = chunk,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.received.len().min(buf.remaining());
        buf.put_slice(&self.received[..len]);
        self.received.advance(len);
        self.consumed(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let capacity = match ready!(self.poll_capacity(cx, buf.len().min(WRITE))) {
            Ok(capacity) => capacity,
            Err(_) if self.takes_no_more(cx) => return Poll::Ready(Ok(buf.len())),
            Err(error) => return Poll::Ready(Err(error)),
        };
        let len = capacity.min(buf.len());
        match self.send.send_data(Bytes::copy_from_slice(&buf[..len]), false) {
            Err(_) if !self.takes_no_more(cx) => Poll::Ready(Err(self.refusal(cx))),
            _ => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The tunnel's task sends as soon as it can.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll_finish(cx)) {
            Err(_) if self.takes_no_more(cx) => Poll::Ready(Ok(())),
            finished => Poll::Ready(finished),
        }
    }
}
