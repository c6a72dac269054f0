//! Bidirectional copy until both directions have ended. A FIN is forwarded as FIN and a reset as reset; bytes are
//! counted as they flow.
//!
//! What an end sent before it failed is delivered before the failure is: a response that came before the upload was
//! read reaches the client in full, and the rest of the upload is read and dropped (RFC 9113, 8.1; RFC 9112, 9.6).

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::duplex::Duplex;
use super::flow::{Direction, Flow, OneWay};
use super::watch::{Linger, Wait, Watch};

pub use super::watch::{Count, Counters, Timeouts};

/// One of the two ends of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first argument of the copy.
    First,
    /// The second argument of the copy.
    Second,
}

/// Why a copy ended before both directions had.
#[derive(Debug, Error)]
pub enum CopyError {
    /// Reading from or writing to an end failed. The message calls the first end downstream (it has connected) and the
    /// second upstream (it was connected to).
    #[error("{}: {error}", match .end { End::First => "downstream", End::Second => "upstream" })]
    Broken {
        /// The end that failed.
        end: End,
        /// The socket's or stream's error.
        #[source]
        error: io::Error,
    },
    /// Idle timeout: no byte in either direction.
    #[error("idle timeout")]
    Idle,
    /// Half-close timeout: no byte since one end has sent its FIN.
    #[error("half-close timeout")]
    HalfClosed,
}

impl CopyError {
    /// The same error of a copy whose second end is the one that has connected.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::Broken { end: End::First, error } => Self::Broken { end: End::Second, error },
            Self::Broken { end: End::Second, error } => Self::Broken { end: End::First, error },
            Self::Idle | Self::HalfClosed => self,
        }
    }
}

/// Copies in both directions until both have ended, or one has and the other end accepts no more. On an error both ends
/// are reset; what the failed end had sent before is delivered first, within bounds.
///
/// Not cancel-safe: bytes in flight are lost when the future is dropped, and the caller resets or drops the ends.
pub async fn both_ways<A: Duplex, B: Duplex>(
    first: &mut A,
    second: &mut B,
    counters: &impl Count,
    timeouts: &Timeouts,
) -> Result<(), CopyError> {
    carry::<Direction, Direction, _, _>(first, second, counters, timeouts).await
}

/// How long a reset is delayed until the bytes before it have left this process.
const FLUSH: Duration = Duration::from_secs(2);
/// How often the end is asked meanwhile.
const LOOK: Duration = Duration::from_millis(2);

/// [`both_ways`] with the given way of moving bytes in each direction.
pub(super) async fn carry<F: Flow<A, B>, G: Flow<B, A>, A: Duplex, B: Duplex>(
    first: &mut A,
    second: &mut B,
    counters: &impl Count,
    timeouts: &Timeouts,
) -> Result<(), CopyError> {
    // A local: moved in as an argument, it would be in the future twice.
    let mut copying = Copying::<F, G>::default();
    let result = poll_fn(|cx| copying.poll(cx, first, second, counters, timeouts)).await;
    match &result {
        Ok(Ended::Done) => return Ok(()),
        Ok(Ended::Left) | Err(CopyError::Idle | CopyError::HalfClosed) => {}
        Err(CopyError::Broken { end: End::First, .. }) => Box::pin(flush(second)).await,
        Err(CopyError::Broken { end: End::Second, .. }) => Box::pin(flush(first)).await,
    }
    first.reset();
    second.reset();
    result.map(|_| ())
}

/// Waits until what was sent to an end has left: a reset would overtake and destroy it.
async fn flush(end: &mut impl Duplex) {
    let flushed = async {
        while !end.is_flushed() {
            sleep(LOOK).await;
        }
    };
    // A peer that takes nothing for that long forfeits it.
    let _ = timeout(FLUSH, flushed).await;
}

/// How a copy ends without an error.
enum Ended {
    /// Both ends have received everything.
    Done,
    /// One end has received everything, FIN included, and has closed the connection without finishing its own
    /// direction: the other end must see a reset, or it would take the truncated data for complete.
    Left,
}

/// Both directions and their timers.
#[derive(Default)]
struct Copying<F, G> {
    to_second: OneWay<F>,
    to_first: OneWay<G>,
    watch: Watch,
    linger: Linger,
    /// Bytes read and dropped because their receiver accepts no more.
    dropped: u64,
}

