//! The send buffer: encrypted records on their way to the socket, and the record that is being filled.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::record::{Content, HEADER, LONGEST_CONTENT, OVERHEAD, RecordError, Sealer};
use super::scratch::{give_write_buffer, take_write_buffer};

/// One buffer: written bytes, encrypted bytes, then the content of the record that is being filled.
///
/// ```text
/// |  written  |  sealed records  | room for a header | content |     room     |
/// 0         sent              sealed                                         WRITE
/// ```
#[derive(Default)]
pub(crate) struct Outbox {
    buffer: Option<Box<[u8]>>,
    sent: usize,
    sealed: usize,
    content: usize,
    closed: bool,
}

impl Outbox {
    /// Takes bytes from the front of `data`; 0 when there is no room. Whole records are encrypted straight from `data`;
    /// only the rest is copied, to be sent with what follows.
    pub(crate) fn collect(&mut self, sealer: &mut Sealer, data: &[u8]) -> Result<usize, RecordError> {
        let buffer = self.buffer.get_or_insert_with(take_write_buffer);
        let room = (buffer.len() - self.sealed).saturating_sub(OVERHEAD + self.content);
        if room == 0 {
            return Ok(0);
        }
        if self.content == 0 && data.len() >= LONGEST_CONTENT && room >= LONGEST_CONTENT {
            self.sealed += sealer.seal(Content::Data, &data[..LONGEST_CONTENT], &mut buffer[self.sealed..])?;
            return Ok(LONGEST_CONTENT);
        }
        let len = data.len().min(room).min(LONGEST_CONTENT - self.content);
        let start = self.sealed + HEADER + self.content;
        buffer[start..start + len].copy_from_slice(&data[..len]);
        self.content += len;
        if self.content == LONGEST_CONTENT {
            self.finish_record(sealer)?;
        }
        Ok(len)
    }

    /// Encrypts the record that is being filled.
    pub(crate) fn finish_record(&mut self, sealer: &mut Sealer) -> Result<(), RecordError> {
        let Some(buffer) = &mut self.buffer else { return Ok(()) };
        if self.content > 0 {
            self.sealed += sealer.seal_in_place(Content::Data, self.content, &mut buffer[self.sealed..])?;
            self.content = 0;
        }
        Ok(())
    }

    /// Encrypts a short message after the collected data. The buffer grows if necessary: messages are rare.
    pub(crate) fn seal_message(&mut self, sealer: &mut Sealer, of: Content, message: &[u8]) -> Result<(), RecordError> {
        self.finish_record(sealer)?;
        let mut record = vec![0; message.len() + OVERHEAD];
        let len = sealer.seal(of, message, &mut record)?;
        let mut buffer = self.buffer.take().unwrap_or_else(take_write_buffer);
        if buffer.len() - self.sealed < len {
            let mut larger = Vec::from(buffer);
            larger.resize(self.sealed + len, 0);
            buffer = larger.into_boxed_slice();
        }
        buffer[self.sealed..self.sealed + len].copy_from_slice(&record[..len]);
        self.sealed += len;
        self.buffer = Some(buffer);
        Ok(())
    }

    /// Whether `close_notify` or another final alert was queued.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Queues the final alert.
    pub(crate) fn close(&mut self, sealer: &mut Sealer, alert: &[u8]) -> Result<(), RecordError> {
        self.closed = true;
        self.seal_message(sealer, Content::Alert, alert)
    }

    /// Writes all encrypted bytes; the buffer returns to the thread when nothing is left.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        let Some(buffer) = &mut self.buffer else { return Poll::Ready(Ok(())) };
        while self.sent < self.sealed {
            match ready!(Pin::new(&mut *to).poll_write(cx, &buffer[self.sent..self.sealed]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.sent += len,
            }
        }
        if self.content > 0 {
            // Out of room with an unfilled record: move it to the front.
            let start = self.sealed + HEADER;
            buffer.copy_within(start..start + self.content, HEADER);
        } else if let Some(buffer) = self.buffer.take() {
            give_write_buffer(buffer);
        }
        (self.sent, self.sealed) = (0, 0);
        Poll::Ready(Ok(()))
    }
}
