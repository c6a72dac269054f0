//! Where lines of the access log go: formatted on the thread that has something to tell, into a buffer that is used
//! again, and written by [`LogWriter`], which drops and counts them when stdout is read too slowly.

use std::cell::RefCell;
use std::time::SystemTime;

use tracing::Level;

use super::line::{Format, Line};
use super::writer::{Kind, LogWriter};

/// The scope of the lines, and the target of tracing whose level holds for them (`RUST_LOG=access=warn`).
const SCOPE: &str = "access";

/// The lines of the access log. Clones write to the same place.
#[derive(Clone)]
pub struct AccessLines {
    writer: LogWriter,
    format: Format,
}

impl AccessLines {
    /// Lines in `format`.
    pub fn new(writer: LogWriter, format: Format) -> Self {
        Self { writer, format }
    }

    /// Writes a line with what `fields` puts into it, if lines of this level are wanted.
    pub fn write(&self, level: Level, message: &str, fields: impl FnOnce(&mut Line<'_>)) {
        thread_local!(static BUFFER: RefCell<String> = const { RefCell::new(String::new()) });
        if !is_wanted(level) {
            return;
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            let mut line = Line::new(buffer, self.format, SystemTime::now(), level, SCOPE, message);
            fields(&mut line);
            line.end();
            self.writer.push(buffer.as_bytes(), Kind::Access);
            buffer.shrink_to(4096);
        });
    }
}

/// The level of a call site of tracing is fixed when it is compiled.
fn is_wanted(level: Level) -> bool {
    match level {
        Level::ERROR => tracing::enabled!(target: SCOPE, Level::ERROR),
        Level::WARN => tracing::enabled!(target: SCOPE, Level::WARN),
        Level::INFO => tracing::enabled!(target: SCOPE, Level::INFO),
        Level::DEBUG => tracing::enabled!(target: SCOPE, Level::DEBUG),
        Level::TRACE => tracing::enabled!(target: SCOPE, Level::TRACE),
    }
}
