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
pub(super) const ROUNDS: usize = 4;

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
    carry::<Direction, Direction, _, _>(first, second, counters, timeouts).await
}

/// How one direction's bytes are moved.
pub(super) trait Flow<A, B>: Default {
    /// Moves what can be moved now. Ready when the source's end has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        count: impl Fn(u64),
    ) -> Poll<Result<(), FlowError>>;

    /// Whether bytes wait to be sent: meanwhile the source is not read, and a reset of it not heard.
    fn blocked(&self) -> bool;
}

/// Why a direction cannot go on.
pub(super) struct FlowError {
    pub(super) error: io::Error,
    /// Whether it was the source that failed.
    pub(super) reading: bool,
}

/// Both directions until both ends are done, moved as the flows move them.
pub(super) async fn carry<F: Flow<A, B>, G: Flow<B, A>, A: Duplex, B: Duplex>(
    first: &mut A,
    second: &mut B,
    counters: &impl Count,
    timeouts: &Timeouts,
) -> Result<(), CopyError> {
    // Made here: as arguments they would stand in the future twice.
    let (mut forth, mut back) = (F::default(), G::default());
    let mut watch = Watch::new(counters);
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
        let deaf = half_closed || forth.blocked() || back.blocked();
        loop {
            let silent = ready!(watch.poll_tick(cx, timeouts, half_closed, deaf, counters));
            let broken = |end, error| Poll::Ready(Err(CopyError::Broken { end, error }));
            if let Some(error) = first.take_error() {
                return broken(End::First, error);
            }
            if let Some(error) = second.take_error() {
                return broken(End::Second, error);
            }
            if silent {
                return Poll::Ready(Err(if half_closed { CopyError::HalfClosed } else { CopyError::Idle }));
            }
        }
    })
    .await;
    if result.is_err() {
        first.reset();
        second.reset();
    }
    result
}

impl FlowError {
    fn named(self, from_second: bool) -> CopyError {
        let end = if self.reading == from_second { End::Second } else { End::First };
        CopyError::Broken { end, error: self.error }
    }
}

/// Moves bytes through this process.
#[derive(Default)]
pub(super) struct Direction {
    queue: Queue,
    ended: bool,
    finished: bool,
}

