//! The streams of one tunnel, as far as they hold bytes that were received and not taken.

use std::sync::Arc;

use h2::FlowControl;
use parking_lot::Mutex;
use slab::Slab;

/// The flow control of all streams of a tunnel. h2 counts for each what it has received and was not told to have been taken,
/// whether anybody looks at the stream or not.
#[derive(Debug, Default)]
pub(crate) struct Receivers(Mutex<Slab<FlowControl>>);

impl Receivers {
    /// One more stream, until what it gets is dropped.
    pub(crate) fn add(self: &Arc<Self>, stream: FlowControl) -> Receiver {
        Receiver { key: self.0.lock().insert(stream), of: Arc::clone(self) }
    }

    /// Bytes that all of them hold.
    pub(crate) fn held(&self) -> u64 {
        self.0.lock().iter().map(|(_, stream)| stream.used_capacity() as u64).sum()
    }
}

/// One stream among them.
#[derive(Debug)]
pub(crate) struct Receiver {
    of: Arc<Receivers>,
    key: usize,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut streams = self.of.0.lock();
        let stream = streams.try_remove(self.key);
        drop(streams);
        // It may be the last handle of the stream: what h2 does then is not done under our lock.
        drop(stream);
    }
}
