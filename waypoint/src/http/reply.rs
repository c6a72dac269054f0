//! Pure. The answers that we make ourselves, each with its reason: `x-culvert-error`, and for gRPC a status and a message.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::identity::RETRIED;
use crate::request::grpc;
use crate::request::hygiene::BadRequest;
use crate::upstream::Failure;

/// Says why the waypoint answered in a backend's place.
pub const ERROR: HeaderName = HeaderName::from_static("x-culvert-error");

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status, for HTTP.
    pub status: StatusCode,
    /// A word for the reason; empty for redirects and preflights, which are no errors.
    pub reason: &'static str,
    /// Envoy's response flag.
    pub flag: &'static str,
    /// In words, for log and body.
    pub detail: String,
    /// Further headers.
    pub headers: Option<Box<HeaderMap>>,
}

impl Reply {
    /// An answer with a reason.
    pub fn error(status: u16, reason: &'static str, flag: &'static str, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, reason, flag, detail: detail.into(), headers: None }
    }

    /// A refusal at the door.
    pub fn bad(why: BadRequest) -> Self {
        let flag = if why == BadRequest::Connect { "-" } else { "DPE" };
        let mut reply = Self::error(why.status().as_u16(), why.reason(), flag, why.to_string());
        if why == BadRequest::Connect {
            reply.put(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"));
        }
        reply
    }

    /// The answer of the last hop that a request may reach (RFC 9110, 7.6.2).
    pub fn last_hop(method: &Method) -> Self {
        if *method == Method::OPTIONS {
            return Self::error(200, "", "-", "");
        }
        Self::error(501, "method", "-", "this hop reflects no requests")
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        let mut reply = Self::error(status, "", "-", "");
        match HeaderValue::from_str(location) {
            Ok(location) => {
                reply.put(LOCATION, location);
                reply
            }
            Err(_) => Self::error(500, "route_invalid", "-", "the redirect's location is not a header value"),
        }
    }

    /// An answer to a CORS preflight.
    pub fn preflight(headers: HeaderMap) -> Self {
        Self { headers: Some(Box::new(headers)), ..Self::error(204, "", "-", "") }
    }

    /// A refusal of a token.
    pub fn unauthenticated(detail: &str) -> Self {
        let mut reply = Self::error(401, "jwt", "UAEX", detail);
        let value = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        reply.put(WWW_AUTHENTICATE, value);
        reply
    }

    /// Too many requests.
    pub fn limited(wait: Duration) -> Self {
        let mut reply = Self::error(429, "rate_limit", "RL", "rate limit exceeded");
        reply.come_back(wait);
        reply
    }

    /// What became of a request that no endpoint answered.
    pub fn failed(failure: &Failure) -> Self {
        let mut reply = Self::error(failure.status.as_u16(), failure.reason, failure.flag, failure.detail.clone());
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
        if !self.reason.is_empty() {
            headers.insert(ERROR, HeaderValue::from_static(self.reason));
        }
        if is_grpc && !self.status.is_redirection() && self.status != StatusCode::NO_CONTENT {
            let code = match self.reason {
                "no_route" => grpc::GrpcCode::UNIMPLEMENTED,
                _ => grpc::code_of(self.status),
            };
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
        let (status, headers, body) = Reply::error(503, "no_endpoint", "UH", "nobody is ready").render(false);
        assert_eq!((status.as_u16(), body.as_str()), (503, "nobody is ready"));
        assert_eq!(headers[ERROR], "no_endpoint");
    }

    #[test]
    fn grpc_callers_get_trailers_only() {
        for (status, reason, code) in [
            (404, "no_route", "12"),
            (403, "rbac", "7"),
            (504, "deadline", "4"),
            (429, "rate_limit", "8"),
            (503, "connect", "14"),
        ] {
            let (sent, headers, body) = Reply::error(status, reason, "-", "why: é").render(true);
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
