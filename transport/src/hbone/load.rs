//! The streams of one tunnel: how many there are, whether some wait to send, and what they hold unread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use h2::FlowControl;
use parking_lot::Mutex;
use slab::Slab;

/// The streams of a tunnel.
#[derive(Debug, Default)]
pub(crate) struct Load {
    streams: AtomicUsize,
    /// Those that may send nothing now.
    waiting: AtomicUsize,
    /// Whether a new one could send nothing either, and none has since.
    clogged: AtomicBool,
    /// Their flow control. h2 counts for each stream what it has received and was not told to have been taken, whether
    /// anybody looks at the stream or not.
    receivers: Mutex<Slab<FlowControl>>,
}

impl Load {
    /// How many are open.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Bytes that they hold unread.
    pub(crate) fn held(&self) -> u64 {
        self.receivers.lock().iter().map(|(_, stream)| stream.used_capacity() as u64).sum()
    }

    /// Gives back what was taken of windows that have become narrow. h2 does that only when something is taken, and a stream
    /// whose window was used up by becoming narrow gets nothing any more that could be.
    pub(crate) fn give_back(&self) {
        for (_, stream) in self.receivers.lock().iter_mut() {
            // Fails for a stream that is gone.
            let _ = stream.release_capacity(0);
        }
    }

    /// Whether some wait for the peer to take what they sent. It may be that others can send.
    pub(crate) fn is_suspect(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether streams that nobody reads have used up what the peer takes of the whole tunnel.
    pub(crate) fn is_clogged(&self) -> bool {
        self.clogged.load(Ordering::Relaxed) && self.is_suspect()
    }

    /// A new stream could send nothing.
    pub(crate) fn clogged(&self) {
        self.clogged.store(true, Ordering::Relaxed);
    }
}

/// No key of a stream's flow control: a tunnel has a few hundred streams.
const NONE: u32 = u32::MAX;

/// The place of one stream among those of a tunnel, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Load>,
    key: u32,
    waits: bool,
}

impl Place {
    /// One for a stream that is to be opened.
    pub(crate) fn new(of: &Arc<Load>) -> Self {
        of.streams.fetch_add(1, Ordering::Relaxed);
        Self { of: Arc::clone(of), key: NONE, waits: false }
    }

    /// The stream is there, and may hold bytes.
    pub(crate) fn take(&mut self, stream: FlowControl) {
        let key = self.of.receivers.lock().insert(stream);
        self.key = u32::try_from(key).unwrap_or(NONE);
    }

    /// It may send nothing now.
    pub(crate) fn wait(&mut self) {
        if !self.waits {
            self.waits = true;
            self.of.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It may send.
    pub(crate) fn go(&mut self) {
        if self.waits {
            self.waits = false;
            self.of.waiting.fetch_sub(1, Ordering::Relaxed);
            self.of.clogged.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.go();
        let mut receivers = self.of.receivers.lock();
        let stream = receivers.try_remove(self.key as usize);
        drop(receivers);
        // It may be the last handle of the stream: what h2 does then is not done under our lock.
        drop(stream);
        self.of.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