impl<F, G> Copying<F, G> {
    fn poll<A: Duplex, B: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        first: &mut A,
        second: &mut B,
        counters: &impl Count,
        timeouts: &Timeouts,
    ) -> Poll<Result<Ended, CopyError>>
    where
        F: Flow<A, B>,
        G: Flow<B, A>,
    {
        loop {
            let Self { to_second, to_first, dropped, .. } = self;
            let first_failed = to_second.poll(cx, first, second, |bytes| counters.sent(bytes), dropped);
            let second_failed = to_first.poll(cx, second, first, |bytes| counters.received(bytes), dropped);
            if to_second.is_done() && to_first.is_done() {
                return Poll::Ready(Ok(Ended::Done));
            }
            let moved = counters.sum().wrapping_add(*dropped);
            if to_first.is_done() && to_second.is_refused() {
                let over = A::STOPS || first_failed.is_some();
                return poll_over(cx, to_second, over, &mut self.linger, (moved, *dropped))
                    .map_err(broken(End::Second));
            }
            if to_second.is_done() && to_first.is_refused() {
                let over = B::STOPS || second_failed.is_some();
                return poll_over(cx, to_first, over, &mut self.linger, (moved, *dropped)).map_err(broken(End::First));
            }
            let failed = first_failed.map(|error| (End::First, to_first.is_done(), error));
            let failed = failed.or(second_failed.map(|error| (End::Second, to_second.is_done(), error)));
            if let Some((end, has_all, error)) = failed {
                let left = has_all && error.kind() == io::ErrorKind::NotConnected;
                return Poll::Ready(if left { Ok(Ended::Left) } else { Err(broken(end)(error)) });
            }
            if let Poll::Ready((end, error)) = self.poll_delivery(cx, moved) {
                return Poll::Ready(Err(broken(end)(error)));
            }
            // An end that has sent its FIN can still be reset, and no read would report it.
            let (done, open) = (self.to_second.is_done(), self.to_first.flows());
            if done && let Poll::Ready(error) = first.poll_broken(cx) {
                match self.heard(End::First, open, error, first, second) {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => continue,
                }
            }
            let (done, open) = (self.to_first.is_done(), self.to_second.flows());
            if done && let Poll::Ready(error) = second.poll_broken(cx) {
                match self.heard(End::Second, open, error, first, second) {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => continue,
                }
            }
            if let Some(error) = ready!(self.poll_watch(cx, first, second, counters, timeouts)) {
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Ready when the grace period for delivering the last bytes of a failed end is over.
    fn poll_delivery<A: Duplex, B: Duplex>(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<(End, io::Error)>
    where
        F: Flow<A, B>,
        G: Flow<B, A>,
    {
        let failing = (self.to_second.flow().failing(), self.to_first.flow().failing());
        let refused = self.to_second.is_refused() || self.to_first.is_refused();
        if !(failing.0 || failing.1 || refused) {
            return Poll::Pending;
        }
        if !(self.to_second.is_refused() && self.to_first.is_refused()) {
            ready!(self.linger.poll(cx, Wait::Delivered, moved));
        }
        let error = if failing.0 {
            self.to_second.flow().give_up().map(|error| (End::First, error))
        } else if failing.1 {
            self.to_first.flow().give_up().map(|error| (End::Second, error))
        } else if self.to_second.is_refused() {
            self.to_second.take_refusal().map(|error| (End::Second, error))
        } else {
            self.to_first.take_refusal().map(|error| (End::First, error))
        };
        error.map_or(Poll::Pending, Poll::Ready)
    }

    /// Handles an error of `end`, all of whose bytes were delivered: either it accepts no more, or the connection is
    /// broken.
    fn heard<A: Duplex, B: Duplex>(
        &mut self,
        end: End,
        open: bool,
        error: io::Error,
        first: &mut A,
        second: &mut B,
    ) -> Option<CopyError>
    where
        F: Flow<A, B>,
        G: Flow<B, A>,
    {
        match end {
            End::First if open && takes_no_more(&error) => self.to_first.refuse(second, error, &mut self.dropped),
            End::Second if open && takes_no_more(&error) => self.to_second.refuse(first, error, &mut self.dropped),
            _ => return Some(broken(end)(error)),
        }
        None
    }

    /// Ready with an error that woke no task, or with a timeout; `None` means poll again.
    fn poll_watch<A: Duplex, B: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        first: &mut A,
        second: &mut B,
        counters: &impl Count,
        timeouts: &Timeouts,
    ) -> Poll<Option<CopyError>>
    where
        F: Flow<A, B>,
        G: Flow<B, A>,
    {
        let half_closed = !(self.to_second.flows() && self.to_first.flows());
        let deaf = half_closed || self.to_second.flow().blocked() || self.to_first.flow().blocked();
        loop {
            let silent = ready!(self.watch.poll_tick(cx, timeouts, half_closed, deaf, counters));
            if let Some(error) = first.take_error() {
                let open = self.to_second.is_done() && self.to_first.flows();
                return Poll::Ready(self.heard(End::First, open, error, first, second));
            }
            if let Some(error) = second.take_error() {
                let open = self.to_first.is_done() && self.to_second.flows();
                return Poll::Ready(self.heard(End::Second, open, error, first, second));
            }
            if silent {
                return Poll::Ready(Some(if half_closed { CopyError::HalfClosed } else { CopyError::Idle }));
            }
        }
    }
}

/// Decides how the copy ends once the receiver of `refused` has sent everything and accepts no more. It is an orderly
/// end unless that connection broke. What remains is that the sender stops, which is `over` if it has, or can be told
/// to.
fn poll_over<F>(
    cx: &mut Context<'_>,
    refused: &mut OneWay<F>,
    over: bool,
    linger: &mut Linger,
    (moved, dropped): (u64, u64),
) -> Poll<Result<Ended, io::Error>> {
    // A closed connection is only an error if bytes for it were dropped.
    let hurts = |why: &io::Error| !takes_no_more(why) || why.kind() == io::ErrorKind::NotConnected && dropped > 0;
    if refused.refusal().is_some_and(hurts) {
        return Poll::Ready(refused.take_refusal().map_or(Ok(Ended::Done), Err));
    }
    if !over && !refused.has_ended() {
        ready!(linger.poll(cx, Wait::Silence, moved));
    }
    Poll::Ready(Ok(Ended::Done))
}

/// Whether the error only means that an end which has sent its FIN accepts no more: `EPIPE` is what the kernel reports
/// for a reset after FIN (`tcp_reset`), and what [`Duplex`] asks of other implementations.
fn takes_no_more(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected)
}

fn broken(end: End) -> impl Fn(io::Error) -> CopyError {
    move |error| CopyError::Broken { end, error }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::Instant;

    use super::super::duplex::Queue;
    use super::super::watch::CHECK;
    use super::*;

    /// A scripted end: sends what it was given, accepts up to `takes` bytes, and records what happened.
    #[derive(Debug, Default)]
    struct Scripted {
        gives: Vec<Bytes>,
        ends: bool,
        /// Sends a byte at each tick besides.
        drips: Option<tokio::time::Interval>,
        takes: usize,
        refuses: Option<io::ErrorKind>,
        taken: usize,
        consumed: usize,
        finished: bool,
        broken: bool,
        reset: bool,
    }

    impl Duplex for Scripted {
        const READS_AHEAD: bool = false;
        const STOPS: bool = false;

        fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
            if let Some(drips) = &mut self.drips {
                return drips.poll_tick(cx).map(|_| Ok(Some(Bytes::from_static(b"x"))));
            }
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
            if let Some(kind) = self.refuses {
                return Poll::Ready(Err(kind.into()));
            }
            let sent = queue.take(self.takes.saturating_sub(self.taken)).len();
            self.taken += sent;
            if sent == 0 { Poll::Pending } else { Poll::Ready(Ok(sent)) }
        }

        fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.finished = true;
            Poll::Ready(Ok(()))
        }

        fn is_flushed(&self) -> bool {
            true
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
        assert_eq!((counters.sent.into_inner(), counters.received.into_inner()), (11, 2));
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
    async fn who_has_answered_and_takes_no_more_leaves_the_other_end_time_to_hear_it() {
        let every = |seconds| Some(tokio::time::interval(Duration::from_secs(seconds)));
        for (drips, wait) in [(every(1), 30), (every(100), 10)] {
            let (mut a, mut b) = (Scripted { drips, ..end(&[], false, 9) }, end(&[b"answer"], true, 0));
            b.refuses = Some(io::ErrorKind::BrokenPipe);
            let began = Instant::now();
            both_ways(&mut a, &mut b, &Counters::default(), &NONE).await.unwrap();
            assert!(began.elapsed().as_secs() <= wait, "{:?}", began.elapsed());
            assert_eq!((a.taken, a.finished, a.reset, b.reset), (6, true, false, false));
            assert!(a.consumed > 0, "nobody takes what it still sends");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_answered_and_breaks_is_broken() {
        let (mut a, mut b) = (end(&[b"question"], false, 9), end(&[b"answer"], true, 0));
        b.refuses = Some(io::ErrorKind::TimedOut);
        let error = both_ways(&mut a, &mut b, &Counters::default(), &NONE).await.unwrap_err();
        assert_eq!(error.to_string(), "upstream: timed out");
        assert_eq!(error.reversed().to_string(), "downstream: timed out");
        assert_eq!((a.taken, a.finished, a.reset), (6, true, true));
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
        timeout(Duration::from_secs(7 * 24 * 3600), forever).await.unwrap_err();
    }
}
