//! Pure. The responses that the waypoint makes itself, each with its reason: `x-culvert-error`, and for gRPC a status
//! and a message.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::identity::RETRIED;
use crate::rejection::Rejection;
use crate::request::grpc;
use crate::request::hygiene::BadRequest;
use crate::upstream::Failure;

/// Says why the waypoint answered in a backend's place.
pub const ERROR: HeaderName = HeaderName::from_static("x-culvert-error");

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Why a backend does not answer; `None` for redirects and what OPTIONS gets, which are no errors.
    pub rejection: Option<Rejection>,
    /// Human-readable text, for the access log and the body.
    pub detail: String,
    /// The HTTP status.
    status: StatusCode,
    /// Further headers.
    headers: Option<Box<HeaderMap>>,
}

impl Reply {
    /// A rejection with a human-readable text.
    pub fn rejected(rejection: Rejection, detail: impl Into<String>) -> Self {
        Self { rejection: Some(rejection), detail: detail.into(), status: rejection.status(), headers: None }
    }

    fn without_error(status: StatusCode) -> Self {
        Self { rejection: None, detail: String::new(), status, headers: None }
    }

    /// The response to a request whose head is refused.
    pub fn bad(why: BadRequest) -> Self {
        let mut reply = Self::rejected(why.into(), why.to_string());
        if why == BadRequest::Connect {
            reply.put(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"));
        }
        reply
    }

    /// The answer of the last hop that a request may reach (RFC 9110, 7.6.2).
    pub fn last_hop(method: &Method) -> Self {
        if *method == Method::OPTIONS {
            return Self::without_error(StatusCode::OK);
        }
        Self::rejected(Rejection::Reflection, "this hop reflects no requests")
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        let mut reply = Self::without_error(StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND));
        match HeaderValue::from_str(location) {
            Ok(location) => {
                reply.put(LOCATION, location);
                reply
            }
            Err(_) => Self::rejected(Rejection::RouteInvalid, "the redirect's location is not a header value"),
        }
    }

    /// An answer to a CORS preflight.
    pub fn preflight(headers: HeaderMap) -> Self {
        Self { headers: Some(Box::new(headers)), ..Self::without_error(StatusCode::NO_CONTENT) }
    }

    /// The response to a token that is not valid.
    pub fn unauthenticated(detail: &str) -> Self {
        let mut reply = Self::rejected(Rejection::InvalidToken, detail);
        let value = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        reply.put(WWW_AUTHENTICATE, value);
        reply
    }

    /// The response to a request over a rate limit.
    pub fn limited(wait: Duration) -> Self {
        let mut reply = Self::rejected(Rejection::RateLimited, "rate limit exceeded");
        reply.come_back(wait);
        reply
    }

    /// The response to a request that no endpoint answered.
    pub fn failed(failure: &Failure) -> Self {
        let mut reply = Self::rejected(failure.rejection, failure.detail.clone());
        if let Some(wait) = failure.retry_after {
            reply.come_back(wait);
        }
        if failure.retries > 0 {
            // Hops nearer the client must not multiply what was tried here.
            reply.put(HeaderName::from_static(RETRIED), HeaderValue::from_static("1"));
        }
        reply
    }

    fn put(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.get_or_insert_default().insert(name, value);
    }

    fn come_back(&mut self, wait: Duration) {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
            self.put(RETRY_AFTER, value);
        }
    }

    /// Status, headers and body as the caller gets them. gRPC callers get a response of trailers only.
    pub fn render(self, is_grpc: bool) -> (StatusCode, HeaderMap, String) {
        let mut headers = self.headers.map(|headers| *headers).unwrap_or_default();
        if let Some(rejection) = self.rejection {
            headers.insert(ERROR, HeaderValue::from_static(rejection.reason()));
        }
        if is_grpc && !self.status.is_redirection() && self.status != StatusCode::NO_CONTENT {
            let code = self.rejection.map_or(grpc::GrpcCode::OK, Rejection::grpc);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(code.0)));
            if let Ok(message) = HeaderValue::try_from(grpc::escape_message(&self.detail)) {
                headers.insert("grpc-message", message);
            }
            return (StatusCode::OK, headers, String::new());
        }
        if !self.detail.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        (self.status, headers, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_carries_its_reason() {
        let (status, headers, body) = Reply::rejected(Rejection::NoEndpoint, "nobody is ready").render(false);
        assert_eq!((status.as_u16(), body.as_str()), (503, "nobody is ready"));
        assert_eq!(headers[ERROR], "no_endpoint");
    }

    #[test]
    fn grpc_callers_get_trailers_only() {
        for (rejection, reason, code) in [
            (Rejection::NoRoute, "no_route", "12"),
            (Rejection::Denied, "rbac", "7"),
            (Rejection::Deadline, "deadline", "4"),
            (Rejection::RateLimited, "rate_limit", "8"),
            (Rejection::ConnectFailed, "connect", "14"),
        ] {
            let (sent, headers, body) = Reply::rejected(rejection, "why: é").render(true);
            assert_eq!((sent.as_u16(), body.as_str()), (200, ""));
            assert_eq!(headers["grpc-status"], code, "{reason}");
            assert_eq!(headers["grpc-message"], "why: %C3%A9");
            assert_eq!(headers[ERROR], reason);
        }
    }

    #[test]
    fn the_wait_is_rounded_up() {
        let (_, headers, _) = Reply::limited(Duration::from_millis(1200)).render(false);
        assert_eq!(headers[RETRY_AFTER], "2");
    }
}
