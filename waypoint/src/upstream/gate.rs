//! Concurrency limit of a service: the most requests in flight, and the most that wait in the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The concurrency limit of one service.
#[derive(Debug, Default)]
pub struct Gate {
    inside: AtomicU32,
    waiting: AtomicU32,
    left: Notify,
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

/// The right to be in flight to a service: within what some clients may, and within what everybody may.
#[derive(Debug)]
pub struct Passes {
    _own: Pass,
    _shared: Option<Pass>,
}

impl Passes {
    /// Both in one.
    pub fn new(own: Pass, shared: Option<Pass>) -> Self {
        Self { _own: own, _shared: shared }
    }
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The queue is full.
    Queue,
    /// No request in flight ended in time.
    Patience,
}

impl Gate {
    /// Requests in flight.
    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    /// Takes a permit: at once if fewer than `most` requests are in flight; else waits for at most `patience`, if fewer
    /// than `queue` are waiting.
    pub async fn enter(self: &Arc<Self>, most: u32, queue: u32, patience: Duration) -> Result<Pass, Full> {
        if self.try_enter(most) {
            return Ok(Pass(Arc::clone(self)));
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= queue {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Queue);
        }
        let _waiting = Waiting(&self.waiting);
        let end = Instant::now() + patience;
        loop {
            let left = self.left.notified();
            if self.try_enter(most) {
                return Ok(Pass(Arc::clone(self)));
            }
            if timeout_at(end, left).await.is_err() {
                return Err(Full::Patience);
            }
        }
    }

    fn try_enter(&self, most: u32) -> bool {
        self.inside
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |inside| (inside < most).then_some(inside + 1))
            .is_ok()
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
        if self.0.waiting.load(Ordering::Relaxed) > 0 {
            self.0.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_next_goes_in_when_one_leaves() {
        let gate = Arc::new(Gate::default());
        let second = Duration::from_secs(1);
        let first = gate.enter(1, 1, second).await.unwrap();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(1, 1, second).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.enter(1, 1, second).await.unwrap_err(), Full::Queue);
        drop(first);
        assert!(waiting.await.unwrap());
        assert_eq!(gate.inside(), 0);
        let _first = gate.enter(1, 1, second).await.unwrap();
        assert_eq!(gate.enter(1, 1, second).await.unwrap_err(), Full::Patience);
    }
}
