//! The receive buffer: many records are read at once and decrypted in place one by one.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::record::{Content, HEADER, LONGEST_RECORD, Opener, RecordError, record_len};
use super::scratch::{READ, give_read_buffer, take_read_buffer};

/// Received bytes. The large buffer is borrowed from the thread during a read; in between only the partial record at
/// the end is kept.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: Option<Box<[u8]>>,
    /// Decrypted data that has not been read.
    open: Range<usize>,
    /// Records that are still encrypted.
    sealed: Range<usize>,
    kept: Vec<u8>,
    early: Vec<u8>,
}

impl Inbox {
    /// Starts with what the handshake has read beyond its end: `early` is decrypted already, `sealed` is not.
    pub(crate) fn new(early: Vec<u8>, sealed: &[u8]) -> Self {
        Self { early, kept: sealed.to_vec(), ..Self::default() }
    }

    /// Decrypts the next record. Data goes into `buf` as far as it has room; other content is left for
    /// [`Inbox::take_message`]. `None` when there is no whole record, or `buf` is full.
    pub(crate) fn next(&mut self, opener: &mut Opener, buf: &mut ReadBuf<'_>) -> Result<Option<Content>, RecordError> {
        if buf.remaining() == 0 {
            return Ok(None);
        }
        if !self.early.is_empty() {
            let len = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..len]);
            self.early.drain(..len);
            return Ok(Some(Content::Data));
        }
        self.fetch();
        let Some(buffer) = &mut self.buffer else { return Ok(None) };
        if self.open.is_empty() {
            let Some(len) = record_len(&buffer[self.sealed.clone()])? else { return Ok(None) };
            if len > self.sealed.len() {
                return Ok(None);
            }
            let start = self.sealed.start;
            let (of, content) = opener.open(&mut buffer[start..start + len])?;
            self.sealed.start += len;
            self.open = start + HEADER..start + HEADER + content;
            if of != Content::Data {
                return Ok(Some(of));
            }
        }
        let len = self.open.len().min(buf.remaining());
        buf.put_slice(&buffer[self.open.start..self.open.start + len]);
        self.open.start += len;
        Ok(Some(Content::Data))
    }

    /// Takes the content of a record that was not data.
    pub(crate) fn take_message(&mut self) -> Vec<u8> {
        let open = std::mem::take(&mut self.open);
        self.buffer.as_ref().map(|buffer| buffer[open].to_vec()).unwrap_or_default()
    }

    /// One read from the socket into the free space.
    pub(crate) fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
    ) -> Poll<io::Result<usize>> {
        self.fetch();
        let buffer = self.buffer.get_or_insert_with(take_read_buffer);
        if self.sealed.is_empty() {
            self.sealed = 0..0;
        } else if READ - self.sealed.end < LONGEST_RECORD {
            // A partial record at the very end of the buffer.
            buffer.copy_within(self.sealed.clone(), 0);
            self.sealed = 0..self.sealed.len();
        }
        let mut room = ReadBuf::new(&mut buffer[self.sealed.end..]);
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.sealed.end += read;
        Poll::Ready(Ok(read))
    }

    /// Called after each poll: returns the buffer to the thread unless whole records are left in it.
    pub(crate) fn rest(&mut self) {
        if !self.open.is_empty() || self.sealed.len() >= LONGEST_RECORD {
            return;
        }
        if let Some(buffer) = self.buffer.take() {
            self.kept = buffer[self.sealed.clone()].to_vec();
            self.sealed = 0..0;
            give_read_buffer(buffer);
        }
    }

    /// Borrows a large buffer and copies the kept bytes into it.
    fn fetch(&mut self) {
        if !self.kept.is_empty() && self.buffer.is_none() {
            let mut buffer = take_read_buffer();
            buffer[..self.kept.len()].copy_from_slice(&self.kept);
            self.sealed = 0..self.kept.len();
            self.buffer = Some(buffer);
            self.kept = Vec::new();
        }
    }
}