impl<A: Duplex, B: Duplex> Flow<A, B> for Direction {
    fn blocked(&self) -> bool {
        !self.queue.is_empty()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        count: impl Fn(u64),
    ) -> Poll<Result<(), FlowError>> {
        let reading = |error| FlowError { error, reading: true };
        let writing = |error| FlowError { error, reading: false };
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

/// How often an end that nobody listens to is asked for an error.
const CHECK: Duration = Duration::from_secs(10);

/// The one timer of a copy, made only when it is needed.
struct Watch {
    timer: Option<Pin<Box<Sleep>>>,
    seen: u64,
    since: Instant,
    half_closed: bool,
}

impl Watch {
    fn new(counters: &impl Count) -> Self {
        Self { timer: None, seen: counters.sum(), since: Instant::now(), half_closed: false }
    }

    /// Ready now and then while there is something to look at; with `true` when no byte came for as long as is allowed.
    fn poll_tick(
        &mut self,
        cx: &mut Context<'_>,
        timeouts: &Timeouts,
        half_closed: bool,
        deaf: bool,
        counters: &impl Count,
    ) -> Poll<bool> {
        let limit = if half_closed { timeouts.half_closed.or(timeouts.idle) } else { timeouts.idle };
        let tick = match limit {
            Some(limit) => limit.min(CHECK),
            None if deaf => CHECK,
            None => return Poll::Pending,
        };
        if half_closed && !self.half_closed {
            (self.half_closed, self.timer) = (true, None);
        }
        if self.timer.is_none() {
            (self.seen, self.since) = (counters.sum(), Instant::now());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(tick)));
        ready!(timer.as_mut().poll(cx));
        let now = Instant::now();
        timer.as_mut().reset(now + tick);
        let sum = counters.sum();
        if sum != self.seen {
            (self.seen, self.since) = (sum, now);
        }
        Poll::Ready(limit.is_some_and(|limit| now - self.since >= limit))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// An end that gives what it was told to give, takes what it may, and remembers.
    #[derive(Default)]
    struct Scripted {
        gives: Vec<Bytes>,
        ends: bool,
        takes: usize,
        taken: usize,
        consumed: usize,
        finished: bool,
        broken: bool,
        reset: bool,
    }

    impl Duplex for Scripted {
        const READS_AHEAD: bool = false;

        fn poll_receive(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
            match self.gives.pop() {
                Some(chunk) => Poll::Ready(Ok(Some(chunk))),
                None if self.ends => Poll::Ready(Ok(None)),
                None => Poll::Pending,
            }
        }

        fn consumed(&mut self, len: usize) {
            self.consumed += len;
        }

        fn poll_send(&mut self, _: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>> {
            let sent = queue.take(self.takes.saturating_sub(self.taken)).len();
            self.taken += sent;
            if sent == 0 { Poll::Pending } else { Poll::Ready(Ok(sent)) }
        }

        fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.finished = true;
            Poll::Ready(Ok(()))
        }

        fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
            Poll::Pending
        }

        fn take_error(&mut self) -> Option<io::Error> {
            self.broken.then(|| io::ErrorKind::ConnectionReset.into())
        }

        fn reset(&mut self) {
            self.reset = true;
        }
    }

    fn end(gives: &[&'static [u8]], ends: bool, takes: usize) -> Scripted {
        let gives = gives.iter().rev().map(|chunk| Bytes::from_static(chunk)).collect();
        Scripted { gives, ends, takes, ..Scripted::default() }
    }

    const NONE: Timeouts = Timeouts { idle: None, half_closed: None };

    #[tokio::test(start_paused = true)]
    async fn both_ends_get_what_the_other_gave_and_are_told_of_its_end() {
        let (mut a, mut b) = (end(&[b"hello ", b"world"], true, 100), end(&[b"hi"], true, 100));
        let counters = Counters::default();
        both_ways(&mut a, &mut b, &counters, &NONE).await.unwrap();
        assert_eq!((a.taken, a.consumed, a.finished, a.reset), (2, 11, true, false));
        assert_eq!((b.taken, b.consumed, b.finished, b.reset), (11, 2, true, false));
        assert_eq!((counters.forth.into_inner(), counters.back.into_inner()), (11, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_is_heard_even_when_the_other_end_takes_nothing() {
        let (mut a, mut b) = (end(&[b"hello"], false, 0), end(&[], false, 2));
        a.broken = true;
        let began = Instant::now();
        let error = both_ways(&mut a, &mut b, &Counters::default(), &NONE).await.unwrap_err();
        assert!(matches!(error, CopyError::Broken { end: End::First, .. }), "{error}");
        assert_eq!(began.elapsed(), CHECK);
        assert!(a.reset && b.reset);
        assert_eq!(a.consumed, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_allowed_for_as_long_as_is_said() {
        for (timeouts, ends, seconds) in [
            (Timeouts { idle: Some(Duration::from_secs(35)), half_closed: None }, false, 40),
            (Timeouts { idle: Some(Duration::from_secs(3)), half_closed: None }, true, 3),
            (Timeouts { idle: None, half_closed: Some(Duration::from_secs(600)) }, true, 600),
        ] {
            let (mut a, mut b) = (end(&[b"x"], ends, 9), end(&[], false, 9));
            let began = Instant::now();
            let error = both_ways(&mut a, &mut b, &Counters::default(), &timeouts).await.unwrap_err();
            assert_eq!(matches!(error, CopyError::HalfClosed), ends, "{error}");
            assert_eq!(began.elapsed().as_secs(), seconds);
        }
        let (mut a, mut b) = (end(&[b"x"], false, 9), end(&[], false, 9));
        let counters = Counters::default();
        let forever = both_ways(&mut a, &mut b, &counters, &NONE);
        tokio::time::timeout(Duration::from_secs(7 * 24 * 3600), forever).await.unwrap_err();
    }
}
