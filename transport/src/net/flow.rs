//! One direction of a copy, from the source's first byte to its FIN or to the receiver's refusal.

use std::io;
use std::task::{Context, Poll, ready};

use super::duplex::{Duplex, Queue};

/// Read-and-write rounds of one direction before it yields to the other one and to other tasks.
pub(super) const ROUNDS: usize = 4;

/// A way of moving the bytes of one direction.
pub(super) trait Flow<A, B>: Default {
    /// Moves what can be moved now. Ready when the source's FIN has been forwarded.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        count: impl Fn(u64),
    ) -> Poll<Result<(), FlowError>>;

    /// Whether bytes wait to be sent. Meanwhile the source is not read, so a reset of it goes unnoticed.
    fn blocked(&self) -> bool;

    /// Whether the source has failed; reported only after the bytes before the failure have been sent.
    fn failing(&self) -> bool;

    /// Takes the source's error now: the bytes before it will not be sent.
    fn give_up(&mut self) -> Option<io::Error>;

    /// Received bytes that are not sent yet.
    fn unsent(&self) -> usize;
}

/// Why a direction cannot continue.
pub(super) struct FlowError {
    pub(super) error: io::Error,
    /// Whether reading failed (the source), not writing (the receiver).
    pub(super) reading: bool,
}

/// Moves bytes through buffers of this process.
#[derive(Default)]
pub(super) struct Direction {
    queue: Queue,
    /// The source's error, until the bytes before it have been sent.
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

/// One direction and its state.
#[derive(Default)]
pub(super) struct OneWay<F> {
    flow: F,
    state: State,
}

#[derive(Default)]
enum State {
    /// Bytes are forwarded.
    #[default]
    Flows,
    /// The source's FIN has been forwarded.
    Done,
    /// The receiver accepts no more: what the source still sends is read and dropped.
    Refused { why: io::Error, ended: bool },
}

impl<F> OneWay<F> {
    /// Moves or drops what can be now. `Some` when the source has failed.
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

    /// Marks the receiver as accepting no more.
    pub(super) fn refuse<A: Duplex, B: Duplex>(&mut self, from: &mut A, why: io::Error, dropped: &mut u64)
    where
        F: Flow<A, B>,
    {
        let unsent = self.flow.unsent();
        *dropped += unsent as u64;
        // Bytes of a tunnel count against its window until they are consumed.
        from.consumed(unsent);
        let (flow, ended) = (std::mem::take(&mut self.flow), matches!(self.state, State::Done));
        drop(flow);
        self.state = State::Refused { why, ended };
    }

    /// The flow that moves the bytes.
    pub(super) fn flow(&mut self) -> &mut F {
        &mut self.flow
    }

    /// Whether bytes are forwarded.
    pub(super) fn flows(&self) -> bool {
        matches!(self.state, State::Flows)
    }

    /// Whether everything was forwarded, the source's FIN included.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the receiver accepts no more.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal().is_some()
    }

    /// Whether the source has sent its FIN to a receiver that accepts no more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Refused { ended: true, .. })
    }

    /// Why the receiver accepts no more.
    pub(super) fn refusal(&self) -> Option<&io::Error> {
        match &self.state {
            State::Refused { why, .. } => Some(why),
            State::Flows | State::Done => None,
        }
    }

    /// The same by value; the direction must not be polled again.
    pub(super) fn take_refusal(&mut self) -> Option<io::Error> {
        match std::mem::take(&mut self.state) {
            State::Refused { why, .. } => Some(why),
            State::Flows | State::Done => None,
        }
    }
}
