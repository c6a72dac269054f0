//! A TCP connection as one end of a copy.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffers::{Buffers, What};
use super::duplex::{Duplex, Queue, SLICES};
use super::socket::reset_on_close;

/// Sizes of the read buffer in bytes: the first serves requests and responses, the last bulk transfers.
const SIZES: [usize; 4] = [4 * 1024, 16 * 1024, 64 * 1024, 256 * 1024];
/// Index in `SIZES` from which on the connection counts as streaming.
const STREAMS: u8 = 2;
/// The rest of a buffer is reused if it has at least this many bytes.
const WORTH_KEEPING: usize = 2 * 1024;

/// A TCP connection whose read buffer grows while it streams and is released while it is idle.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    /// Spare capacity for the next read.
    spare: BytesMut,
    /// The previous buffer, reused once its bytes have been forwarded.
    before: BytesMut,
    size: u8,
    /// Where large buffers are accounted; `None` does not account for them.
    buffers: Option<Arc<Buffers>>,
    /// Bytes reserved there; 0 while no large buffer is held.
    taken: u32,
    /// Whether an error was seen. The kernel reports it once; afterwards the socket reads as if its peer had sent a
    /// FIN.
    failed: bool,
}

impl Tcp {
    /// A connection without accounting for its buffers.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            spare: BytesMut::new(),
            before: BytesMut::new(),
            size: 0,
            buffers: None,
            taken: 0,
            failed: false,
        }
    }

    /// Accounts for large read buffers in those of a workload; at its bound, buffers stay small.
    #[must_use]
    pub fn within(mut self, buffers: &Arc<Buffers>) -> Self {
        self.buffers = Some(Arc::clone(buffers));
        self
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether reads fill large buffers, so that splicing pays off.
    pub(super) fn streams(&self) -> bool {
        self.size >= STREAMS
    }

    /// Back to the smallest buffer.
    pub(super) fn streams_no_more(&mut self) {
        self.size = 0;
    }

    /// Reserves the bytes of two buffers of the current size. Beyond the bound, the buffers stay small.
    fn reserve(&mut self) {
        let Some(buffers) = &self.buffers else { return };
        let (needed, taken) = (large(self.size), self.taken as usize);
        if needed > taken && !buffers.take(What::Large, needed - taken) {
            self.size = STREAMS - 1;
        } else if needed != taken {
            buffers.release(What::Large, taken.saturating_sub(needed));
            self.taken = needed as u32;
        }
    }

    /// Makes room for a read. While the connection streams, two buffers alternate without allocation.
    fn make_room(&mut self) {
        self.reserve();
        let size = SIZES[usize::from(self.size)];
        if self.spare.capacity() >= WORTH_KEEPING || self.spare.try_reclaim(size) {
            return;
        }
        std::mem::swap(&mut self.spare, &mut self.before);
        if !self.spare.try_reclaim(size) {
            self.spare = BytesMut::with_capacity(size);
        }
    }

    /// Records an error. `EPIPE` is what a reset after FIN gives: the peer has ended in order.
    pub(super) fn note(&mut self, error: io::Error) -> io::Error {
        self.failed |= error.kind() != io::ErrorKind::BrokenPipe;
        error
    }

    /// The result of reading the end of the stream: an error if one was seen before.
    pub(super) fn ended(&self) -> io::Result<()> {
        if self.failed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    fn release(&mut self) {
        (self.spare, self.before) = (BytesMut::new(), BytesMut::new());
        if let Some(buffers) = self.buffers.as_ref().filter(|_| self.taken > 0) {
            buffers.release(What::Large, self.taken as usize);
            self.taken = 0;
        }
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

impl Drop for Tcp {
    fn drop(&mut self) {
        self.release();
    }
}

/// The bytes to account for two buffers of a size.
fn large(size: u8) -> usize {
    if size >= STREAMS { 2 * SIZES[usize::from(size)] } else { 0 }
}

impl Duplex for Tcp {
    const READS_AHEAD: bool = false;
    const STOPS: bool = false;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        // Wait for readability before allocating: an idle connection has no buffer.
        match self.stream.poll_read_ready(cx) {
            Poll::Ready(ready) => ready.map_err(|error| self.note(error))?,
            Poll::Pending => {
                self.release();
                return Poll::Pending;
            }
        }
        self.make_room();
        let room = self.spare.spare_capacity_mut();
        let available = room.len();
        let mut buffer = ReadBuf::uninit(room);
        // Not try_read: after a short read poll_read knows that the socket is empty, which saves the call that would
        // say so.
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        let read = buffer.filled().len();
        match polled {
            Poll::Ready(Ok(())) if read > 0 => {}
            Poll::Ready(Ok(())) => {
                self.release();
                return Poll::Ready(self.ended().map(|()| None));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.note(error))),
            Poll::Pending => {
                self.release();
                return Poll::Pending;
            }
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
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]));
        let sent = sent.map_err(|error| self.note(error))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        queue.advance(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_flushed(&self) -> bool {
        unsent(&self.stream) == 0
    }

    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    fn take_error(&mut self) -> Option<io::Error> {
        let error = self.stream.take_error().ok().flatten()?;
        Some(self.note(error))
    }

    fn reset(&mut self) {
        // Fails on a socket that is closed already.
        let _ = reset_on_close(&self.stream);
    }
}

#[expect(unsafe_code, reason = "a buffer that was read into has to be told its length")]
fn set_read(buffer: &mut BytesMut, read: usize) {
    // SAFETY: the caller has read exactly `read` bytes into the spare capacity of `buffer`, which begins at its length.
    unsafe { buffer.set_len(buffer.len() + read) }
}

/// Bytes that the peer has not acknowledged, which a reset destroys (`SIOCOUTQ`, tcp(7)).
#[expect(unsafe_code, reason = "an ioctl that has no wrapper")]
fn unsent(stream: &TcpStream) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: the descriptor is open as long as `stream` is, and the kernel writes one int.
    let asked = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if asked == 0 { bytes } else { 0 }
}
