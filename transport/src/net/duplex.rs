//! [`Duplex`], one end of a copy, and [`Queue`], the bytes in flight.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

/// One end of a connection that is copied to another end.
///
/// Used by one task only; each `poll_` function registers that task's waker when it returns `Pending`.
pub trait Duplex: Unpin {
    /// Whether to keep receiving while earlier bytes wait to be sent. A tunnel may: its peer is bounded by the window
    /// that [`Duplex::consumed`] releases. A socket may not: nothing else would apply back-pressure.
    const READS_AHEAD: bool;
    /// Whether dropping this end after [`Duplex::poll_finish`] tells the peer to stop sending and still delivers what
    /// was sent to it, as `RST_STREAM` with `NO_ERROR` does (RFC 9113, 8.1). A socket that is closed with unread bytes
    /// sends a reset.
    const STOPS: bool;

    /// The next bytes, never empty; `None` after the peer's FIN. `NotConnected` means that the peer has closed the
    /// connection, which is an orderly end if it had received everything.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// `len` received bytes were forwarded: releases flow-control window.
    fn consumed(&mut self, len: usize);

    /// Sends from the front of `queue`, which is not empty; returns the number of bytes sent, at least one.
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>>;

    /// Sends the FIN.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether everything sent has left, so that a reset cannot overtake it.
    fn is_flushed(&self) -> bool;

    /// Resolves when the peer has broken the connection; polled after its FIN. Here and in [`Duplex::poll_send`],
    /// `BrokenPipe` means that the peer accepts no more but ended in order, `NotConnected` that it has closed the
    /// connection, which is an orderly end if nothing was to be sent.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// A pending error that woke no task; asked for periodically while half-closed.
    fn take_error(&mut self) -> Option<io::Error>;

    /// Resets the connection: the peer sees an error, not an end.
    fn reset(&mut self);
}

/// Chunks below this many bytes are coalesced, so that many small frames of a peer cost their bytes and not their
/// number.
const SMALL: usize = 1024;
/// Capacity in bytes of a coalesced chunk.
const ROOM: usize = 4096;
/// Upper bound of buffers in one vectored write.
pub(crate) const SLICES: usize = 64;

/// Received bytes that wait to be sent, in order.
#[derive(Debug, Default)]
pub struct Queue {
    chunks: VecDeque<Bytes>,
    /// The coalesced chunk; boxed because most queues have none.
    tail: Option<Box<BytesMut>>,
    len: usize,
}

impl Queue {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a chunk. Small chunks behind others are coalesced.
    pub fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        if chunk.len() < SMALL && !(self.chunks.is_empty() && self.tail.is_none()) {
            if self.tail.as_ref().is_some_and(|tail| tail.capacity() - tail.len() < chunk.len()) {
                self.seal_tail();
            }
            let tail = self.tail.get_or_insert_with(|| Box::new(BytesMut::with_capacity(ROOM)));
            tail.extend_from_slice(&chunk);
        } else {
            self.seal_tail();
            self.chunks.push_back(chunk);
        }
    }

    /// Removes up to `most` bytes of the first chunk.
    pub fn take(&mut self, most: usize) -> Bytes {
        if self.chunks.is_empty() {
            self.seal_tail();
        }
        let Some(first) = self.chunks.front_mut() else { return Bytes::new() };
        let taken =
            if first.len() <= most { self.chunks.pop_front().unwrap_or_default() } else { first.split_to(most) };
        self.len -= taken.len();
        self.release_if_empty();
        taken
    }

    /// The first chunks as buffers of a vectored write; returns how many.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let tail = self.tail.as_ref().map(|tail| &tail[..]);
        let all = self.chunks.iter().map(|chunk| &chunk[..]).chain(tail);
        all.zip(slices.iter_mut()).map(|(chunk, slice)| *slice = IoSlice::new(chunk)).count()
    }

    /// Removes `len` bytes from the front.
    pub fn advance(&mut self, mut len: usize) {
        while len > 0 {
            let taken = self.take(len).len();
            if taken == 0 {
                return;
            }
            len -= taken;
        }
    }

    fn seal_tail(&mut self) {
        if let Some(tail) = self.tail.take() {
            self.chunks.push_back(tail.freeze());
        }
    }

    /// An idle connection holds no memory.
    fn release_if_empty(&mut self) {
        if self.len == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn many_small_chunks_become_few() {
        let mut queue = Queue::default();
        for n in 0..10_000_u32 {
            queue.push(Bytes::copy_from_slice(&n.to_be_bytes()));
        }
        assert_eq!(queue.len(), 40_000);
        assert!(queue.chunks.len() <= 40_000 / ROOM + 2, "{}", queue.chunks.len());
    }

    #[test]
    fn a_lone_chunk_is_not_copied() {
        let mut queue = Queue::default();
        let chunk = Bytes::from_static(b"hello");
        queue.push(chunk.clone());
        assert_eq!(queue.take(100).as_ptr(), chunk.as_ptr());
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_they_came(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 0..40),
            takes in prop::collection::vec(1_usize..5000, 1..400),
        ) {
            let expected: Vec<u8> = chunks.concat();
            let mut queue = Queue::default();
            let mut out = Vec::new();
            let mut takes = takes.iter().cycle();
            let drain = |queue: &mut Queue, out: &mut Vec<u8>, most: usize| {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let n = queue.slices(&mut slices);
                let front: Vec<u8> = slices[..n].iter().flat_map(|slice| slice.to_vec()).take(most).collect();
                queue.advance(front.len());
                out.extend(front);
            };
            for (n, chunk) in chunks.into_iter().enumerate() {
                queue.push(Bytes::from(chunk));
                if n % 3 == 0 {
                    drain(&mut queue, &mut out, *takes.next().unwrap());
                }
            }
            while !queue.is_empty() {
                drain(&mut queue, &mut out, *takes.next().unwrap());
            }
            prop_assert_eq!(out, expected);
            prop_assert_eq!(queue.chunks.capacity(), 0);
        }
    }
}
