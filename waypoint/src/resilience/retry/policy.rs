//! Pure. Whether a failed attempt is made again.
//!
//! A request that never left is always safe to repeat. One that may have been received is repeated only when its method
//! is idempotent or the route says so: a payment must not be made twice because a connection broke.

use std::fmt;
use std::time::Duration;

use http::{Method, StatusCode};
use transport::net::backoff::Backoff;

use crate::request::grpc::GrpcCode;

/// What a route or the mesh allows.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Most retries after the first attempt; 0 switches retries off.
    pub attempts: u32,
    /// Status codes that are tried again.
    pub codes: StatusSet,
    /// gRPC status codes that are tried again, as bits.
    pub grpc: u32,
    /// Whether methods that are not idempotent are left alone once they may have been received.
    pub idempotent_only: bool,
    /// How long to wait.
    pub backoff: Backoff,
    /// Whether `Retry-After` lengthens the wait, and forbids the retry when it exceeds the deadline.
    pub honour_retry_after: bool,
}

/// A set of HTTP status codes 400 to 599.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusSet([u64; 4]);

impl StatusSet {
    /// Adds a code; false when it is not within 400 to 599.
    pub fn insert(&mut self, code: u16) -> bool {
        let Some(bit) = code.checked_sub(400).filter(|bit| *bit < 200) else { return false };
        self.0[usize::from(bit / 64)] |= 1 << (bit % 64);
        true
    }

    /// Whether the code is in the set.
    pub fn contains(&self, code: u16) -> bool {
        code.checked_sub(400).is_some_and(|bit| bit < 200 && self.0[usize::from(bit / 64)] >> (bit % 64) & 1 == 1)
    }

    /// The codes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let set = *self;
        (400..600).filter(move |code| set.contains(*code))
    }
}

impl FromIterator<u16> for StatusSet {
    fn from_iter<I: IntoIterator<Item = u16>>(codes: I) -> Self {
        let mut set = Self::default();
        for code in codes {
            set.insert(code);
        }
        set
    }
}

impl fmt::Debug for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Provably not processed: no connection, REFUSED_STREAM, GOAWAY below the stream.
    Unsent,
    /// The connection broke after the request may have been received and before response headers.
    Reset,
    /// The attempt's own timeout passed.
    TryTimeout,
    /// Response headers came.
    Status(StatusCode),
    /// Response headers came with a gRPC status, in the headers or in trailers without a message before them.
    Grpc(GrpcCode),
}

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The caller says that a repetition is safe (`Idempotency-Key`).
    pub has_idempotency_key: bool,
    /// How many retries were made already.
    pub retries: u32,
    /// Whether the request's body can be sent again from the start.
    pub replayable: bool,
    /// Whether the caller of the failing hop marked the failure as retried already (`x-mesh-retried`).
    pub retried_below: bool,
    /// `Retry-After` of the response.
    pub retry_after: Option<Duration>,
    /// What is left of the deadline; `None` is unlimited.
    pub left: Option<Duration>,
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Hand the response, or the failure, to the caller.
    Done(GaveUp),
    /// Wait, then try another endpoint, if the budget allows.
    Retry(Duration),
}

/// Why there is no (further) retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// The outcome is not a failure that the policy retries.
    NotRetriable,
    /// It may have been received, and the method is not idempotent.
    NotIdempotent,
    /// All attempts are used.
    Exhausted,
    /// The body is gone.
    BodyGone,
    /// A hop further on has retried and given up: doing it again would multiply the load.
    RetriedBelow,
    /// The wait would pass the deadline.
    Deadline,
}

/// Whether RFC 9110, 9.2.2 calls the method idempotent.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE)
}

impl RetryPolicy {
    /// Decides after an attempt that ended with `outcome`. `random` is 0 to 1.
    pub fn decide(&self, outcome: Outcome, attempt: &Attempt<'_>, random: f64) -> Decision {
        if !self.is_retriable(outcome) {
            return Decision::Done(GaveUp::NotRetriable);
        }
        if outcome != Outcome::Unsent {
            if attempt.retried_below {
                return Decision::Done(GaveUp::RetriedBelow);
            }
            let safe = is_idempotent(attempt.method) || attempt.has_idempotency_key;
            if self.idempotent_only && !safe && !matches!(outcome, Outcome::Grpc(_)) {
                return Decision::Done(GaveUp::NotIdempotent);
            }
        }
        if attempt.retries >= self.attempts {
            return Decision::Done(GaveUp::Exhausted);
        }
        if !attempt.replayable {
            return Decision::Done(GaveUp::BodyGone);
        }
        let told = attempt.retry_after.filter(|_| self.honour_retry_after).unwrap_or_default();
        let wait = self.backoff.at_least(attempt.retries, told, random);
        if attempt.left.is_some_and(|left| wait >= left) {
            return Decision::Done(GaveUp::Deadline);
        }
        Decision::Retry(wait)
    }

