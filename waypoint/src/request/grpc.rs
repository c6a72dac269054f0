//! Pure. What of gRPC a proxy must know: which requests are gRPC, and status codes (gRPC over HTTP/2,
//! PROTOCOL-HTTP2.md).

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// A status code of gRPC, 0 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrpcCode(pub u8);

impl GrpcCode {
    /// Success.
    pub const OK: Self = Self(0);
    /// The caller gave up.
    pub const CANCELLED: Self = Self(1);
    /// Nothing that another code says.
    pub const UNKNOWN: Self = Self(2);
    /// The deadline passed.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// Refused by policy.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// A quota or limit is used up.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// Nobody serves this method.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// An invariant is broken.
    pub const INTERNAL: Self = Self(13);
    /// Try again, perhaps elsewhere.
    pub const UNAVAILABLE: Self = Self(14);
    /// No valid credentials.
    pub const UNAUTHENTICATED: Self = Self(16);

    /// Reads a code as retry policies write it: `unavailable`, `deadline-exceeded` or `14`.
    pub fn parse(text: &str) -> Option<Self> {
        let wanted = text.to_ascii_lowercase().replace('_', "-");
        if let Some(at) = NAMES.iter().position(|name| *name == wanted) {
            return u8::try_from(at).ok().map(Self);
        }
        text.parse().ok().filter(|code| *code <= 16).map(Self)
    }

    /// The name in lower case with hyphens.
    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or("unknown")
    }

    /// Whether the code says that the server, not the caller, is at fault: what a balancer and a breaker count.
    pub fn is_server_failure(self) -> bool {
        matches!(self.0, 4 | 8 | 13 | 14 | 15)
    }
}

const NAMES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

/// Whether the headers are those of a gRPC message: content type `application/grpc` or `application/grpc+…`.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()) else { return false };
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The `grpc-status` in headers or trailers, if there is a valid one.
pub fn status(headers: &HeaderMap) -> Option<GrpcCode> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok().filter(|code| *code <= 16).map(GrpcCode)
}

/// What `grpc-message` escapes in ASCII; beyond ASCII it is everything.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Escapes a text for `grpc-message`: bytes outside printable ASCII, and `%`, become `%XX`.
pub fn escape_message(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn codes_are_read_by_name_and_number() {
        assert_eq!(GrpcCode::parse("unavailable"), Some(GrpcCode::UNAVAILABLE));
        assert_eq!(GrpcCode::parse("DEADLINE_EXCEEDED"), Some(GrpcCode::DEADLINE_EXCEEDED));
        assert_eq!(GrpcCode::parse("14"), Some(GrpcCode::UNAVAILABLE));
        assert_eq!(GrpcCode::parse("17"), None);
        assert_eq!(GrpcCode::parse("nonsense"), None);
    }

    #[test]
    fn only_grpc_content_types_are_grpc() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), grpc, "{kind}");
        }
    }

    #[test]
    fn messages_are_escaped() {
        assert_eq!(escape_message("no é 100%\n~\u{7f}"), "no %C3%A9 100%25%0A~%7F");
    }
}
