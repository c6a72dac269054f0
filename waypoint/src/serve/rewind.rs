//! A stream whose first bytes were looked at: they come again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use transport::net::duplex::{Duplex, Queue};

/// Room for one read: a request's head mostly comes in one piece, and is best seen as one.
const LOOK: usize = 2048;

/// The stream.
pub struct Rewind<S> {
    stream: S,
    first: Bytes,
    /// Of what a copy has received, bytes that the stream itself has given out already.
    spent: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Rewind<S> {
    /// A stream at its beginning.
    pub fn new(stream: S) -> Self {
        Self { stream, first: Bytes::new(), spent: 0 }
    }

    /// Reads until `enough` says something, or the peer is done. May be dropped at any time: what was read comes again.
    pub async fn look<T>(&mut self, enough: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        loop {
            if let Some(found) = enough(&self.first) {
                return Ok(Some(found));
            }
            let mut more = BytesMut::with_capacity(LOOK);
            if self.stream.read_buf(&mut more).await? == 0 {
                return Ok(None);
            }
            self.first =
                if self.first.is_empty() { more.freeze() } else { [&self.first[..], &more[..]].concat().into() };
        }
    }

    /// What was read so far.
    pub fn seen(&self) -> &[u8] {
        &self.first
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..len]);
        self.first.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Duplex> Duplex for Rewind<S> {
    const READS_AHEAD: bool = S::READS_AHEAD;
    const STOPS: bool = S::STOPS;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.first.is_empty() {
            return self.stream.poll_receive(cx);
        }
        let first = std::mem::take(&mut self.first);
        self.spent += first.len();
        Poll::Ready(Ok(Some(first)))
    }

    fn consumed(&mut self, len: usize) {
        // Looking at bytes has consumed them already.
        let spent = len.min(self.spent);
        self.spent -= spent;
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
