//! TCP as one end of a copy.

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
    /// Where large buffers are taken from; without it they are not counted.
    buffers: Option<Arc<Buffers>>,
    /// How much was taken: nothing while no buffer is held.
    taken: u32,
    /// Whether an error was seen. The kernel tells it once; after that the socket reads as if its peer had ended in peace.
    failed: bool,
}

impl Tcp {
    /// Wraps a connection.
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

    /// Takes large read buffers from those of a workload, as long as there are some.
    #[must_use]
    pub fn within(mut self, buffers: &Arc<Buffers>) -> Self {
        self.buffers = Some(Arc::clone(buffers));
        self
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

    /// Takes what two buffers of the present size need of those that are counted. If there is not so much, reads stay small.
    fn reserve(&mut self) {
        let Some(buffers) = &self.buffers else { return };
        let (needed, taken) = (large(self.size), self.taken as usize);
        if needed > taken && !buffers.take(What::Large, needed - taken) {
            self.size = STREAMS - 1;
        } else if needed != taken {
            buffers.give_back(What::Large, taken.saturating_sub(needed));
            self.taken = needed as u32;
        }
    }

    /// Makes room for a read. While bytes stream two buffers take turns and the allocator is not asked.
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

    /// An error was seen. `EPIPE` is that of a reset after FIN: the peer has ended in peace.
    pub(super) fn note(&mut self, error: io::Error) -> io::Error {
        self.failed |= error.kind() != io::ErrorKind::BrokenPipe;
        error
    }

    /// The end of the stream, as it is read.
    pub(super) fn ended(&self) -> io::Result<()> {
        if self.failed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    fn release(&mut self) {
        (self.spare, self.before) = (BytesMut::new(), BytesMut::new());
        if let Some(buffers) = self.buffers.as_ref().filter(|_| self.taken > 0) {
            buffers.give_back(What::Large, self.taken as usize);
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

/// What two buffers of a size take of those that are counted.
fn large(size: u8) -> usize {
    if size >= STREAMS { 2 * SIZES[usize::from(size)] } else { 0 }
}

impl Duplex for Tcp {
    const READS_AHEAD: bool = false;
    const STOPS: bool = false;

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        // Readable before a buffer is made: while nothing comes there is none.
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
        // Not try_read: after a short read this one knows that the socket is empty, and saves the call that says so.
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
        // A socket that takes no option is closed already.
        let _ = reset_on_close(&self.stream);
    }
}

#[expect(unsafe_code, reason = "a buffer that was read into has to be told its length")]
fn set_read(buffer: &mut BytesMut, read: usize) {
    // SAFETY: the caller has read exactly `read` bytes into the spare capacity of `buffer`, which begins at its length.
    unsafe { buffer.set_len(buffer.len() + read) }
}

/// Bytes that the peer has not acknowledged: a reset destroys them (`SIOCOUTQ`, tcp(7)).
#[expect(unsafe_code, reason = "an ioctl that has no wrapper")]
fn unsent(stream: &TcpStream) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: the descriptor is open as long as `stream` is, and the kernel writes one int.
    let asked = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if asked == 0 { bytes } else { 0 }
}
