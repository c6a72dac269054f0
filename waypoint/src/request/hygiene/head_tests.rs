//! Heads, and what is decided about them.

use http::Request;

use super::*;

fn parts(method: &str, version: Version, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).version(version).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

const ZERO: Version = Version::HTTP_10;
const ONE: Version = Version::HTTP_11;
const TWO: Version = Version::HTTP_2;

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    use BadRequest::*;
    for (method, version, uri, headers, error) in [
        ("GET", ONE, "/", &[][..], NoHost),
        ("GET", ONE, "http://shop/", &[], NoHost),
        ("GET", TWO, "/", &[], NoHost),
        ("GET", ONE, "/", &[("host", "a"), ("host", "b")], Hosts),
        ("GET", ONE, "/", &[("host", "a"), ("host", "a")], Hosts),
        ("GET", ZERO, "/", &[("host", "a"), ("host", "a")], Hosts),
        ("GET", ONE, "http://a/", &[("host", "a"), ("host", "a")], Hosts),
        ("GET", TWO, "http://a/", &[("host", "b")], Hosts),
        ("GET", ONE, "/", &[("host", "")], MalformedHost),
        ("GET", ONE, "/", &[("host", "a/b")], MalformedHost),
        ("GET", ONE, "/", &[("host", "user@a")], MalformedHost),
        ("GET", ONE, "http://a/", &[("host", "a b")], MalformedHost),
        ("GET", ONE, "http://user@a/", &[("host", "a")], MalformedHost),
        ("GET", TWO, "http://user@a/", &[], MalformedHost),
        ("GET", ZERO, "/", &[("host", "%61")], MalformedHost),
        ("GET", ONE, "/", &[("host", "a"), ("content-length", "5"), ("transfer-encoding", "chunked")], BodyLength),
        ("GET", ONE, "/", &[("host", "a"), ("content-length", "5"), ("content-length", "6")], BodyLength),
        ("GET", ONE, "/", &[("host", "a"), ("content-length", "+5")], BodyLength),
        ("GET", ONE, "/", &[("host", "a"), ("x-culvert-refused", "line")], Malformed),
        ("GET", ONE, "/", &[("host", "a"), ("x-culvert-refused", "large")], TooLarge),
        ("GET", TWO, "http://a/", &[("connection", "close")], ConnectionHeader),
        ("GET", TWO, "http://a/", &[("keep-alive", "1")], ConnectionHeader),
        ("GET", TWO, "http://a/", &[("proxy-connection", "close")], ConnectionHeader),
        ("GET", TWO, "http://a/", &[("transfer-encoding", "chunked")], ConnectionHeader),
        ("GET", TWO, "http://a/", &[("te", "gzip")], ConnectionHeader),
        ("GET", TWO, "http://a/", &[("x-evil", "1 ")], Value),
        ("GET", TWO, "http://a/", &[("x-evil", "\t1")], Value),
        ("GET", ONE, "a:80", &[("host", "a:80")], Target),
        ("GET", ONE, "*", &[("host", "a")], Target),
        ("GET", ONE, "ftp://a/", &[("host", "a")], Target),
        ("CONNECT", ONE, "a:80", &[("host", "a:80")], Connect),
        ("CONNECT", TWO, "a:80", &[], Connect),
        ("POST", ONE, "/", &[("host", "a"), ("expect", "100-continue, x")], Expectation),
        ("POST", ONE, "/", &[("host", "a"), ("expect", "100-continue"), ("expect", "x")], Expectation),
    ] {
        let decided = decide(&mut parts(method, version, uri, headers), Content::None, "service");
        assert_eq!(decided, Err(error), "{method} {uri} {headers:?}");
    }
    let trace = decide(&mut parts("TRACE", ONE, "/", &[("host", "a")]), Content::Length(1), "service");
    assert_eq!(trace, Err(TraceContent));
}

#[test]
fn ordinary_requests_pass_with_their_host() {
    for (method, version, uri, headers, host) in [
        ("GET", ONE, "/", &[("host", "shop:8080"), ("content-length", "5")][..], "shop:8080"),
        ("GET", TWO, "http://shop/", &[("te", "trailers")], "shop"),
        ("GET", TWO, "http://shop/", &[("host", "SHOP")], "SHOP"),
        ("GET", TWO, "/", &[("host", "shop")], "shop"),
        ("GET", ONE, "/", &[("host", "[::1]:80")], "[::1]:80"),
        // The target wins over `Host` (RFC 9112, 3.2.2).
        ("GET", ONE, "http://shop/x", &[("host", "other")], "shop"),
        ("OPTIONS", ONE, "*", &[("host", "shop")], "shop"),
        ("OPTIONS", ONE, "http://shop", &[("host", "shop")], "shop"),
        ("GET", ZERO, "/", &[], "service"),
        ("GET", ZERO, "/", &[("host", "shop")], "shop"),
        ("GET", ZERO, "http://shop/", &[], "shop"),
        ("GET", ZERO, "/", &[("host", "shop"), ("expect", "nothing")], "shop"),
    ] {
        let mut parts = parts(method, version, uri, headers);
        assert_eq!(decide(&mut parts, Content::None, "service").unwrap().host, host, "{method} {uri} {headers:?}");
    }
}

#[test]
fn fields_of_the_connection_are_gone_before_anybody_looks() {
    let headers = [
        ("host", "a"),
        ("connection", "x-evil, te"),
        ("x-evil", "1"),
        ("te", "gzip, trailers"),
        ("expect", "100-continue"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("upgrade", "TLS/1.2"),
    ];
    let mut parts = parts("POST", ONE, "/", &headers);
    let head = decide(&mut parts, Content::Length(3), "service").unwrap();
    assert_eq!((head.upgrade, head.waits, head.content), (None, true, Content::Length(3)));
    let mut left: Vec<(&str, &[u8])> =
        parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    left.sort_unstable();
    assert_eq!(left, [("cookie", &b"a=1; b=2"[..]), ("host", b"a"), ("te", b"trailers")]);
    assert_eq!(parts.method, Method::POST);
}

#[test]
fn an_extended_connect_is_a_get_from_here_on_and_only_for_websockets() {
    let connect = |protocol: &'static str| {
        let mut parts = parts("CONNECT", TWO, "http://a/chat", &[]);
        parts.extensions.insert(Protocol::from_static(protocol));
        let decided = decide(&mut parts, Content::None, "service").map(|head| head.upgrade);
        (decided, parts.method)
    };
    assert_eq!(connect("websocket"), (Ok(Some(Upgrade::Http2)), Method::GET));
    assert_eq!(connect("connect-udp").0, Err(BadRequest::Protocol));
}
