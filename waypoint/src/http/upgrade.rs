//! Connections that stop being HTTP: `Upgrade` of HTTP/1.1 and extended CONNECT of HTTP/2 (RFC 8441). Towards the backend
//! it is always an HTTP/1.1 upgrade.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

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

/// Copies bytes both ways until both have ended, or none has come for `idle`. `kept` is what must live as long; it is told
/// how many bytes passed.
pub async fn carry<T>(
    wanted: Wanted,
    response: Response<Incoming>,
    idle: Option<Duration>,
    kept: T,
    told: impl FnOnce(T, u64, u64),
) {
    let backend = hyper::upgrade::on(response).await;
    let (client, backend) = match (wanted.client.await, backend) {
        (Ok(client), Ok(backend)) => (client, backend),
        (Err(error), _) | (_, Err(error)) => return tracing::debug!("upgrade: {error}"),
    };
    let (forth, back) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut client = Counted { stream: TokioIo::new(client), read: &forth };
    let mut backend = Counted { stream: TokioIo::new(backend), read: &back };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut backend) => {}
        () = silence(idle, || forth.load(Ordering::Relaxed).wrapping_add(back.load(Ordering::Relaxed))) => {}
    }
    told(kept, forth.load(Ordering::Relaxed), back.load(Ordering::Relaxed));
}

/// Ends when `count` has not changed for `idle`, a quarter more at most.
async fn silence(idle: Option<Duration>, count: impl Fn() -> u64) {
    let Some(idle) = idle else { return std::future::pending().await };
    let (mut last, mut quiet) = (count(), 0);
    while quiet < 4 {
        tokio::time::sleep(idle / 4).await;
        let now = count();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

/// A stream that counts what is read from it.
struct Counted<'a, S> {
    stream: S,
    read: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_silence_ends_a_stream() {
        let count = AtomicU64::new(0);
        let began = tokio::time::Instant::now();
        let busy = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(30)).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::join!(busy, silence(Some(Duration::from_secs(60)), || count.load(Ordering::Relaxed)));
        let after = began.elapsed().as_secs();
        assert!((655..=680).contains(&after), "{after}");
    }
}
