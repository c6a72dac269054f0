//! What can be copied: the trait, and the bytes that are under way.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

/// One end of a connection that is copied to another end.
///
/// Only one task uses it; each `poll_` function remembers that task's waker until it was ready.
pub trait Duplex: Unpin {
    /// Whether received bytes may be taken before those in front of them were passed on. A tunnel's can: its peer sends no
    /// more than the window that [`Duplex::consumed`] gives back. A socket's cannot: nothing else would hold it back.
    const READS_AHEAD: bool;
    /// Whether a peer can be told, by dropping this end after [`Duplex::poll_finish`], that what it still sends is not wanted,
    /// and gets all the same what was sent to it: `RST_STREAM` with `NO_ERROR` does that (RFC 9113, 8.1). A socket that is
    /// closed under its peer's bytes answers with a reset.
    const STOPS: bool;

    /// The next bytes, never none; `None` when the peer will send no more. `NotConnected` is that it has closed the connection,
    /// which does no harm if it had got all that there was for it.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// `len` received bytes have been passed on.
    fn consumed(&mut self, len: usize);

    /// Sends from the front of `queue`, which is not empty; returns how many bytes, at least one.
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>>;

    /// Tells the peer that no more will be sent.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether what was sent has left, so that a reset does not overtake it.
    fn is_flushed(&self) -> bool;

    /// Whether the peer has broken the connection, asked for after its last byte was received. Here and of
    /// [`Duplex::poll_send`], `BrokenPipe` is that it takes no more and means no harm, `NotConnected` that it has closed
    /// the connection, which does no harm if there was nothing to take.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Looked at now and then while half-closed: an error that wakes nobody.
    fn take_error(&mut self) -> Option<io::Error>;

    /// Cuts the connection so that the peer knows it was cut.
    fn reset(&mut self);
}

/// Chunks below this size are put together, so that a peer's many small frames cost their bytes and not their number.
const SMALL: usize = 1024;
/// Room for small chunks put together.
const ROOM: usize = 4096;
/// Most buffers of one write.
pub(crate) const SLICES: usize = 64;

/// Bytes that were received and are to be sent, in order.
#[derive(Debug, Default)]
pub struct Queue {
    chunks: VecDeque<Bytes>,
    /// Apart, because most queues of most connections have none.
    tail: Option<Box<BytesMut>>,
    len: usize,
}

impl Queue {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds at the end. Small chunks behind others are copied together.
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

    /// Takes at most `most` bytes from the front, from one chunk.
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

    /// The front as buffers for one write.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let tail = self.tail.as_ref().map(|tail| &tail[..]);
        let all = self.chunks.iter().map(|chunk| &chunk[..]).chain(tail);
        all.zip(slices.iter_mut()).map(|(chunk, slice)| *slice = IoSlice::new(chunk)).count()
    }

    /// Drops `len` bytes from the front.
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

    /// An idle connection holds no buffer.
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
