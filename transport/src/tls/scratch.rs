//! Buffers that a thread lends to whichever connection it serves, so that a connection with nothing to do has none.

use std::cell::Cell;

use super::record::{LONGEST_CONTENT, OVERHEAD};

/// Bytes read from a socket at once.
pub(crate) const READ: usize = 256 * 1024;
/// Sealed bytes that are written at once: eight full records.
pub(crate) const WRITE: usize = 8 * (LONGEST_CONTENT + OVERHEAD);

thread_local! {
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static WRITE_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

fn new(len: usize) -> Box<[u8]> {
    vec![0; len].into_boxed_slice()
}

/// A buffer of [`READ`] bytes; what is in it is old.
pub(crate) fn take_read_buffer() -> Box<[u8]> {
    READ_BUFFER.take().unwrap_or_else(|| new(READ))
}

/// Gives a read buffer back.
pub(crate) fn give_read_buffer(buffer: Box<[u8]>) {
    READ_BUFFER.set(Some(buffer));
}

/// A buffer of [`WRITE`] bytes; what is in it is old.
pub(crate) fn take_write_buffer() -> Box<[u8]> {
    WRITE_BUFFER.take().unwrap_or_else(|| new(WRITE))
}

/// Gives a write buffer back.
pub(crate) fn give_write_buffer(buffer: Box<[u8]>) {
    WRITE_BUFFER.set(Some(buffer));
}
