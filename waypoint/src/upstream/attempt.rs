//! One attempt at one endpoint: connects, sends the request, receives the head of the response.

use std::time::Duration;

use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use thiserror::Error;
use tokio::time::timeout;

use super::body::RequestBody;
use super::connect::{Client, ConnectError, Connector};
use super::connections::{Lease, Limits, Version};
use super::endpoint::Endpoint;
use super::interim::Hearing;
use crate::request::grpc::{self, GrpcCode};
use crate::request::hygiene::answer::{self, BadAnswer};
use crate::request::hygiene::upgrade;
use crate::resilience::retry::Outcome;

/// A response's head, and what goes with it.
pub struct Answer {
    /// The head and the body that follows.
    pub response: Response<Incoming>,
    /// A frame of the body that was looked at already.
    pub peeked: Option<Frame<Bytes>>,
    /// The connection, to be released at the end of the body.
    pub lease: Lease,
    /// The gRPC status, as far as it is known by now.
    pub grpc: Option<GrpcCode>,
    /// The connection was upgraded, as the request asked.
    pub switched: bool,
}

/// Why an attempt got no response.
#[derive(Debug, Error)]
pub enum AttemptError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The request was not sent, or the endpoint has not processed it.
    #[error("not sent: {0}")]
    Unsent(hyper::Error),
    /// The body cannot be sent again.
    #[error("not sent, and its body is gone")]
    BodyGone,
    /// The connection broke.
    #[error("connection broke before the response: {0}")]
    Reset(hyper::Error),
    /// The response is ambiguous.
    #[error("malformed response: {0}")]
    Bad(#[from] BadAnswer),
    /// The per-try timeout has expired.
    #[error("no response within {} ms", .0.as_millis())]
    TryTimeout(Duration),
}

impl AttemptError {
    /// The outcome as the retry policy sees it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) | Self::Unsent(_) | Self::BodyGone => Outcome::Unsent,
            Self::Reset(_) => Outcome::Reset,
            Self::Bad(_) => Outcome::Status(StatusCode::BAD_GATEWAY),
            Self::TryTimeout(_) => Outcome::TryTimeout,
        }
    }
}

/// Stale connections that are passed over before a request is said not to have been sent.
const STALE: usize = 3;

/// How an attempt is made.
pub struct How<'a> {
    /// Makes connections.
    pub connector: &'a Connector,
    /// The client on whose behalf it is sent.
    pub client: &'a Client,
    /// The HTTP version.
    pub version: Version,
    /// For a WebSocket, which HTTP is tried first.
    pub upgrade: Option<Version>,
    /// Limits of connections.
    pub limits: Limits,
    /// Timeout until the response headers.
    pub limit: Option<Duration>,
    /// Whether the request is gRPC.
    pub grpc: bool,
    /// The sink of interim responses.
    pub interim: Option<Hearing>,
}

/// Makes one attempt. `request` gives the request anew each time it is called, as long as its body can be had.
pub async fn attempt(
    endpoint: &Endpoint,
    how: &How<'_>,
    mut request: impl FnMut() -> Option<Request<RequestBody>>,
) -> Result<Answer, AttemptError> {
    let attempting = async {
        let mut stale = 0;
        let mut next = request();
        while let Some(sending) = next {
            let connections = &endpoint.state.connections;
            if how.upgrade == Some(Version::H2)
                && let Some(lease) =
                    connections.extended(how.connector, &endpoint.target, how.client, &how.limits).await?
            {
                return extend(lease, sending).await;
            }
            let leased = connections.lease(how.connector, &endpoint.target, how.client, how.version, &how.limits);
            let mut lease = leased.await?;
            let sent = match &how.interim {
                Some(interim) => interim.within(lease.send(sending)).await?,
                None => lease.send(sending).await,
            };
            match sent {
                Ok(response) => {
                    answer::check(response.version(), response.status(), response.headers())?;
                    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                    if switches && !(how.upgrade.is_some() && upgrade::is_agreed(response.status(), response.headers()))
                    {
                        return Err(AttemptError::Bad(BadAnswer::Unasked));
                    }
                    let answer = peek(response, lease, how.grpc);
                    return Ok(Answer { switched: switches, ..answer });
                }
                // The peer closed the idle connection, which says nothing about the endpoint's health.
                Err(error) if error.unsent && lease.is_reused() && stale < STALE => {
                    stale += 1;
                    next = error.request.map(|request| *request).or_else(&mut request);
                }
                Err(_) if lease.is_flooded() => return Err(AttemptError::Bad(BadAnswer::Interim)),
                Err(error) if error.unsent => return Err(AttemptError::Unsent(error.error)),
                Err(error) => return Err(AttemptError::Reset(error.error)),
            }
        }
        Err(AttemptError::BodyGone)
    };
    match how.limit {
        None => attempting.await,
        Some(limit) => timeout(limit, attempting).await.unwrap_or(Err(AttemptError::TryTimeout(limit))),
    }
}

/// Asks for a WebSocket over HTTP/2 (RFC 8441, 5).
async fn extend(mut lease: Lease, request: Request<RequestBody>) -> Result<Answer, AttemptError> {
    let request = upgrade::extend(request).ok_or(AttemptError::BodyGone)?;
    let sent = lease.send(request).await;
    let response =
        sent.map_err(
            |error| if error.unsent { AttemptError::Unsent(error.error) } else { AttemptError::Reset(error.error) },
        )?;
    answer::check(response.version(), response.status(), response.headers())?;
    let switched = response.status() == StatusCode::OK;
    Ok(Answer { response, peeked: None, lease, grpc: None, switched })
}

/// Looks at the first frame of a gRPC response if it is there already: a failed call is often headers and trailers and
/// nothing else. Never waits, so no stream is held up.
fn peek(response: Response<Incoming>, lease: Lease, is_grpc: bool) -> Answer {
    let mut answer = Answer { response, peeked: None, lease, grpc: None, switched: false };
    if !is_grpc {
        return answer;
    }
    answer.grpc = grpc::status(answer.response.headers());
    if answer.grpc.is_none() && !answer.response.body().is_end_stream() {
        let first = answer.response.body_mut().frame().now_or_never();
        if let Some(Some(Ok(frame))) = first {
            answer.grpc = frame.trailers_ref().and_then(grpc::status);
            answer.peeked = Some(frame);
        }
    }
    answer
}