    /// Whether the policy may ever retry this request after it was sent, which is when its body is worth keeping.
    pub fn may_retry(&self, method: &Method, has_idempotency_key: bool, is_grpc: bool) -> bool {
        self.attempts > 0
            && (!self.idempotent_only || is_idempotent(method) || has_idempotency_key || is_grpc && self.grpc != 0)
    }

    fn is_retriable(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Unsent | Outcome::Reset | Outcome::TryTimeout => true,
            Outcome::Status(status) => self.codes.contains(status.as_u16()),
            Outcome::Grpc(code) => self.grpc >> code.0 & 1 == 1,
        }
    }
}

/// Reads `Retry-After` in seconds. The date form is left alone: clocks differ, and retries are about seconds.
pub fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok();
    let pushback = || headers.get("grpc-retry-pushback-ms")?.to_str().ok()?.parse().ok().map(Duration::from_millis);
    seconds.map(Duration::from_secs).or_else(pushback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            attempts: 2,
            codes: [502, 503, 504].into_iter().collect(),
            grpc: 1 << GrpcCode::UNAVAILABLE.0,
            idempotent_only: true,
            backoff: Backoff { first: Duration::from_millis(25), longest: Duration::from_secs(1) },
            honour_retry_after: true,
        }
    }

    fn attempt(method: &Method) -> Attempt<'_> {
        Attempt {
            method,
            has_idempotency_key: false,
            retries: 0,
            replayable: true,
            retried_below: false,
            retry_after: None,
            left: None,
        }
    }

    const AGAIN: Decision = Decision::Retry(Duration::from_millis(25));

    #[test]
    fn a_request_that_never_left_is_always_tried_again() {
        for method in [Method::GET, Method::POST, Method::PATCH] {
            assert_eq!(policy().decide(Outcome::Unsent, &attempt(&method), 0.0), AGAIN);
        }
    }

    #[test]
    fn a_post_that_may_have_been_received_is_not_repeated() {
        let unavailable = Outcome::Status(StatusCode::SERVICE_UNAVAILABLE);
        for outcome in [Outcome::Reset, Outcome::TryTimeout, unavailable] {
            assert_eq!(policy().decide(outcome, &attempt(&Method::GET), 0.0), AGAIN);
            let refused = policy().decide(outcome, &attempt(&Method::POST), 0.0);
            assert_eq!(refused, Decision::Done(GaveUp::NotIdempotent));
            let keyed = Attempt { has_idempotency_key: true, ..attempt(&Method::POST) };
            assert_eq!(policy().decide(outcome, &keyed, 0.0), AGAIN);
            let opted_in = RetryPolicy { idempotent_only: false, ..policy() };
            assert_eq!(opted_in.decide(outcome, &attempt(&Method::POST), 0.0), AGAIN);
        }
    }

    #[test]
    fn grpc_codes_decide_for_grpc() {
        let post = attempt(&Method::POST);
        assert_eq!(policy().decide(Outcome::Grpc(GrpcCode::UNAVAILABLE), &post, 0.0), AGAIN);
        let internal = policy().decide(Outcome::Grpc(GrpcCode::INTERNAL), &post, 0.0);
        assert_eq!(internal, Decision::Done(GaveUp::NotRetriable));
    }

    #[test]
    fn every_limit_ends_the_retries() {
        let get = attempt(&Method::GET);
        let gave_up = |attempt: Attempt<'_>| policy().decide(Outcome::Reset, &attempt, 0.0);
        assert_eq!(gave_up(Attempt { retries: 2, ..get }), Decision::Done(GaveUp::Exhausted));
        assert_eq!(gave_up(Attempt { replayable: false, ..get }), Decision::Done(GaveUp::BodyGone));
        assert_eq!(gave_up(Attempt { retried_below: true, ..get }), Decision::Done(GaveUp::RetriedBelow));
        let late = Attempt { left: Some(Duration::from_millis(20)), ..get };
        assert_eq!(gave_up(late), Decision::Done(GaveUp::Deadline));
        let after = Some(Duration::from_secs(3));
        assert_eq!(gave_up(Attempt { retry_after: after, ..get }), Decision::Retry(Duration::from_secs(3)));
        let told = policy().decide(Outcome::Reset, &Attempt { retry_after: after, ..get }, 1.0);
        assert_eq!(told, Decision::Retry(Duration::from_millis(3025)), "what was told to all is spread too");
        let beyond = Attempt { retry_after: after, left: Some(Duration::from_secs(2)), ..get };
        assert_eq!(gave_up(beyond), Decision::Done(GaveUp::Deadline));
    }

    #[test]
    fn status_sets_hold_exactly_error_codes() {
        let mut set: StatusSet = [500, 599, 400].into_iter().collect();
        assert!(!set.insert(399) && !set.insert(600) && !set.insert(200));
        assert_eq!(set.iter().collect::<Vec<_>>(), [400, 500, 599]);
    }
}
