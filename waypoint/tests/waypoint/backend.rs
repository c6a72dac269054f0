//! Servers that do as they are told and remember what they were asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::model::identity::Identity;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use transport::hbone;

use super::rig::{Rig, TARGET, identity};

/// What a backend was asked.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: http::Method,
    pub(crate) uri: String,
    pub(crate) version: http::Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// Path and query, whatever the version.
    pub(crate) fn path(&self) -> String {
        let uri: http::Uri = self.uri.parse().unwrap();
        uri.path_and_query().unwrap().to_string()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

/// What a backend is to do with a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Act {
    pub(crate) delay: Duration,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
    pub(crate) trailers: Vec<(&'static str, String)>,
    /// Break the connection instead of answering.
    pub(crate) hang_up: bool,
}

pub(crate) fn ok(body: &str) -> Act {
    Act { status: 200, body: body.to_owned(), ..Act::default() }
}

pub(crate) fn status(status: u16) -> Act {
    Act { status, body: status.to_string(), ..Act::default() }
}

type Behave = Arc<dyn Fn(usize, &Seen) -> Act + Send + Sync>;

/// One backend.
pub(crate) struct Backend {
    pub(crate) hits: AtomicUsize,
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) behave: Mutex<Behave>,
    /// Requests that were dropped before they were answered.
    pub(crate) cancelled: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    /// For whom connections came, of tunnels that said so.
    pub(crate) on_behalf_of: Mutex<Vec<Option<Identity>>>,
    /// For whom connections are refused.
    pub(crate) refuses: Mutex<Option<Identity>>,
}

struct Watch<'a>(&'a Backend, bool);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Backend {
    fn new(behave: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            hits: AtomicUsize::new(0),
            seen: Mutex::default(),
            behave: Mutex::new(Arc::new(behave)),
            cancelled: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            on_behalf_of: Mutex::default(),
            refuses: Mutex::default(),
        })
    }

    /// Starts a server at the pod with this last byte, plain TCP.
    pub(crate) async fn start(
        rig: &Rig,
        host: u8,
        behave: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static,
    ) -> Arc<Self> {
        let backend = Self::new(behave);
        let listener = TcpListener::bind((rig.net.ip(host), TARGET)).await.unwrap();
        let serving = Arc::clone(&backend);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                tokio::spawn(Arc::clone(&serving).serve(tcp));
            }
        });
        backend
    }

    /// Starts a server behind HBONE: an enrolled pod with its agent, in one.
    pub(crate) async fn start_enrolled(
        rig: &Rig,
        host: u8,
        behave: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::start_enrolled_as(rig, host, identity("shop"), behave).await
    }

    /// The same, as whom the pod's certificate is to be.
    pub(crate) async fn start_enrolled_as(
        rig: &Rig,
        host: u8,
        own: Identity,
        behave: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static,
    ) -> Arc<Self> {
        let backend = Self::new(behave);
        rig.keyring.want(own.clone());
        let listener = TcpListener::bind((rig.net.ip(host), mesh::model::waypoint::HBONE_PORT)).await.unwrap();
        let (serving, keyring) = (Arc::clone(&backend), Arc::clone(&rig.keyring));
        let expected = SocketAddr::new(rig.net.ip(host), TARGET).to_string();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = keyring.server_config(&own).await.unwrap();
                let (serving, expected) = (Arc::clone(&serving), expected.clone());
                tokio::spawn(async move {
                    let mut tunnel = hbone::accept(tcp, &tls, &hbone::Settings::default()).await.unwrap();
                    assert_eq!(tunnel.peer().identity, identity("wp"));
                    while let Some(request) = tunnel.next().await {
                        let head = request.head().unwrap();
                        assert_eq!(head.authority.to_string(), expected);
                        if head.on_behalf_of.is_some() && head.on_behalf_of == *serving.refuses.lock() {
                            request.refuse(http::StatusCode::UNAUTHORIZED);
                            continue;
                        }
                        serving.on_behalf_of.lock().push(head.on_behalf_of.clone());
                        tokio::spawn(Arc::clone(&serving).serve(request.accept(None).unwrap()));
                    }
                });
            }
        });
        backend
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen.lock().last().expect("the backend was asked something").clone()
    }

    pub(crate) fn now(&self, behave: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) {
        *self.behave.lock() = Arc::new(behave);
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, stream: S) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let mut stream = waypoint::serve::rewind::Rewind::new(stream);
        let two = stream.look(|bytes| (bytes.len() >= 3).then(|| bytes.starts_with(b"PRI"))).await;
        let service = service_fn(|request| Arc::clone(&self).answer(request));
        if matches!(two, Ok(Some(true))) {
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        } else {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, std::io::Error> {
        let hit = self.hits.fetch_add(1, Ordering::SeqCst);
        let mut watch = Watch(&self, false);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let uri = parts.uri.to_string();
        let seen = Seen { method: parts.method, uri, version: parts.version, headers: parts.headers, body };
        let behave = Arc::clone(&*self.behave.lock());
        let act = behave(hit, &seen);
        self.seen.lock().push(seen);
        tokio::time::sleep(act.delay).await;
        watch.1 = true;
        if act.hang_up {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let mut response = Response::builder().status(act.status);
        for (name, value) in &act.headers {
            response = response.header(*name, value);
        }
        let body = if act.trailers.is_empty() {
            Full::new(Bytes::from(act.body)).boxed()
        } else {
            let trailers: HeaderMap =
                act.trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            let mut frames = vec![];
            if !act.body.is_empty() {
                frames.push(Ok(Frame::data(Bytes::from(act.body))));
            }
            frames.push(Ok(Frame::trailers(trailers)));
            StreamBody::new(futures_util::stream::iter(frames)).boxed()
        };
        Ok(response.body(body).unwrap())
    }
}
