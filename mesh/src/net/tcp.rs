//! TCP as one end of a copy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::duplex::{Duplex, Queue, SLICES};
use super::socket::reset_on_close;

/// Sizes of the read buffer: the first serves requests and answers, the last a stream.
const SIZES: [usize; 4] = [4 * 1024, 16 * 1024, 64 * 1024, 256 * 1024];
/// From this size on, reads are those of a stream.
const STREAMS: u8 = 2;
/// What is left of a buffer is used again if it is at least this.
const WORTH_KEEPING: usize = 2 * 1024;

/// A TCP connection with a read buffer that grows while it streams and is gone while it is idle.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    /// Room for the next read.
    spare: BytesMut,
    /// The buffer before that: used again once its bytes have been passed on.
    before: BytesMut,
    size: u8,
}

impl Tcp {
    /// Wraps a connection.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, spare: BytesMut::new(), before: BytesMut::new(), size: 0 }
    }

    /// The connection.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether reads fill large buffers.
    pub(super) fn streams(&self) -> bool {
        self.size >= STREAMS
    }

    /// Begins with a small buffer again.
    pub(super) fn streams_no_more(&mut self) {
        self.size = 0;
    }

    /// Makes room for a read. While bytes stream two buffers take turns and the allocator is not asked.
    fn make_room(&mut self) {
        let size = SIZES[usize::from(self.size)];
        if self.spare.capacity() >= WORTH_KEEPING || self.spare.try_reclaim(size) {
            return;
        }
        std::mem::swap(&mut self.spare, &mut self.before);
        if !self.spare.try_reclaim(size) {
            self.spare = BytesMut::with_capacity(size);
        }
    }

    fn release(&mut self) {
        (self.spare, self.before) = (BytesMut::new(), BytesMut::new());
    }

    fn adapt(&mut self, read: usize, room: usize) {
        let size = SIZES[usize::from(self.size)];
        if read == room && room == size && usize::from(self.size) + 1 < SIZES.len() {
            self.size += 1;
        } else if read < size / 8 && self.size > 0 {
            self.size -= 1;
        }
    }
}

impl Duplex for Tcp {
    const READS_AHEAD: bool = false;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        // Readable before a buffer is made: while nothing comes there is none.
        match self.stream.poll_read_ready(cx) {
            Poll::Ready(ready) => ready?,
            Poll::Pending => {
                self.release();
                return Poll::Pending;
            }
        }
        self.make_room();
        let room = self.spare.spare_capacity_mut();
        let available = room.len();
        let mut buffer = ReadBuf::uninit(room);
        // Not try_read: after a short read this one knows that the socket is empty, and saves the call that says so.
        if Pin::new(&mut self.stream).poll_read(cx, &mut buffer)?.is_pending() {
            self.release();
            return Poll::Pending;
        }
        let read = buffer.filled().len();
        if read == 0 {
            self.release();
            return Poll::Ready(Ok(None));
        }
        set_read(&mut self.spare, read);
        let chunk = self.spare.split().freeze();
        self.adapt(read, available);
        Poll::Ready(Ok(Some(chunk)))
    }

    fn consumed(&mut self, _: usize) {}

    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = queue.slices(&mut slices);
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        queue.advance(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.stream.take_error().ok().flatten()
    }

    fn reset(&mut self) {
        // A socket that takes no option is closed already.
        let _ = reset_on_close(&self.stream);
    }
}

#[expect(unsafe_code, reason = "a buffer that was read into has to be told its length")]
fn set_read(buffer: &mut BytesMut, read: usize) {
    // SAFETY: the caller has read exactly `read` bytes into the spare capacity of `buffer`, which begins at its length.
    unsafe { buffer.set_len(buffer.len() + read) }
}
