//! The streams of one tunnel: their number, their flow-control state and their unread bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use h2::FlowControl;
use parking_lot::Mutex;
use slab::Slab;

/// The streams of a tunnel.
#[derive(Debug, Default)]
pub(crate) struct Load {
    streams: AtomicUsize,
    /// Streams without send capacity.
    waiting: AtomicUsize,
    /// Whether a new stream had no send capacity either, and no stream has got any since.
    clogged: AtomicBool,
    /// Receive-side flow control of the streams. h2 counts for each one the bytes that were received and not released,
    /// read or not.
    receivers: Mutex<Slab<FlowControl>>,
}

impl Load {
    /// The number of open streams.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Received bytes that are not read.
    pub(crate) fn held(&self) -> u64 {
        self.receivers.lock().iter().map(|(_, stream)| stream.used_capacity() as u64).sum()
    }

    /// Releases the capacity of windows that became narrower. h2 does so only on a release, and a stream whose window
    /// was used up by the narrowing would never receive a byte that could be released.
    pub(crate) fn release_narrowed(&self) {
        for (_, stream) in self.receivers.lock().iter_mut() {
            // Fails for a stream that is closed.
            let _ = stream.release_capacity(0);
        }
    }

    /// Whether some streams wait for the peer to read; others may still have capacity.
    pub(crate) fn is_suspect(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether unread streams have used up the peer's connection window.
    pub(crate) fn is_clogged(&self) -> bool {
        self.clogged.load(Ordering::Relaxed) && self.is_suspect()
    }

    /// Records that a new stream has no send capacity.
    pub(crate) fn clogged(&self) {
        self.clogged.store(true, Ordering::Relaxed);
    }
}

/// Stands for "no key": a tunnel has a few hundred streams.
const NONE: u32 = u32::MAX;

/// The slot of one stream in a tunnel, until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Load>,
    key: u32,
    waits: bool,
}

impl Place {
    /// Reserves a slot for a stream that is to be opened.
    pub(crate) fn new(of: &Arc<Load>) -> Self {
        of.streams.fetch_add(1, Ordering::Relaxed);
        Self { of: Arc::clone(of), key: NONE, waits: false }
    }

    /// Registers the open stream's flow control.
    pub(crate) fn take(&mut self, stream: FlowControl) {
        let key = self.of.receivers.lock().insert(stream);
        self.key = u32::try_from(key).unwrap_or(NONE);
    }

    /// Marks the stream as waiting for send capacity.
    pub(crate) fn wait(&mut self) {
        if !self.waits {
            self.waits = true;
            self.of.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Marks the stream as able to send.
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
        // It may be the stream's last handle: h2 must not do its clean-up under our lock.
        drop(stream);
        self.of.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
