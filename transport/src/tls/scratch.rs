//! Large buffers that the connections of a thread share, so that an idle connection has none.

use std::cell::Cell;

use super::record::{LONGEST_CONTENT, OVERHEAD};

/// Bytes read from a socket at once.
pub(crate) const READ: usize = 256 * 1024;
/// Encrypted bytes written at once: eight full records.
pub(crate) const WRITE: usize = 8 * (LONGEST_CONTENT + OVERHEAD);

thread_local! {
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static WRITE_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

fn new(len: usize) -> Box<[u8]> {
    vec![0; len].into_boxed_slice()
}

/// A buffer of [`READ`] bytes with stale content.
pub(crate) fn take_read_buffer() -> Box<[u8]> {
    READ_BUFFER.take().unwrap_or_else(|| new(READ))
}

/// Returns a read buffer.
pub(crate) fn give_read_buffer(buffer: Box<[u8]>) {
    READ_BUFFER.set(Some(buffer));
}

/// A buffer of [`WRITE`] bytes with stale content.
pub(crate) fn take_write_buffer() -> Box<[u8]> {
    WRITE_BUFFER.take().unwrap_or_else(|| new(WRITE))
}

/// Returns a write buffer.
pub(crate) fn give_write_buffer(buffer: Box<[u8]>) {
    WRITE_BUFFER.set(Some(buffer));
}
