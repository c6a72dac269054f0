//! Pure. Which offers to change the protocol are taken: WebSocket, over HTTP/1.1 (RFC 6455) and over HTTP/2 (RFC 8441).
//!
//! Every other one is an offer, which a server may ignore (RFC 9110, 7.8), and we do: the request goes on with its
//! method and its content as if it had not been made. So does a WebSocket that is none: with another method than GET,
//! or with content.

use aws_lc_rs::digest;
use base64::Engine as _;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};

use super::hop;

/// The only protocol that is carried.
pub const WEBSOCKET: &str = "websocket";

/// A connection that is to become a WebSocket. Its method is GET for all who look at the request, however it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// By `Upgrade`, with the client's `Sec-WebSocket-Key` if it sent one.
    Http1(Option<HeaderValue>),
    /// By extended CONNECT.
    Http2,
}

/// Whether an HTTP/1 request asks for a WebSocket. To be asked before fields of the connection are taken away.
pub fn asked(method: &Method, version: Version, headers: &HeaderMap, has_content: bool) -> Option<Upgrade> {
    // In HTTP/1.0 `Upgrade` means nothing (RFC 9110, 7.8).
    if method != Method::GET || version != Version::HTTP_11 || has_content || !headers.contains_key(UPGRADE) {
        return None;
    }
    let offers = headers.get_all(UPGRADE).iter().flat_map(hop::options);
    let offered = offers.into_iter().any(|offer| offer.eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    let carried = offered && hop::has_option(headers, "upgrade");
    carried.then(|| Upgrade::Http1(headers.get(SEC_WEBSOCKET_KEY).cloned()))
}

/// Makes the head of a WebSocket's request what HTTP/1.1 knows; `random` is a key for those that came without.
pub fn offer(headers: &mut HeaderMap, random: [u8; 16]) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    if !headers.contains_key(SEC_WEBSOCKET_KEY)
        && let Ok(key) = HeaderValue::try_from(base64::engine::general_purpose::STANDARD.encode(random))
    {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
}

/// Makes a request of [`offer`] an extended CONNECT (RFC 8441, 5); `None` when it has no host.
pub fn extend<B>(mut request: Request<B>) -> Option<Request<B>> {
    let host = request.headers_mut().remove(HOST)?;
    let target = request.uri().path_and_query()?.clone();
    let uri = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(target).build().ok()?;
    for name in [CONNECTION, UPGRADE, TE, TRANSFER_ENCODING, CONTENT_LENGTH, SEC_WEBSOCKET_KEY] {
        request.headers_mut().remove(name);
    }
    *request.uri_mut() = uri;
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    request.extensions_mut().insert(hyper::ext::Protocol::from_static(WEBSOCKET));
    Some(request)
}

/// Whether a backend's answer to [`offer`] changes the connection to what was asked for.
pub fn is_agreed(status: StatusCode, headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter().flat_map(hop::options);
    let named = protocols.next().is_some_and(|protocol| protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    status == StatusCode::SWITCHING_PROTOCOLS && named && protocols.next().is_none()
}

/// Puts the head of an answer that agreed into the client's form; fields of the connection are gone already.
pub fn agree(upgrade: &Upgrade, headers: &mut HeaderMap) -> StatusCode {
    headers.remove(CONTENT_LENGTH);
    match upgrade {
        Upgrade::Http2 => {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            StatusCode::OK
        }
        Upgrade::Http1(key) => {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            // A backend that was asked over HTTP/2 has seen no key.
            if !headers.contains_key(SEC_WEBSOCKET_ACCEPT)
                && let Some(accept) = key.as_ref().and_then(accept)
            {
                headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            }
            StatusCode::SWITCHING_PROTOCOLS
        }
    }
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455, 4.2.2).
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::try_from(base64::engine::general_purpose::STANDARD.encode(context.finish())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_a_websocket_is_taken() {
        let one = Version::HTTP_11;
        for (method, version, lines, content, taken) in [
            (Method::GET, one, &[("connection", "Upgrade"), ("upgrade", "websocket")][..], false, true),
            (Method::GET, one, &[("connection", "keep-alive, upgrade"), ("upgrade", "h2c, WebSocket")], false, true),
            (
                Method::GET,
                one,
                &[("connection", "close"), ("connection", "upgrade"), ("upgrade", "websocket")],
                false,
                true,
            ),
            (Method::GET, one, &[("upgrade", "websocket")], false, false),
            (Method::GET, one, &[("connection", "upgrade"), ("upgrade", "TLS/1.2")], false, false),
            (Method::GET, one, &[("connection", "upgrade"), ("upgrade", "h2c")], false, false),
            (Method::GET, one, &[("connection", "upgrade"), ("upgrade", "websocket/2")], false, false),
            (Method::GET, one, &[("connection", "upgrade")], false, false),
            (Method::POST, one, &[("connection", "upgrade"), ("upgrade", "websocket")], false, false),
            (Method::GET, one, &[("connection", "upgrade"), ("upgrade", "websocket")], true, false),
            (Method::GET, Version::HTTP_10, &[("connection", "upgrade"), ("upgrade", "websocket")], false, false),
        ] {
            assert_eq!(asked(&method, version, &headers(lines), content).is_some(), taken, "{method} {lines:?}");
        }
    }

    #[test]
    fn a_websocket_is_translated_both_ways() {
        let mut request = Request::get("/chat?a=1").header("host", "shop").header("x", "1").body(()).unwrap();
        offer(request.headers_mut(), [7; 16]);
        assert_eq!(request.headers()[SEC_WEBSOCKET_KEY], "BwcHBwcHBwcHBwcHBwcHBw==");
        let extended = extend(request).unwrap();
        assert_eq!(
            (extended.method(), extended.uri().to_string().as_str()),
            (&Method::CONNECT, "http://shop/chat?a=1")
        );
        assert_eq!(extended.extensions().get::<hyper::ext::Protocol>().unwrap().as_str(), "websocket");
        let mut left: Vec<&str> = extended.headers().keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["sec-websocket-version", "x"]);

        // The example of RFC 6455, 1.3.
        let key = Upgrade::Http1(Some(HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")));
        let mut answer = headers(&[("sec-websocket-protocol", "chat")]);
        assert_eq!(agree(&key, &mut answer), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut answer = headers(&[("sec-websocket-accept", "x"), ("content-length", "0")]);
        assert_eq!((agree(&Upgrade::Http2, &mut answer), answer.len()), (StatusCode::OK, 0));
    }

    #[test]
    fn an_answer_agrees_to_what_was_asked_and_to_nothing_else() {
        let switching = StatusCode::SWITCHING_PROTOCOLS;
        assert!(is_agreed(switching, &headers(&[("upgrade", "WebSocket")])));
        assert!(!is_agreed(switching, &headers(&[])));
        assert!(!is_agreed(switching, &headers(&[("upgrade", "h2c")])));
        assert!(!is_agreed(switching, &headers(&[("upgrade", "websocket, h2c")])));
        assert!(!is_agreed(StatusCode::OK, &headers(&[("upgrade", "websocket")])));
    }
}
