//! Connections that stop being HTTP: `Upgrade` of HTTP/1.1 and extended CONNECT of HTTP/2 (RFC 8441). Towards the backend
//! it is always an HTTP/1.1 upgrade.

use base64::Engine as _;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

/// What a client wants its connection to become.
pub struct Wanted {
    /// `websocket` and the like.
    pub protocol: HeaderValue,
    /// The client's side of it.
    pub client: OnUpgrade,
    /// Whether it is an extended CONNECT.
    pub extended: bool,
}

/// Finds out whether a request asks for an upgrade. To be asked before hop-by-hop headers are taken away.
pub fn wanted(request: &mut Request<Incoming>) -> Option<Wanted> {
    if request.method() == Method::CONNECT {
        let protocol = request.extensions().get::<Protocol>()?.as_str().parse().ok()?;
        return Some(Wanted { protocol, client: hyper::upgrade::on(request), extended: true });
    }
    let headers = request.headers();
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let upgrades = named.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| upgrades)?.clone();
    // Clear-text HTTP/2 by upgrade is obsolete (RFC 9113, 3.1) and never needed: callers may begin with HTTP/2.
    if protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return None;
    }
    Some(Wanted { protocol, client: hyper::upgrade::on(request), extended: false })
}

/// Makes an extended CONNECT into what HTTP/1.1 knows.
pub fn prepare(parts: &mut Parts, wanted: &Wanted) {
    if wanted.extended {
        parts.extensions.remove::<Protocol>();
        let key = base64::engine::general_purpose::STANDARD.encode(fastrand::u128(..).to_be_bytes());
        if let Ok(key) = HeaderValue::try_from(key) {
            parts.headers.insert(SEC_WEBSOCKET_KEY, key);
        }
        parts.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    }
}

/// The head that the client gets when the backend has agreed.
pub fn agreed(wanted: &Wanted, headers: &HeaderMap) -> (StatusCode, HeaderMap) {
    let mut headers = headers.clone();
    if wanted.extended {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
        headers.remove("sec-websocket-accept");
        return (StatusCode::OK, headers);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, wanted.protocol.clone());
    (StatusCode::SWITCHING_PROTOCOLS, headers)
}

/// Copies bytes both ways until both have ended. `kept` is what must live as long; it is told how many bytes passed.
pub async fn carry<T>(wanted: Wanted, response: Response<Incoming>, kept: T, told: impl FnOnce(T, u64, u64)) {
    let backend = hyper::upgrade::on(response).await;
    let (client, backend) = match (wanted.client.await, backend) {
        (Ok(client), Ok(backend)) => (client, backend),
        (Err(error), _) | (_, Err(error)) => return tracing::debug!("upgrade: {error}"),
    };
    let copied = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await;
    let (forth, back) = copied.unwrap_or_default();
    told(kept, forth, back);
}
