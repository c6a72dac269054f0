//! Pure. Which fields are allowed as trailers. They are passed on as trailers or not at all, never as headers.
//!
//! RFC 9110, 6.5.1: nothing that is needed for framing, routing, authentication, negotiation or reading the content;
//! and nothing that only the mesh may say, because nobody behind us looks for it there twice.

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// By name, sorted.
const FORBIDDEN: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "l5d-client-id",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-real-ip",
];

/// By their beginning.
const FAMILIES: &[&str] = &["x-forwarded-", "x-envoy-", "x-mesh-", "x-culvert-", "sec-websocket-"];

/// Takes away what may not be there.
pub fn keep_allowed(trailers: &mut HeaderMap) {
    let forbidden: SmallVec<[HeaderName; 4]> = trailers.keys().filter(|name| is_forbidden(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

fn is_forbidden(name: &HeaderName) -> bool {
    let name = name.as_str();
    FORBIDDEN.binary_search(&name).is_ok() || FAMILIES.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn trailers_say_nothing_that_belongs_before_the_content() {
        assert!(FORBIDDEN.is_sorted());
        let mut trailers = HeaderMap::new();
        let names = [
            "content-length",
            "host",
            "authorization",
            "x-forwarded-client-cert",
            "x-mesh-source",
            "grpc-status",
            "checksum",
        ];
        for name in names {
            trailers.append(name, HeaderValue::from_static("1"));
        }
        trailers.append("set-cookie", HeaderValue::from_static("a"));
        trailers.append("set-cookie", HeaderValue::from_static("b"));
        keep_allowed(&mut trailers);
        let mut left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["checksum", "grpc-status"]);
    }
}
