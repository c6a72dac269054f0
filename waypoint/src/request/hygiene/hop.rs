//! Pure. Connection-specific (hop-by-hop) headers (RFC 9110, 7.6.1): never forwarded, in either direction.

use http::header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Those that are known by name. `http2-settings` belongs to the upgrade to HTTP/2, which is never accepted (RFC 9113,
/// 3.1).
const KNOWN: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether a field is for all recipients, whatever `Connection` says of it (RFC 9110, 7.6.1): framing, sender and
/// destination of the message, and what every hop reads of it. A hop that removed such a field would make policy or
/// backend judge another request.
fn is_for_all(name: &HeaderName) -> bool {
    const FOR_ALL: [&str; 20] = [
        "authorization",
        "b3",
        "cache-control",
        "cookie",
        "date",
        "etag",
        "expires",
        "forwarded",
        "host",
        "idempotency-key",
        "last-modified",
        "location",
        "max-forwards",
        "origin",
        "range",
        "set-cookie",
        "traceparent",
        "tracestate",
        "vary",
        "x-request-id",
    ];
    const FAMILIES: [&str; 8] =
        ["accept", "access-control-", "content-", "grpc-", "if-", "sec-", "x-b3-", "x-forwarded-"];
    let name = name.as_str();
    FOR_ALL.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Fields that a sender has called its connection's, and that were therefore taken away.
pub type Nominated = SmallVec<[HeaderName; 1]>;

/// Takes them away, those that `Connection` nominates included, and says which of the latter there were.
pub fn strip(headers: &mut HeaderMap) -> Nominated {
    let mut nominated = Nominated::new();
    if headers.contains_key(CONNECTION) {
        let values: SmallVec<[HeaderValue; 2]> = headers.get_all(CONNECTION).iter().cloned().collect();
        for option in values.iter().flat_map(options) {
            // Options that are no names nominate nothing.
            let Ok(name) = HeaderName::from_bytes(option) else { continue };
            if !is_for_all(&name) && !KNOWN.contains(&name) && headers.remove(&name).is_some() {
                nominated.push(name);
            }
        }
    }
    for name in &KNOWN {
        headers.remove(name);
    }
    nominated
}

/// Whether the sender takes trailers (RFC 9110, 10.1.4); the other members of `TE` mean its own connection.
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    let members = headers.get_all(TE).iter().flat_map(options);
    members.map(name_of).any(|member| member.eq_ignore_ascii_case(b"trailers"))
}

/// Whether `Connection` has this option.
pub fn has_option(headers: &HeaderMap, wanted: &str) -> bool {
    headers.get_all(CONNECTION).iter().flat_map(options).any(|option| option.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The members of a list, without the white space around them. A value need not be text.
pub fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

fn name_of(member: &[u8]) -> &[u8] {
    member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn headers_of_the_connection_stay_on_it() {
        let mut headers = headers(&[
            ("connection", b"x-private, keep-alive, host"),
            ("connection", b"X-More,content-length, authorization, Cookie,x-forwarded-for"),
            // One option that is not text hides none of the others.
            ("connection", b"\xff, x-hidden ,, te"),
            ("x-private", b"1"),
            ("x-more", b"1"),
            ("x-hidden", b"1"),
            ("host", b"a"),
            ("authorization", b"Bearer x"),
            ("cookie", b"a=1"),
            ("x-forwarded-for", b"10.0.0.1"),
            ("content-length", b"3"),
            ("te", b"trailers"),
            ("upgrade", b"h2c"),
            ("http2-settings", b"AAMAAABkAAQAAP__"),
            ("keep-alive", b"timeout=5"),
            ("proxy-connection", b"keep-alive"),
            ("proxy-authenticate", b"Basic"),
            ("proxy-authorization", b"Basic eDp5"),
            ("transfer-encoding", b"chunked"),
            ("x-public", b"2"),
        ]);
        let nominated = strip(&mut headers);
        assert_eq!(nominated.as_slice(), ["x-private", "x-more", "x-hidden"]);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-length", "cookie", "host", "x-forwarded-for", "x-public"]);
    }

    #[test]
    fn what_every_hop_reads_cannot_be_nominated() {
        for name in [
            "accept-encoding",
            "access-control-request-method",
            "authorization",
            "cache-control",
            "content-type",
            "content-encoding",
            "cookie",
            "forwarded",
            "grpc-timeout",
            "idempotency-key",
            "if-match",
            "max-forwards",
            "origin",
            "range",
            "sec-websocket-key",
            "traceparent",
            "x-b3-traceid",
            "x-forwarded-client-cert",
            "x-forwarded-host",
            "x-request-id",
        ] {
            let mut headers = headers(&[("connection", name.to_ascii_uppercase().as_bytes()), (name, b"1")]);
            assert!(strip(&mut headers).is_empty() && headers.contains_key(name), "{name}");
        }
        let mut absent = headers(&[("connection", b"x-role, close, te"), ("te", b"trailers")]);
        assert!(strip(&mut absent).is_empty(), "what is not there was not taken away");
    }

    #[test]
    fn trailers_are_one_of_many_members() {
        for (value, takes) in [
            (&b"trailers"[..], true),
            (b"Trailers", true),
            (b"deflate;q=0.5, trailers", true),
            (b"trailers;q=1", true),
            (b"deflate", false),
            (b"x-trailers", false),
            (b"", false),
        ] {
            assert_eq!(takes_trailers(&headers(&[("te", value)])), takes, "{value:?}");
        }
    }
}
