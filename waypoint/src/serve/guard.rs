//! What clients send over HTTP/1, looked at before it is parsed. In the place of what [`Framing`] refuses the parser gets a
//! header that has the request answered with 400; where none can stand, something that it must refuse itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::Framing;
use crate::hygiene::REFUSED;

/// The stream.
pub struct Guard<S> {
    stream: S,
    framing: Framing,
    /// What is still to be read in place of what was refused.
    instead: Option<Instead>,
    switched: Arc<AtomicBool>,
}

impl<S> Guard<S> {
    /// Guards a stream until `switched` says that it is no longer HTTP.
    pub fn new(stream: S, switched: Arc<AtomicBool>) -> Self {
        Self { stream, framing: Framing::default(), instead: None, switched }
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

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_refused_head_ends_in_a_word_about_it_or_in_what_no_parser_takes() {
        let (mut far, near) = tokio::io::duplex(1024);
        let switched = Arc::new(AtomicBool::new(false));
        let mut guard = Guard::new(near, Arc::clone(&switched));
        far.write_all(b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nG").await.unwrap();
        let mut bytes = [0xff; 128];
        let read = guard.read(&mut bytes).await.unwrap();
        let said = b"POST / HTTP/1.1\r\ncontent-length: 1\r\nx-culvert-refused: length-and-coding\r\nconnection: close\r\n\r\n";
        assert_eq!(&bytes[..read], said);
        assert!(futures_util::FutureExt::now_or_never(guard.read(&mut bytes)).is_none());

        let (mut far, near) = tokio::io::duplex(1024);
        let mut guard = Guard::new(near, switched);
        far.write_all(b"GET / HTTP/1.1\nhost: a\n\n").await.unwrap();
        let read = guard.read(&mut bytes).await.unwrap();
        assert_eq!(&bytes[..read], POISON);
        assert!(guard.read(&mut bytes).await.is_err());
    }

    #[tokio::test]
    async fn what_is_not_http_any_more_passes() {
        let (mut far, near) = tokio::io::duplex(1024);
        let switched = Arc::new(AtomicBool::new(true));
        let mut guard = Guard::new(near, switched);
        far.write_all(b"\n\n\0 anything").await.unwrap();
        let mut bytes = [0; 128];
        assert_eq!(guard.read(&mut bytes).await.unwrap(), 12);
    }
}
