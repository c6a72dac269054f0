//! One direction of a copy: bytes from one end to the other until the source ends, or nobody takes them any more.

use std::io;
use std::task::{Context, Poll, ready};

use super::duplex::{Duplex, Queue};

/// Rounds that one direction may go before the other one, and other tasks, get their turn.
pub(super) const ROUNDS: usize = 4;

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

    /// Whether the source has failed, which is told when the bytes that it gave before have been sent.
    fn failing(&self) -> bool;

    /// How the source has failed, told now: the bytes will not be sent.
    fn give_up(&mut self) -> Option<io::Error>;

    /// Bytes that were received and will not be sent.
    fn unsent(&self) -> usize;
}

/// Why a direction cannot go on.
pub(super) struct FlowError {
    pub(super) error: io::Error,
    /// Whether it was the source that failed.
    pub(super) reading: bool,
}

/// Moves bytes through this process.
#[derive(Default)]
pub(super) struct Direction {
    queue: Queue,
    /// How the source has failed.
    failed: Option<io::Error>,
    ended: bool,
    finished: bool,
}

impl<A: Duplex, B: Duplex> Flow<A, B> for Direction {
    fn blocked(&self) -> bool {
        !self.queue.is_empty()
    }

    fn failing(&self) -> bool {
        self.failed.is_some()
    }

    fn give_up(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    fn unsent(&self) -> usize {
        self.queue.len()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        count: impl Fn(u64),
    ) -> Poll<Result<(), FlowError>> {
        let writing = |error| FlowError { error, reading: false };
        for _ in 0..ROUNDS {
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            let mut starved = self.ended;
            while !starved && (self.queue.is_empty() || A::READS_AHEAD) {
                match from.poll_receive(cx) {
                    Poll::Ready(Ok(Some(chunk))) => self.queue.push(chunk),
                    Poll::Ready(Ok(None)) => (self.ended, starved) = (true, true),
                    Poll::Ready(Err(error)) => (self.failed, self.ended, starved) = (Some(error), true, true),
                    Poll::Pending => starved = true,
                }
            }
            while !self.queue.is_empty() {
                let sent = ready!(to.poll_send(cx, &mut self.queue)).map_err(writing)?;
                count(sent as u64);
                from.consumed(sent);
            }
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(FlowError { error, reading: true }));
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

/// One direction, and what has become of it.
#[derive(Default)]
pub(super) struct OneWay<F> {
    flow: F,
    state: State,
}

#[derive(Default)]
enum State {
    /// Bytes go from one end to the other.
    #[default]
    Flows,
    /// The source has ended, and the other end knows.
    Done,
    /// The other end takes no more: what still comes is read and dropped.
    Refused { why: io::Error, ended: bool },
}

impl<F> OneWay<F> {
    /// Moves what can be moved now, or drops it. `Some` when the source has failed.
    pub(super) fn poll<A: Duplex, B: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        count: impl Fn(u64),
        dropped: &mut u64,
    ) -> Option<io::Error>
    where
        F: Flow<A, B>,
    {
        if matches!(self.state, State::Flows) {
            match self.flow.poll(cx, from, to, count) {
                Poll::Pending => return None,
                Poll::Ready(Ok(())) => self.state = State::Done,
                Poll::Ready(Err(FlowError { error, reading: true })) => return Some(error),
                Poll::Ready(Err(FlowError { error, reading: false })) => self.refuse::<A, B>(from, error, dropped),
            }
        }
        let State::Refused { ended, .. } = &mut self.state else { return None };
        for _ in 0..ROUNDS {
            if *ended {
                return None;
            }
            match from.poll_receive(cx) {
                Poll::Ready(Ok(Some(chunk))) => {
                    from.consumed(chunk.len());
                    *dropped += chunk.len() as u64;
                }
                Poll::Ready(Ok(None)) => *ended = true,
                Poll::Ready(Err(error)) => return Some(error),
                Poll::Pending => return None,
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    /// The other end takes no more.
    pub(super) fn refuse<A: Duplex, B: Duplex>(&mut self, from: &mut A, why: io::Error, dropped: &mut u64)
    where
        F: Flow<A, B>,
    {
        let unsent = self.flow.unsent();
        *dropped += unsent as u64;
        // What came from a tunnel counts against its window until it is said to have been taken.
        from.consumed(unsent);
        let (flow, ended) = (std::mem::take(&mut self.flow), matches!(self.state, State::Done));
        drop(flow);
        self.state = State::Refused { why, ended };
    }

    /// How bytes are moved.
    pub(super) fn flow(&mut self) -> &mut F {
        &mut self.flow
    }

    /// Whether bytes go.
    pub(super) fn flows(&self) -> bool {
        matches!(self.state, State::Flows)
    }

    /// Whether all that the source had to say was passed on, and its end.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the other end takes no more.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal().is_some()
    }

    /// Whether the source has ended while what it gave was dropped.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Refused { ended: true, .. })
    }

    /// Why the other end takes no more.
    pub(super) fn refusal(&self) -> Option<&io::Error> {
        match &self.state {
            State::Refused { why, .. } => Some(why),
            State::Flows | State::Done => None,
        }
    }

    /// The same, owned: the direction is over.
    pub(super) fn take_refusal(&mut self) -> Option<io::Error> {
        match std::mem::take(&mut self.state) {
            State::Refused { why, .. } => Some(why),
            State::Flows | State::Done => None,
        }
    }
}
