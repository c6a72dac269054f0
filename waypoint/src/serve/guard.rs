//! What clients send over HTTP/1, looked at before it is parsed, and what hyper leaves undone between the client and
//! it.
//!
//! In the place of what [`Framing`] refuses the parser gets a header that has the request answered with 400; where none
//! can stand, something that it must refuse itself. Interim responses are written when hyper has nothing to write. The
//! client's end is not the end of its request: it may have closed its half only, and is gone when its stream is reset.
//! After our own end what the client still sends is read and forgotten for a while, so that it does not lose the answer
//! over it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use transport::net::duplex::Duplex;

use super::framing::Framing;
use crate::request::hygiene::REFUSED;
use crate::upstream::Interim;

/// The stream.
pub struct Guard<S> {
    stream: S,
    framing: Framing,
    /// What is still to be read in place of what was refused.
    instead: Option<Instead>,
    switched: Arc<AtomicBool>,
    interim: Arc<Interim>,
    /// What is left of interim responses that are being written.
    aside: Bytes,
    /// Something was written since the last flush.
    wrote: bool,
    /// The client has ended its half.
    ended: bool,
    /// We have ended ours.
    finished: bool,
    linger: Option<Linger>,
}

/// Waiting for the client to end, too (RFC 9112, 9.6).
struct Linger {
    end: Instant,
    timer: Pin<Box<Sleep>>,
}

/// How long a client may go on sending after our end of the connection.
const LINGER: Duration = Duration::from_secs(10);
/// Idle timeout during that time.
const SILENCE: Duration = Duration::from_secs(2);
/// Most pieces that one poll reads.
const PIECES: usize = 32;

impl<S> Guard<S> {
    /// Guards a stream until `switched` says that it is no longer HTTP.
    pub fn new(stream: S, switched: Arc<AtomicBool>, interim: Arc<Interim>) -> Self {
        Self {
            stream,
            framing: Framing::default(),
            instead: None,
            switched,
            interim,
            aside: Bytes::new(),
            wrote: false,
            ended: false,
            finished: false,
            linger: None,
        }
    }
}

impl<S: Duplex + AsyncWrite + Unpin> Guard<S> {
    /// Writes what is left of interim responses whose first byte was written.
    fn poll_aside(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.aside.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.aside))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.aside.advance(written);
            if self.aside.is_empty() {
                self.interim.taken();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and discards what the client still sends, until it closes or the timeout expires.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let linger = self
            .linger
            .get_or_insert_with(|| Linger { end: now + LINGER, timer: Box::pin(sleep_until(now + SILENCE)) });
        for _ in 0..PIECES {
            match self.stream.poll_receive(cx) {
                Poll::Ready(Ok(Some(piece))) => {
                    self.stream.consumed(piece.len());
                    linger.timer.as_mut().reset(linger.end.min(now + SILENCE));
                }
                Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.timer.as_mut().poll(cx).map(Ok),
            }
        }
        if now >= linger.end {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

struct Instead {
    bytes: Vec<u8>,
    given: usize,
    /// Whether the request can be answered; the parser answers otherwise.
    answered: bool,
}

impl Instead {
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.bytes[self.given..];
        let now = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..now]);
        self.given += now;
    }
}

/// A byte that is allowed nowhere in a head and in no chunk's size, and the end of the head: parsers may wait for that.
const POISON: &[u8] = b"\0\r\n\r\n";

impl<S: Duplex + AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(instead) = &mut self.instead {
            if instead.given < instead.bytes.len() {
                instead.give(buf);
                return Poll::Ready(Ok(()));
            }
            // The connection ends with the answer; the end of what it reads could overtake that.
            return if instead.answered { Poll::Pending } else { Poll::Ready(Err(io::ErrorKind::InvalidData.into())) };
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.ended |= buf.filled().len() == before && buf.remaining() > 0;
        if self.switched.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        if let Err(stop) = self.framing.follow(&buf.filled()[before..]) {
            tracing::debug!("a request is refused: {:?}", stop.why);
            buf.set_filled(before + stop.good);
            let why = stop.why.as_str();
            let said = |then: &str| format!("{then}{REFUSED}: {why}\r\nconnection: close\r\n\r\n").into_bytes();
            let bytes = stop.then.map_or_else(|| POISON.to_vec(), said);
            let mut instead = Instead { bytes, given: 0, answered: stop.then.is_some() };
            // At least one byte has room: what was refused stood here.
            instead.give(buf);
            self.instead = Some(instead);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Duplex + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_aside(cx))?;
        self.wrote = true;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_aside(cx))?;
        self.wrote = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let switched = self.switched.load(Ordering::Relaxed);
        if !switched {
            // Whoever flushes has written all that it had: nothing is torn apart here.
            ready!(self.poll_aside(cx))?;
            while let Some(interim) = self.interim.take() {
                (self.aside, self.wrote) = (interim, true);
                ready!(self.poll_aside(cx))?;
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // A request that waits for its answer: hyper does not look at what its client does meanwhile.
        if !std::mem::take(&mut self.wrote)
            && !switched
            && !self.finished
            && let Poll::Ready(error) = self.stream.poll_broken(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            ready!(self.poll_aside(cx))?;
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.finished = true;
        }
        if self.ended || self.switched.load(Ordering::Relaxed) { Poll::Ready(Ok(())) } else { self.poll_linger(cx) }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
