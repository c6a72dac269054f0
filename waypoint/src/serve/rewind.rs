//! A stream whose first bytes can be peeked at: later reads return them again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use transport::net::duplex::{Duplex, Queue};

use crate::wrapped::{Reading, Wrapped};

/// Room for one read: a request's head mostly comes in one piece, and is best seen as one.
const LOOK: usize = 2048;

/// The stream.
pub type Rewind<S> = Wrapped<S, First>;

/// The bytes that come again.
#[derive(Default)]
pub struct First {
    bytes: Bytes,
    /// Of what a copy has received, bytes that the stream itself has given out already.
    spent: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Rewind<S> {
    /// A stream at its beginning.
    pub fn new(stream: S) -> Self {
        Self { stream, reading: First::default() }
    }

    /// Reads until `enough` says something, or the peer is done. May be dropped at any time: what was read comes again.
    pub async fn look<T>(&mut self, enough: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        loop {
            if let Some(found) = enough(&self.reading.bytes) {
                return Ok(Some(found));
            }
            let mut more = BytesMut::with_capacity(LOOK);
            if self.stream.read_buf(&mut more).await? == 0 {
                return Ok(None);
            }
            let first = &mut self.reading.bytes;
            *first = if first.is_empty() { more.freeze() } else { [&first[..], &more[..]].concat().into() };
        }
    }

    /// What was read so far.
    pub fn seen(&self) -> &[u8] {
        &self.reading.bytes
    }
}

impl Reading for First {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return stream.poll_read(cx, buf);
        }
        let len = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes[..len]);
        self.bytes.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: Duplex> Duplex for Rewind<S> {
    const READS_AHEAD: bool = S::READS_AHEAD;
    const STOPS: bool = S::STOPS;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.reading.bytes.is_empty() {
            return self.stream.poll_receive(cx);
        }
        let first = std::mem::take(&mut self.reading.bytes);
        self.reading.spent += first.len();
        Poll::Ready(Ok(Some(first)))
    }

    fn consumed(&mut self, len: usize) {
        // Looking at bytes has consumed them already.
        let spent = len.min(self.reading.spent);
        self.reading.spent -= spent;
        if len > spent {
            self.stream.consumed(len - spent);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>> {
        self.stream.poll_send(cx, queue)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_finish(cx)
    }

    fn is_flushed(&self) -> bool {
        self.stream.is_flushed()
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_broken(cx)
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.stream.take_error()
    }

    fn reset(&mut self) {
        self.stream.reset();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn what_was_looked_at_comes_again() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b"hello world").await.unwrap();
        drop(far);
        let mut rewind = Rewind::new(near);
        let found = rewind.look(|bytes| (bytes.len() >= 5).then_some(bytes.len())).await.unwrap();
        assert!(found.is_some_and(|len| len >= 5));
        let mut all = String::new();
        rewind.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "hello world");
    }
}
