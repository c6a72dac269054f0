//! An HTTP server whose delay and failure rate can be set while it runs, and which may call another server before it
//! responds.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

use super::fetch::Connections;
use super::report::{Behaviour, CONTROL, WebCount};
use super::socket::plain;

/// Trace context headers, which an application with `forward` copies.
pub const TRACE_HEADERS: [&str; 10] = [
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "grpc-trace-bin",
    "x-request-id",
];

/// The next tier, which the server calls before it responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Where it is.
    pub target: SocketAddr,
    /// Whether trace context headers are forwarded.
    pub forward: bool,
}

impl FromStr for Next {
    type Err = anyhow::Error;

    /// `ADDRESS:PORT`, or with `,forward` behind it.
    fn from_str(text: &str) -> Result<Self> {
        let (target, forward) = match text.strip_suffix(",forward") {
            Some(target) => (target, true),
            None => (text, false),
        };
        Ok(Self { target: target.parse().with_context(|| format!("address {target}"))?, forward })
    }
}

/// One server.
pub struct Web {
    name: String,
    next: Option<Next>,
    connections: Connections,
    delay_ms: AtomicU64,
    fail_per_mille: AtomicU32,
    /// Status of failures.
    status: AtomicU32,
    count: Mutex<WebCount>,
}

impl Web {
    /// A server that responds at once and successfully.
    pub fn new(name: &str, next: Option<Next>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            next,
            connections: Connections::default(),
            delay_ms: AtomicU64::new(0),
            fail_per_mille: AtomicU32::new(0),
            status: AtomicU32::new(503),
            count: Mutex::default(),
        })
    }

    /// Serves HTTP/1.1 and HTTP/2 without TLS until the process ends.
    pub fn serve(self: &Arc<Self>, listeners: Vec<TcpListener>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut tasks = Vec::new();
            for listener in listeners {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tasks.push(tokio::spawn(Arc::clone(self).accept(listener)));
            }
            for task in tasks {
                let _cancelled = task.await;
            }
            Ok(())
        })
    }

    async fn accept(self: Arc<Self>, listener: tokio::net::TcpListener) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let _unsupported = stream.set_nodelay(true);
            let web = Arc::clone(&self);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let web = Arc::clone(&web);
                    async move { Ok::<_, Infallible>(web.answer(request, plain(peer)).await) }
                });
                let _ended = auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    /// Handles a control request from inside the pod; responds with the counts so far, which are reset.
    fn command(&self, wanted: &str) -> Response<Full<Bytes>> {
        if let Some(wanted) = Behaviour::from_path(wanted) {
            self.delay_ms.store(wanted.delay_ms, Ordering::Relaxed);
            self.fail_per_mille.store(wanted.fail_per_mille, Ordering::Relaxed);
            self.status.store(u32::from(wanted.status), Ordering::Relaxed);
        }
        let count = std::mem::take(&mut *self.count.lock().unwrap_or_else(PoisonError::into_inner));
        Response::new(Full::new(Bytes::from(serde_json::to_string(&count).unwrap_or_default())))
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if let Some(wanted) = request.uri().path().strip_prefix(CONTROL).filter(|_| peer.ip().is_loopback()) {
            return self.command(wanted);
        }
        let (head, body) = request.into_parts();
        let received = body.collect().await.map_or(0, |body| body.to_bytes().len());
        let delay = self.delay_ms.load(Ordering::Relaxed);
        let fails = fastrand_per_mille() < self.fail_per_mille.load(Ordering::Relaxed);
        // Counted on arrival: a caller that gives up has caused work all the same.
        let mut status = if fails { u16::try_from(self.status.load(Ordering::Relaxed)).unwrap_or(503) } else { 200 };
        self.count.lock().unwrap_or_else(PoisonError::into_inner).sent += 1;
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let mut below = serde_json::Value::Null;
        if let Some(next) = self.next.filter(|_| status == 200) {
            let mut request = Request::get(head.uri.path()).header("host", "next");
            for name in TRACE_HEADERS.iter().filter(|_| next.forward) {
                for value in head.headers.get_all(*name) {
                    request = request.header(*name, value);
                }
            }
            let answer = self.connections.ask(next.target, request, Duration::from_secs(10)).await;
            below = serde_json::from_str(&answer.body).unwrap_or_default();
            if answer.status != 200 {
                status = 503;
            }
        }
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count.statuses.entry(status.to_string()).or_default() += 1;
        drop(count);
        let body = serde_json::json!({
            "server": self.name, "peer": peer, "method": head.method.as_str(), "path": head.uri.to_string(),
            "version": format!("{:?}", head.version), "received": received, "headers": headers(&head.headers),
            "next": below,
        });
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        if let Ok(name) = self.name.parse() {
            response.headers_mut().insert("x-served-by", name);
        }
        response
    }
}

fn headers(map: &HeaderMap) -> serde_json::Value {
    let mut all = serde_json::Map::new();
    for name in map.keys() {
        let values: Vec<_> = map.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        all.insert(name.to_string(), values.join(",").into());
    }
    all.into()
}

/// A different number below 1,000 each time, evenly distributed.
fn fastrand_per_mille() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // 617 is coprime to 1,000: every remainder occurs once in 1,000, well spread.
    NEXT.fetch_add(617, Ordering::Relaxed) % 1000
}
