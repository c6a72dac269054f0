//! A stream from an HTTP/2 backend that counts HEADERS frames, which limits interim responses.
//!
//! hyper drops interim responses of HTTP/2 silently, and a backend may send them without end. Each request grants a
//! number of HEADERS frames; the connection is closed when the backend has sent more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::interim::MOST;
use crate::wrapped::{Reading, Wrapped};

/// The type of HEADERS (RFC 9113, 6.2).
const HEADERS: u8 = 1;
/// Bytes of a frame's own head (RFC 9113, 4.1).
const FRAME: usize = 9;

/// The HEADERS frames that the requests of a connection have granted, and whether the backend has sent more.
#[derive(Debug, Default)]
pub struct Grant {
    heads: AtomicU64,
    exceeded: AtomicBool,
}

impl Grant {
    /// A request begins: its interim responses, its response, and its trailers.
    pub fn request(&self) {
        self.heads.fetch_add(u64::from(MOST) + 2, Ordering::Relaxed);
    }

    /// Whether the backend has sent more.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }
}

/// The stream.
pub type Counted<S> = Wrapped<S, Heads>;

/// What has come on it.
pub struct Heads {
    frames: Frames,
    heads: u64,
    grant: Arc<Grant>,
}

impl<S> Counted<S> {
    /// Wraps a stream.
    pub fn new(stream: S, grant: Arc<Grant>) -> Self {
        Self { stream, reading: Heads { frames: Frames::default(), heads: 0, grant } }
    }
}

/// The position within the frames of a connection.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; FRAME],
    /// Bytes of it that are there.
    known: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
}

impl Frames {
    /// Takes the next bytes in; how many HEADERS frames begin in them.
    fn follow(&mut self, mut bytes: &[u8]) -> u64 {
        let mut heads = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - skipped, &bytes[skipped..]);
                continue;
            }
            let taken = (FRAME - self.known).min(bytes.len());
            self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            (self.known, bytes) = (self.known + taken, &bytes[taken..]);
            if self.known == FRAME {
                let [a, b, c, kind, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.known = 0;
                heads += u64::from(kind == HEADERS);
            }
        }
        heads
    }
}

impl Reading for Heads {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(stream.poll_read(cx, buf))?;
        self.heads += self.frames.follow(&buf.filled()[before..]);
        if self.heads > self.grant.heads.load(Ordering::Relaxed) {
            self.grant.exceeded.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too many interim responses")));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn heads_are_counted_wherever_reads_end() {
        // A payload that looks like a head is none.
        let all = [frame(4, b""), frame(1, b"abc"), frame(0, &frame(1, b"")), frame(1, b""), frame(9, b"x")].concat();
        for size in 1..all.len() {
            let mut frames = Frames::default();
            let heads: u64 = all.chunks(size).map(|chunk| frames.follow(chunk)).sum();
            assert_eq!(heads, 2, "reads of {size}");
        }
    }

    #[tokio::test]
    async fn a_backend_that_sends_more_heads_than_were_granted_is_cut() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let grant = Arc::<Grant>::default();
        let mut counted = Counted::new(near, Arc::clone(&grant));
        grant.request();
        let mut bytes = [0; FRAME];
        for _ in 0..MOST + 2 {
            far.write_all(&frame(1, b"")).await.unwrap();
            counted.read_exact(&mut bytes).await.unwrap();
        }
        assert!(!grant.is_exceeded());
        far.write_all(&frame(1, b"")).await.unwrap();
        assert!(counted.read_exact(&mut bytes).await.is_err() && grant.is_exceeded());
    }
}
