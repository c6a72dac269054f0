//! Byte counters, idle timeout and linger timeout of a copy.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Receives the byte counts of a copy.
pub trait Count: Sync {
    /// `bytes` more were forwarded from the first end to the second.
    fn sent(&self, bytes: u64);
    /// `bytes` more were forwarded from the second end to the first.
    fn received(&self, bytes: u64);
    /// All bytes so far, wrapping; used to detect activity.
    fn sum(&self) -> u64;
}

/// Byte counters that can be read while the copy runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes from the first end to the second.
    pub sent: AtomicU64,
    /// Bytes from the second end to the first.
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

/// Idle timeouts of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Idle timeout: no byte in either direction for this long. `None` is no timeout.
    pub idle: Option<Duration>,
    /// Idle timeout once one end has sent its FIN; falls back to `idle`.
    pub half_closed: Option<Duration>,
}

impl Default for Timeouts {
    /// No idle timeout; ten minutes for half-closed connections, most of which are leaks.
    fn default() -> Self {
        Self { idle: None, half_closed: Some(Duration::from_secs(600)) }
    }
}

/// How often an end that is not being read is asked for a pending error.
pub(super) const CHECK: Duration = Duration::from_secs(10);

/// The idle timer of a copy, allocated on first use.
#[derive(Default)]
pub(super) struct Watch(Option<Box<Watching>>);

struct Watching {
    timer: Pin<Box<Sleep>>,
    seen: u64,
    since: Instant,
    half_closed: bool,
}

impl Watch {
    /// Ready at each tick while an idle timeout or an error check is due; `true` when the idle timeout is over.
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
        let begun = |watching: &Watching| watching.half_closed || !half_closed;
        if !self.0.as_deref().is_some_and(begun) {
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

/// What a copy waits for before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Delivery of the last bytes of a peer that is gone.
    Delivered,
    /// That a peer, which has received everything, stops sending what nobody reads: closing the socket under its bytes
    /// would answer with a reset, which may destroy what the peer has not read yet (RFC 9112, 9.6).
    Silence,
}

impl Wait {
    /// The limits without progress and in total.
    const fn limits(self) -> (Duration, Duration) {
        match self {
            Self::Delivered => (Duration::from_secs(60), Duration::from_secs(600)),
            Self::Silence => (Duration::from_secs(5), Duration::from_secs(30)),
        }
    }
}

/// The timer of such a wait, allocated on first use.
#[derive(Default)]
pub(super) struct Linger(Option<Box<Lingering>>);

struct Lingering {
    what: Wait,
    timer: Pin<Box<Sleep>>,
    seen: u64,
    until: Instant,
}

impl Linger {
    /// Ready when a limit is over. `moved` counts the bytes forwarded or dropped.
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
