//! Both directions until both end. FIN stays FIN and reset stays reset, each way; bytes are counted while they flow.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep};

use super::duplex::{Duplex, Queue};

/// Rounds that one direction may go before the other one, and other tasks, get their turn.
const ROUNDS: usize = 16;

/// Who counts the bytes that pass.
pub trait Count: Sync {
    /// `bytes` more have gone from the first end to the second.
    fn forth(&self, bytes: u64);
    /// `bytes` more have gone from the second end to the first.
    fn back(&self, bytes: u64);
    /// All bytes so far.
    fn sum(&self) -> u64;
}

/// Bytes that have passed, readable while they do.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the first end to the second.
    pub forth: AtomicU64,
    /// From the second end to the first.
    pub back: AtomicU64,
}

impl Count for Counters {
    fn forth(&self, bytes: u64) {
        self.forth.fetch_add(bytes, Ordering::Relaxed);
    }

    fn back(&self, bytes: u64) {
        self.back.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.forth.load(Ordering::Relaxed).wrapping_add(self.back.load(Ordering::Relaxed))
    }
}

/// When a connection that does nothing is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// No byte either way for this long; `None` waits for ever.
    pub idle: Option<Duration>,
    /// The same once one end has said that it is done.
    pub half_closed: Option<Duration>,
}

impl Default for Timeouts {
    /// Idle connections stay. Half-closed ones are mostly forgotten ones: ten minutes without a byte.
    fn default() -> Self {
        Self { idle: None, half_closed: Some(Duration::from_secs(600)) }
    }
}

/// Which end failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Why a copy did not end with both ends done.
#[derive(Debug, Error)]
pub enum CopyError {
    /// Reading from an end or writing to it failed.
    #[error("{}: {error}", match .end { End::First => "downstream", End::Second => "upstream" })]
    Broken {
        /// Which one.
        end: End,
        /// How.
        #[source]
        error: io::Error,
    },
    /// No byte for too long.
    #[error("idle for too long")]
    Idle,
    /// No byte for too long after one end was done.
    #[error("half-closed for too long")]
    HalfClosed,
}

/// Copies both ways until both ends are done. After an error both ends are reset, whichever broke.
///
/// Not cancel-safe: a copy that is dropped has lost what was under way; the caller resets or drops the ends.
pub async fn both_ways<A: Duplex, B: Duplex>(
    first: &mut A,
    second: &mut B,
    counters: &impl Count,
    timeouts: &Timeouts,
) -> Result<(), CopyError> {
    let mut forth = Direction::default();
    let mut back = Direction::default();
    let mut watch = Watch { timer: None, seen: counters.sum(), half_closed: false };
    let result = poll_fn(|cx| {
        let to_second =
            forth.poll(cx, first, second, |bytes| counters.forth(bytes)).map_err(|error| error.named(false))?;
        let to_first = back.poll(cx, second, first, |bytes| counters.back(bytes)).map_err(|error| error.named(true))?;
        if to_second.is_ready() && to_first.is_ready() {
            return Poll::Ready(Ok(()));
        }
        // An end whose last byte was received can still break, and nothing else would tell.
        if to_second.is_ready()
            && let Poll::Ready(error) = first.poll_broken(cx)
        {
            return Poll::Ready(Err(CopyError::Broken { end: End::First, error }));
        }
        if to_first.is_ready()
            && let Poll::Ready(error) = second.poll_broken(cx)
        {
            return Poll::Ready(Err(CopyError::Broken { end: End::Second, error }));
        }
        let half_closed = to_second.is_ready() || to_first.is_ready();
        if ready!(watch.poll_silent(cx, timeouts, half_closed, counters)) {
            let broken = |end, error| CopyError::Broken { end, error };
            let found = first.take_error().map(|error| broken(End::First, error));
            let found = found.or_else(|| second.take_error().map(|error| broken(End::Second, error)));
            return Poll::Ready(Err(found.unwrap_or(if half_closed {
                CopyError::HalfClosed
            } else {
                CopyError::Idle
            })));
        }
        Poll::Pending
    })
    .await;
    if result.is_err() {
        first.reset();
        second.reset();
    }
    result
}

struct DirectionError {
    error: io::Error,
    reading: bool,
}

impl DirectionError {
    fn named(self, from_second: bool) -> CopyError {
        let end = if self.reading == from_second { End::Second } else { End::First };
        CopyError::Broken { end, error: self.error }
    }
}

#[derive(Default)]
struct Direction {
    queue: Queue,
    ended: bool,
    finished: bool,
}

impl Direction {
    /// Ready when the source's end has been passed on.
    fn poll<A: Duplex, B: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        count: impl Fn(u64),
    ) -> Poll<Result<(), DirectionError>> {
        let reading = |error| DirectionError { error, reading: true };
        let writing = |error| DirectionError { error, reading: false };
        for _ in 0..ROUNDS {
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            let mut starved = self.ended;
            while !starved && (self.queue.is_empty() || A::READS_AHEAD) {
                match from.poll_receive(cx).map_err(reading)? {
                    Poll::Ready(Some(chunk)) => self.queue.push(chunk),
                    Poll::Ready(None) => (self.ended, starved) = (true, true),
                    Poll::Pending => starved = true,
                }
            }
            while !self.queue.is_empty() {
                let sent = ready!(to.poll_send(cx, &mut self.queue)).map_err(writing)?;
                count(sent as u64);
                from.consumed(sent);
            }
            if self.ended {
                ready!(to.poll_finish(cx)).map_err(writing)?;
                self.finished = true;
            } else if starved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The one timer of a copy, made only when it is needed.
struct Watch {
    timer: Option<Pin<Box<Sleep>>>,
    seen: u64,
    half_closed: bool,
}

impl Watch {
    /// Ready(true) after a whole period without a byte.
    fn poll_silent(
        &mut self,
        cx: &mut Context<'_>,
        timeouts: &Timeouts,
        half_closed: bool,
        counters: &impl Count,
    ) -> Poll<bool> {
        let period = if half_closed { timeouts.half_closed.or(timeouts.idle) } else { timeouts.idle };
        let Some(period) = period else { return Poll::Pending };
        if self.timer.is_none() || half_closed != self.half_closed {
            self.timer = Some(Box::pin(sleep(period)));
            (self.half_closed, self.seen) = (half_closed, counters.sum());
        }
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        while timer.as_mut().poll(cx).is_ready() {
            let sum = counters.sum();
            if sum == self.seen {
                return Poll::Ready(true);
            }
            self.seen = sum;
            timer.as_mut().reset(Instant::now() + period);
        }
        Poll::Pending
    }
}
