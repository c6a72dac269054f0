//! The one thread that writes to stdout, so that no connection ever waits for whoever reads our log.
//!
//! Lines are appended to a buffer of bounded size and written in batches. When the reader of stdout is slower than the
//! lines come, lines are dropped and counted: losing a log line is better than stalling traffic. (ztunnel stalls.)

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait, of access log lines. Log lines may use [`RESERVE`] more, so that a flood of connections does
/// not displace the log of the process.
const CAPACITY: usize = 1 << 20;
const RESERVE: usize = 128 << 10;
/// Pause between two batches. Waking the thread costs more than a line does, so lines that come together go together.
const REST: Duration = Duration::from_millis(5);
/// Capacity that the buffer keeps while there is nothing to write.
const KEEP: usize = 16 << 10;

/// Which kind of line it is, and so how much room it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line about a connection.
    Access,
    /// Any other line.
    Log,
}

/// A handle on the writer. Clones share one thread, which ends after the last handle is gone and all is written.
#[derive(Clone)]
pub struct LogWriter(Arc<Handle>);

struct Handle(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// All is written.
    drained: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    lines: u64,
    /// The thread waits for `filled`: only then is waking it worth a system call.
    idle: bool,
    /// The thread holds a batch that is not written yet.
    writing: bool,
    closed: bool,
}

impl LogWriter {
    /// Starts a writer to stdout.
    pub fn stdout() -> io::Result<Self> {
        Self::to(io::stdout())
    }

    /// Starts a writer to `sink`.
    pub fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || of_thread.run(sink))?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Queues one line (with its line end), or drops and counts it when there is no room. Never waits for the reader.
    pub fn push(&self, line: &[u8], kind: Kind) {
        let shared = &self.0.0;
        let room = match kind {
            Kind::Access => CAPACITY,
            Kind::Log => CAPACITY + RESERVE,
        };
        let mut state = shared.state.lock();
        if state.bytes.len() + line.len() > room {
            drop(state);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes.extend_from_slice(line);
        state.lines += 1;
        if state.idle {
            state.idle = false;
            shared.filled.notify_one();
        }
    }

    /// Lines that were dropped since the start, for want of room or because writing failed.
    pub fn dropped(&self) -> u64 {
        self.0.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything queued so far is written; false when that took longer than `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        while state.writing || !state.bytes.is_empty() {
            if shared.drained.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.filled.notify_one();
    }
}

impl Shared {
    fn run(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        while let Some(lines) = self.take(&mut batch) {
            if sink.write_all(&batch).and_then(|()| sink.flush()).is_err() {
                self.dropped.fetch_add(lines, Ordering::Relaxed);
            }
            batch.clear();
            let mut state = self.state.lock();
            state.writing = false;
            if state.bytes.is_empty() {
                self.drained.notify_all();
            }
            // Woken early only by the end: lines that come meanwhile wait for the next batch.
            if !state.closed {
                self.filled.wait_for(&mut state, REST);
            }
        }
    }

    /// Waits for lines and swaps them into `batch`; `None` when there will be no more.
    fn take(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let mut state = self.state.lock();
        while state.bytes.is_empty() {
            if state.closed {
                return None;
            }
            // A burst is over: its memory goes back. Not between batches, where it would only be asked for again.
            batch.shrink_to(KEEP);
            state.bytes.shrink_to(KEEP);
            state.idle = true;
            self.filled.wait(&mut state);
        }
        state.idle = false;
        state.writing = true;
        std::mem::swap(&mut state.bytes, batch);
        Some(std::mem::take(&mut state.lines))
    }
}

/// One log line on its way from the subscriber: `tracing` writes a whole event at once.
pub struct LogLine(LogWriter);

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line, Kind::Log);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogLine;

    fn make_writer(&'a self) -> Self::Writer {
        LogLine(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Sink(mpsc::Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A reader that has stopped reading until it is told to go on.
    struct Stuck(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn lines_come_out_in_order_and_in_batches() {
        let (sender, written) = mpsc::channel();
        let writer = LogWriter::to(Sink(sender)).unwrap();
        for n in 0..1000 {
            writer.push(format!("{n}\n").as_bytes(), Kind::Access);
        }
        assert!(writer.flush(SOON));
        let batches: Vec<_> = written.try_iter().collect();
        assert!(batches.len() < 1000, "{} writes for 1000 lines", batches.len());
        let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
        assert_eq!(String::from_utf8(batches.concat()).unwrap(), expected);
        assert_eq!(writer.dropped(), 0);
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_not_time() {
        let (go, stuck) = mpsc::channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        let writer = LogWriter::to(Stuck(stuck, Arc::clone(&read))).unwrap();
        let line = [b'x'; 1024];
        writer.push(&line, Kind::Access);
        while !writer.0.0.state.lock().writing {
            thread::yield_now();
        }
        for _ in 0..CAPACITY / line.len() + 7 {
            writer.push(&line, Kind::Access);
        }
        assert_eq!(writer.dropped(), 7);
        writer.push(b"the agent itself still gets a word in\n", Kind::Log);
        assert_eq!(writer.dropped(), 7);
        assert!(!writer.flush(Duration::from_millis(1)));

        drop(go);
        assert!(writer.flush(SOON));
        assert!(read.lock().ends_with(b"the agent itself still gets a word in\n"));
    }

    #[test]
    fn lines_that_cannot_be_written_count_as_dropped() {
        let (sender, written) = mpsc::channel();
        drop(written);
        let writer = LogWriter::to(Sink(sender)).unwrap();
        writer.push(b"lost\n", Kind::Log);
        assert!(writer.flush(SOON));
        assert_eq!(writer.dropped(), 1);
    }

    #[test]
    fn what_was_queued_is_written_after_the_last_handle_is_gone() {
        let (sender, written) = mpsc::channel();
        let writer = LogWriter::to(Sink(sender)).unwrap();
        writer.push(b"last words\n", Kind::Log);
        drop(writer);
        assert_eq!(written.recv_timeout(SOON).unwrap(), b"last words\n");
        assert!(written.recv_timeout(SOON).is_err(), "the thread has ended and dropped its sink");
    }
}
