//! What watches a copy: the count of its bytes, the silence that is allowed, and how long its last bytes may take.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Who counts the bytes that pass.
pub trait Count: Sync {
    /// `bytes` more have gone from the first end to the second.
    fn sent(&self, bytes: u64);
    /// `bytes` more have gone from the second end to the first.
    fn received(&self, bytes: u64);
    /// All bytes so far.
    fn sum(&self) -> u64;
}

/// Bytes that have passed, readable while they do.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the first end to the second.
    pub sent: AtomicU64,
    /// From the second end to the first.
    pub received: AtomicU64,
}

impl Count for Counters {
    fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.sent.load(Ordering::Relaxed).wrapping_add(self.received.load(Ordering::Relaxed))
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

/// How often an end that nobody listens to is asked for an error.
pub(super) const CHECK: Duration = Duration::from_secs(10);

/// The timer of a copy's silence, made only when it is needed.
#[derive(Default)]
pub(super) struct Watch(Option<Box<Watching>>);

struct Watching {
    timer: Pin<Box<Sleep>>,
    seen: u64,
    since: Instant,
    half_closed: bool,
}

impl Watch {
    /// Ready now and then while there is something to look at; with `true` when no byte came for as long as is allowed.
    pub(super) fn poll_tick(
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
        let begun = |watching: &Box<Watching>| watching.half_closed || !half_closed;
        if !self.0.as_ref().is_some_and(begun) {
            let (seen, since) = (counters.sum(), Instant::now());
            self.0 = Some(Box::new(Watching { timer: Box::pin(sleep(tick)), seen, since, half_closed }));
        }
        let Some(watching) = &mut self.0 else { return Poll::Pending };
        ready!(watching.timer.as_mut().poll(cx));
        let now = Instant::now();
        watching.timer.as_mut().reset(now + tick);
        let sum = counters.sum();
        if sum != watching.seen {
            (watching.seen, watching.since) = (sum, now);
        }
        Poll::Ready(limit.is_some_and(|limit| now - watching.since >= limit))
    }
}

/// What the last bytes of a connection are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// That they reach the end that they are for: its peer is gone, and what it said before is still to be delivered.
    Delivered,
    /// That an end stops sending, to which everything has been delivered and whose bytes nobody takes: closed under its
    /// bytes, a socket answers with a reset, which may destroy what the peer has not read yet (RFC 9112, 9.6).
    Silence,
}

impl Wait {
    /// Without a byte, and in all.
    const fn limits(self) -> (Duration, Duration) {
        match self {
            Self::Delivered => (Duration::from_secs(60), Duration::from_secs(600)),
            Self::Silence => (Duration::from_secs(5), Duration::from_secs(30)),
        }
    }
}

/// The timer of such a wait, made only when it is needed.
#[derive(Default)]
pub(super) struct Linger(Option<Box<Lingering>>);

struct Lingering {
    what: Wait,
    timer: Pin<Box<Sleep>>,
    seen: u64,
    until: Instant,
}

impl Linger {
    /// Ready when it has been waited for long enough. `moved` counts the bytes that were carried or dropped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, what: Wait, moved: u64) -> Poll<()> {
        let (quiet, all) = what.limits();
        if self.0.as_ref().is_none_or(|lingering| lingering.what != what) {
            let until = Instant::now() + all;
            self.0 = Some(Box::new(Lingering { what, timer: Box::pin(sleep(quiet)), seen: moved, until }));
        }
        let Some(lingering) = &mut self.0 else { return Poll::Pending };
        loop {
            ready!(lingering.timer.as_mut().poll(cx));
            let now = Instant::now();
            if moved == lingering.seen || now >= lingering.until {
                return Poll::Ready(());
            }
            lingering.seen = moved;
            let next = lingering.until.min(now + quiet);
            lingering.timer.as_mut().reset(next);
        }
    }
}
