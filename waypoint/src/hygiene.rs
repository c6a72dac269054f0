//! Pure. Requests that are refused whatever the routes say, and headers that no hop may pass on.
//!
//! What two parsers could read differently is refused, not repaired (RFC 9112, 11.2; RFC 9113, 8.2.2 and 10.3).

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use thiserror::Error;

/// Most headers of a request.
pub const MAX_HEADERS: usize = 100;
/// Most bytes of a request's head.
pub const MAX_HEAD: usize = 64 << 10;

/// Stands in a request that is to be refused: put there by our own first look at it. From a caller it does the same.
pub const REFUSED: &str = "x-culvert-refused";

/// Why a request is refused with 400.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadRequest {
    /// HTTP/1.1 without `Host`, or HTTP/2 without `:authority` and `host`.
    #[error("no host")]
    NoHost,
    /// Several `Host` headers, or one that differs from `:authority`.
    #[error("more than one host")]
    Hosts,
    /// The host is not a host.
    #[error("malformed host")]
    MalformedHost,
    /// Both `Content-Length` and `Transfer-Encoding`, or several lengths that differ.
    #[error("ambiguous body length")]
    BodyLength,
    /// The head cannot be read in one way only.
    #[error("ambiguous or malformed head")]
    Malformed,
    /// A connection-specific header in HTTP/2.
    #[error("connection-specific header in HTTP/2")]
    ConnectionHeader,
}

/// The host of a request, or why it is refused.
pub fn check(request: &Parts) -> Result<HeaderValue, BadRequest> {
    let headers = &request.headers;
    if headers.contains_key(REFUSED) {
        return Err(BadRequest::Malformed);
    }
    if request.version >= Version::HTTP_2 {
        let forbidden = [CONNECTION, TRANSFER_ENCODING, UPGRADE];
        let te = headers.get(TE).is_some_and(|value| value != "trailers");
        if te || forbidden.iter().any(|name| headers.contains_key(name)) {
            return Err(BadRequest::ConnectionHeader);
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let differ = lengths.any(|other| other != first);
        if differ || headers.contains_key(TRANSFER_ENCODING) || !is_number(first) {
            return Err(BadRequest::BodyLength);
        }
    }
    host(request)
}

fn is_number(value: &HeaderValue) -> bool {
    !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit)
}

fn host(request: &Parts) -> Result<HeaderValue, BadRequest> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(BadRequest::Hosts);
    }
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let host = match (authority, header) {
        (Some(authority), Some(header)) if !header.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            return Err(BadRequest::Hosts);
        }
        (_, Some(header)) => header.clone(),
        (Some(authority), None) => HeaderValue::from_str(authority).map_err(|_| BadRequest::MalformedHost)?,
        (None, None) => return Err(BadRequest::NoHost),
    };
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(byte);
    if host.is_empty() || !host.as_bytes().iter().all(allowed) {
        return Err(BadRequest::MalformedHost);
    }
    Ok(host)
}

/// Headers that mean one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    UPGRADE,
];

/// Takes hop-by-hop headers away, those that `Connection` names included. `te: trailers` stays, because gRPC servers
/// insist on it; body framing is for the next hop to choose.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    let trailers = headers.get(TE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(TRANSFER_ENCODING);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(version: Version, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        use BadRequest::{BodyLength, ConnectionHeader, Hosts, MalformedHost, NoHost};
        let one = Version::HTTP_11;
        let two = Version::HTTP_2;
        for (version, uri, headers, error) in [
            (one, "/", &[][..], NoHost),
            (one, "/", &[("host", "a"), ("host", "b")], Hosts),
            (one, "/", &[("host", "a"), ("host", "a")], Hosts),
            (two, "http://a/", &[("host", "b")], Hosts),
            (one, "/", &[("host", "")], MalformedHost),
            (one, "/", &[("host", "a/b")], MalformedHost),
            (one, "/", &[("host", "a b")], MalformedHost),
            (one, "/", &[("host", "user@a")], MalformedHost),
            (one, "/", &[("host", "a"), ("content-length", "5"), ("transfer-encoding", "chunked")], BodyLength),
            (one, "/", &[("host", "a"), ("content-length", "5"), ("content-length", "6")], BodyLength),
            (one, "/", &[("host", "a"), ("content-length", "+5")], BodyLength),
            (one, "/", &[("host", "a"), ("x-culvert-refused", "line")], BadRequest::Malformed),
            (two, "http://a/", &[("connection", "close")], ConnectionHeader),
            (two, "http://a/", &[("transfer-encoding", "chunked")], ConnectionHeader),
            (two, "http://a/", &[("te", "gzip")], ConnectionHeader),
        ] {
            assert_eq!(check(&parts(version, uri, headers)), Err(error), "{headers:?}");
        }
    }

    #[test]
    fn ordinary_requests_pass_with_their_host() {
        for (version, uri, headers, host) in [
            (Version::HTTP_11, "/", &[("host", "shop:8080"), ("content-length", "5")][..], "shop:8080"),
            (Version::HTTP_2, "http://shop/", &[("te", "trailers")], "shop"),
            (Version::HTTP_2, "http://shop/", &[("host", "SHOP")], "SHOP"),
            (Version::HTTP_11, "/", &[("host", "[::1]:80")], "[::1]:80"),
        ] {
            assert_eq!(check(&parts(version, uri, headers)).unwrap(), host);
        }
    }

    #[test]
    fn headers_of_the_connection_stay_on_it() {
        let mut headers = parts(
            Version::HTTP_11,
            "/",
            &[
                ("connection", "x-private, keep-alive, host"),
                ("x-private", "1"),
                ("host", "a"),
                ("te", "trailers"),
                ("upgrade", "h2c"),
                ("x-public", "2"),
                ("transfer-encoding", "chunked"),
            ],
        )
        .headers;
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te", "x-public"]);
    }
}
