//! Response bodies: counted, timed, and told about when they end. Nothing is buffered.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::{Sleep, sleep_until};

use crate::rejection::HttpFlag;
use crate::request::grpc;
use crate::request::hygiene::trailers;
use crate::resilience::breaker::BreakerLimits;
use crate::resilience::deadline::Upload;
use crate::telemetry::Record;
use crate::upstream::Replay;
use crate::upstream::connections::Lease;
use crate::upstream::endpoint::InFlight;
use crate::upstream::gate::Passes;

/// A response's body.
pub enum ResponseBody {
    /// The body of a response that the waypoint makes itself.
    Text(Option<Bytes>, Box<Record>),
    /// The body of a backend's response.
    Stream(Box<Streamed>),
    /// No body: the connection was upgraded.
    Switched,
}

/// Why a body breaks off.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The backend's connection broke.
    #[error(transparent)]
    Upstream(#[from] hyper::Error),
    /// The deadline of the whole exchange has passed.
    #[error("the deadline of the request has passed")]
    Deadline,
    /// The idle timeout has expired.
    #[error("the response was idle for too long")]
    Idle,
    /// The HTTP/2 stream ended without END_STREAM.
    #[error("the response ended before it was complete")]
    Cut,
}

impl BodyError {
    /// What the log says of it.
    fn flag(&self) -> HttpFlag {
        match self {
            Self::Upstream(_) | Self::Cut => HttpFlag::UpstreamProtocolError,
            Self::Deadline => HttpFlag::UpstreamRequestTimeout,
            Self::Idle => HttpFlag::StreamIdleTimeout,
        }
    }
}

/// A body from a backend, and all that must end with it.
pub struct Streamed {
    /// The body.
    pub body: Incoming,
    /// The first frame, when it was read ahead.
    pub peeked: Option<Frame<Bytes>>,
    /// The connection.
    pub lease: Option<Lease>,
    /// The request's body, which may still be on its way.
    pub upload: Option<Replay>,
    /// Whether the backend speaks HTTP/2, whose streams end explicitly (END_STREAM).
    pub two: bool,
    /// Whether content could follow that must not: the connection is not used again.
    pub dubious: bool,
    /// The endpoint's figures.
    pub flight: InFlight,
    /// The service's figures.
    pub pass: Passes,
    /// When the endpoint counts as failing.
    pub breaker: BreakerLimits,
    /// Telemetry, written when the body ends.
    pub record: Box<Record>,
    /// Deadline of the whole exchange.
    pub deadline: Option<Instant>,
    /// Idle timeout.
    pub idle: Option<Duration>,
    /// When the last frame was received.
    pub last: Instant,
    /// Bytes of the request's body that had been received by then.
    pub received: u64,
    /// Armed only while a body keeps us waiting.
    pub timer: Option<Pin<Box<Sleep>>>,
    /// The body has ended.
    pub ended: bool,
}

impl Streamed {
    fn pass_on(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.record.sent += data.len() as u64;
            if self.body.is_end_stream() {
                self.end();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            if self.record.grpc
                && let Some(code) = grpc::status(trailers)
            {
                self.record.outcome.grpc = Some(code);
                if code.is_server_failure() {
                    self.flight.failed_late(&self.breaker, Instant::now());
                }
            }
            self.end();
        }
    }

    /// The body has ended as it should.
    pub fn end(&mut self) {
        self.ended = true;
        let lease = self.lease.take();
        let upload = self.upload.take();
        // A connection that is still busy with the request is nobody else's.
        match upload.filter(|upload| matches!(upload.upload(), Upload::Flowing(_))) {
            Some(upload) => {
                if let Some(rest) = upload.answered() {
                    tokio::spawn(async move {
                        if rest.stalls().await
                            && let Some(lease) = lease
                        {
                            lease.abort();
                        }
                    });
                }
            }
            None => {
                if let Some(lease) = lease.filter(|_| !self.dubious) {
                    lease.release();
                }
            }
        }
    }

    fn break_off(&mut self, error: &BodyError) {
        self.ended = true;
        let outcome = &mut self.record.outcome;
        outcome.flag = error.flag();
        outcome.error = Some(error.to_string());
        self.flight.failed_late(&self.breaker, Instant::now());
    }

    /// Whether a timeout has expired; arms the timer otherwise.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        loop {
            let silent = self.idle.map(|idle| self.last + idle);
            let Some(next) = [self.deadline, silent].into_iter().flatten().min() else { return Poll::Pending };
            let now = Instant::now();
            if next <= now {
                let late = self.deadline.is_some_and(|deadline| deadline <= now);
                let received = self.record.received();
                if !late && received != self.received {
                    // The client is the one who speaks.
                    (self.received, self.last) = (received, now);
                    continue;
                }
                return Poll::Ready(if late { BodyError::Deadline } else { BodyError::Idle });
            }
            // Armed once and looked at when it fires: bodies that flow never touch it.
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next.into())));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer = None;
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = match self.peeked.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.body).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if self.idle.is_some() {
                    self.last = Instant::now();
                }
                self.pass_on(&frame);
                Poll::Ready(Some(Ok(allowed(frame))))
            }
            Poll::Ready(None) if self.two && !self.body.is_end_stream() => {
                self.break_off(&BodyError::Cut);
                Poll::Ready(Some(Err(BodyError::Cut)))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let error = BodyError::Upstream(error);
                self.break_off(&error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => self.poll_late(cx).map(|error| {
                self.break_off(&error);
                Some(Err(error))
            }),
        }
    }
}

/// A frame without the trailers that may not be there.
fn allowed(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            trailers::keep_allowed(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.record.outcome.flag = HttpFlag::DownstreamConnectionTermination;
            self.record.outcome.error.get_or_insert_with(|| "the client went away".to_owned());
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Text(text, record) => Poll::Ready(text.take().map(|text| {
                record.sent += text.len() as u64;
                Ok(Frame::data(text))
            })),
            Self::Stream(streamed) => streamed.poll_frame(cx),
            Self::Switched => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text, _) => text.is_none(),
            Self::Stream(streamed) => streamed.ended || streamed.peeked.is_none() && streamed.body.is_end_stream(),
            Self::Switched => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text, _) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Stream(streamed) if streamed.peeked.is_none() => streamed.body.size_hint(),
            Self::Stream(_) => SizeHint::default(),
            Self::Switched => SizeHint::with_exact(0),
        }
    }
}
