//! Pure. Fields that mean one connection only (RFC 9110, 7.6.1): no hop passes them on, in either direction.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Those that are known by name. `http2-settings` belongs to the upgrade to HTTP/2, which is never taken (RFC 9113, 3.1).
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

/// Whether a field means all recipients, whatever `Connection` says of it (RFC 9110, 7.6.1): how the message is read, who
/// sends it and for whom. A hop that took such a field away would make policy or backend judge another caller.
fn is_for_all(name: &HeaderName) -> bool {
    const FOR_ALL: [HeaderName; 5] = [HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE, FORWARDED];
    FOR_ALL.contains(name) || name.as_str().starts_with("x-forwarded-")
}

/// Takes them away, those that `Connection` nominates included.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let values: SmallVec<[HeaderValue; 2]> = headers.get_all(CONNECTION).iter().cloned().collect();
        for option in values.iter().flat_map(options) {
            // Options that are no names nominate nothing.
            let Ok(name) = HeaderName::from_bytes(option) else { continue };
            if !is_for_all(&name) {
                headers.remove(name);
            }
        }
    }
    for name in &KNOWN {
        headers.remove(name);
    }
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
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-length", "cookie", "host", "x-forwarded-for", "x-public"]);
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
