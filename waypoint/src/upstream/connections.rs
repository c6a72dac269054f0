//! HTTP connections to one endpoint. A connection carries requests of clients of one identity only, because the
//! endpoint's agent judges the connection by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh::model::identity::Identity;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::body::RequestBody;
use super::connect::{Client, ConnectError, Connector, Io, Target};
use super::counted::{Counted, Grant};
use super::patient::Patient;
use crate::request::hygiene::MAX_HEAD;

/// The HTTP version towards a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 with prior knowledge.
    H2,
}

/// How connections are made and kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connect timeout.
    pub connect: Duration,
    /// Most connections to one endpoint.
    pub connections: u32,
    /// Most requests on one connection; 0 is unlimited.
    pub requests: u32,
}

/// The connections of one endpoint.
#[derive(Default)]
pub struct Connections {
    by_identity: Mutex<Vec<OfIdentity>>,
    open: Arc<AtomicU32>,
    retired: AtomicBool,
    /// When the endpoint took no WebSocket over HTTP/2 the last time.
    unextended: Mutex<Option<Instant>>,
}

struct OfIdentity {
    identity: Identity,
    idle: Vec<Idle>,
    shared: Vec<Arc<Shared>>,
    dialling: Arc<tokio::sync::Mutex<()>>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    task: AbortHandle,
    requests: u32,
    since: Instant,
}

/// An HTTP/2 connection.
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    grant: Arc<Grant>,
    streams: AtomicU32,
    requests: AtomicU32,
    idle_since: Mutex<Instant>,
}

/// Streams on one HTTP/2 connection before another is opened.
const STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// How long a server may take to enable extended CONNECT in its SETTINGS (RFC 8441, 3).
const WORD: Duration = Duration::from_millis(500);
/// How long it is remembered that an endpoint does not take WebSockets over HTTP/2.
const UNEXTENDED: Duration = Duration::from_secs(60);

/// The right to send one request.
pub struct Lease {
    kind: Kind,
    home: Arc<Connections>,
    identity: Identity,
    reused: bool,
}

enum Kind {
    One { sender: http1::SendRequest<RequestBody>, task: AbortHandle, requests: u32 },
    Two(Stream),
}

/// Why a request on a connection got no response.
pub struct SendError {
    /// Whether the endpoint certainly has not processed it.
    pub unsent: bool,
    /// The error.
    pub error: hyper::Error,
    /// The request, if nothing of it was sent.
    pub request: Option<Box<Request<RequestBody>>>,
}

impl Connections {
    /// A connection for one request: an idle one, one with room, or a new one.
    pub async fn lease(
        self: &Arc<Self>,
        connector: &Connector,
        target: &Target,
        client: &Client,
        version: Version,
        limits: &Limits,
    ) -> Result<Lease, ConnectError> {
        match version {
            Version::H1 => match self.idle(&client.identity, limits) {
                Some(lease) => Ok(lease),
                None => self.open_one(connector, target, client, limits).await,
            },
            Version::H2 => self.multiplexed(connector, target, client, limits).await,
        }
    }

    /// Connections that are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// The endpoint is gone: idle connections are closed now, others after their requests.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.by_identity.lock().clear();
    }

    /// Closes connections that were idle for longer than `most`.
    pub fn sweep(&self, now: Instant, most: Duration) {
        let mut all = self.by_identity.lock();
        for of in all.iter_mut() {
            of.idle.retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < most);
            of.shared.retain(|shared| {
                let busy = shared.streams.load(Ordering::Relaxed) > 0;
                !shared.sender.is_closed() && (busy || now.duration_since(*shared.idle_since.lock()) < most)
            });
        }
        all.retain(|of| !of.idle.is_empty() || !of.shared.is_empty() || Arc::strong_count(&of.dialling) > 1);
    }

    fn with<T>(&self, identity: &Identity, act: impl FnOnce(&mut OfIdentity) -> T) -> T {
        let mut all = self.by_identity.lock();
        let at = all.iter().position(|of| of.identity == *identity).unwrap_or_else(|| {
            all.push(OfIdentity { identity: identity.clone(), idle: vec![], shared: vec![], dialling: Arc::default() });
            all.len() - 1
        });
        act(&mut all[at])
    }

    fn idle(self: &Arc<Self>, identity: &Identity, limits: &Limits) -> Option<Lease> {
        let idle = self.with(identity, |of| {
            // The newest first: those that are not needed grow old and are closed. One whose last response has ended an
            // instant ago may not have noticed yet.
            let mut at = of.idle.len();
            loop {
                at = at.checked_sub(1)?;
                if of.idle[at].sender.is_closed() {
                    of.idle.remove(at);
                } else if of.idle[at].sender.is_ready() {
                    return Some(of.idle.remove(at));
                }
            }
        })?;
        let used_up = limits.requests > 0 && idle.requests >= limits.requests;
        let kind = Kind::One { sender: idle.sender, task: idle.task, requests: idle.requests + 1 };
        (!used_up).then(|| Lease { kind, home: Arc::clone(self), identity: identity.clone(), reused: true })
    }

    async fn open_one(
        self: &Arc<Self>,
        connector: &Connector,
        target: &Target,
        client: &Client,
        limits: &Limits,
    ) -> Result<Lease, ConnectError> {
        let counted = self.count(limits)?;
        let io = connector.shared(target, client, limits.connect).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD * 2);
        let shaken = builder.handshake(TokioIo::new(Patient::new(io))).await;
        let (sender, connection) = shaken.map_err(|error| ConnectError::Http(Arc::new(error)))?;
        let serving = tokio::spawn(async move {
            let _counted = counted;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!("upstream connection: {error}");
            }
        });
        let kind = Kind::One { sender, task: serving.abort_handle(), requests: 1 };
        Ok(Lease { kind, home: Arc::clone(self), identity: client.identity.clone(), reused: false })
    }

    async fn multiplexed(
        self: &Arc<Self>,
        connector: &Connector,
        target: &Target,
        client: &Client,
        limits: &Limits,
    ) -> Result<Lease, ConnectError> {
        let identity = &client.identity;
        let dialling = self.with(identity, |of| Arc::clone(&of.dialling));
        if let Some(lease) = self.with_room(identity, limits) {
            return Ok(lease);
        }
        // A single dial for all that wait: the next in line finds the connection that the first has opened.
        let _turn = dialling.lock().await;
        if let Some(lease) = self.with_room(identity, limits) {
            return Ok(lease);
        }
        let counted = self.count(limits)?;
        let (sender, connection, grant) = two(connector, target, client, limits).await?;
        tokio::spawn(async move {
            let _counted = counted;
            if let Err(error) = connection.await {
                tracing::debug!("upstream connection: {error}");
            }
        });
        let shared = Arc::new(Shared::new(sender, grant));
        self.with(identity, |of| of.shared.push(Arc::clone(&shared)));
        Ok(Lease { kind: Kind::Two(Stream(shared)), home: Arc::clone(self), identity: identity.clone(), reused: false })
    }

    /// A connection of its own for a WebSocket over HTTP/2 (RFC 8441), which needs the server's word that it takes
    /// such; `None` when that does not come.
    pub async fn extended(
        self: &Arc<Self>,
        connector: &Connector,
        target: &Target,
        client: &Client,
        limits: &Limits,
    ) -> Result<Option<Lease>, ConnectError> {
        if self.unextended.lock().is_some_and(|at| at.elapsed() < UNEXTENDED) {
            return Ok(None);
        }
        let counted = self.count(limits)?;
        let (sender, connection, grant) = two(connector, target, client, limits).await?;
        let end = Instant::now() + WORD;
        while !connection.is_extended_connect_protocol_enabled() {
            if sender.is_closed() || Instant::now() >= end {
                *self.unextended.lock() = Some(Instant::now());
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::spawn(async move {
            let _counted = counted;
            if let Err(error) = connection.await {
                tracing::debug!("upstream connection: {error}");
            }
        });
        let kind = Kind::Two(Stream(Arc::new(Shared::new(sender, grant))));
        Ok(Some(Lease { kind, home: Arc::clone(self), identity: client.identity.clone(), reused: false }))
    }

    fn with_room(self: &Arc<Self>, identity: &Identity, limits: &Limits) -> Option<Lease> {
        let shared = self.with(identity, |of| {
            let used_up =
                |shared: &Shared| limits.requests > 0 && shared.requests.load(Ordering::Relaxed) >= limits.requests;
            of.shared.retain(|shared| !shared.sender.is_closed() && !used_up(shared));
            let least = of.shared.iter().min_by_key(|shared| shared.streams.load(Ordering::Relaxed))?;
            (least.streams.load(Ordering::Relaxed) < STREAMS).then(|| Arc::clone(least))
        })?;
        shared.streams.fetch_add(1, Ordering::Relaxed);
        shared.requests.fetch_add(1, Ordering::Relaxed);
        shared.grant.request();
        Some(Lease {
            kind: Kind::Two(Stream(shared)),
            home: Arc::clone(self),
            identity: identity.clone(),
            reused: true,
        })
    }

    fn count(&self, limits: &Limits) -> Result<Open, ConnectError> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= limits.connections {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectError::Full);
        }
        Ok(Open(Arc::clone(&self.open)))
    }
}

type Two = http2::Connection<TokioIo<Counted<Io>>, RequestBody, TokioExecutor>;

/// Opens a connection of HTTP/2.
async fn two(
    connector: &Connector,
    target: &Target,
    client: &Client,
    limits: &Limits,
) -> Result<(http2::SendRequest<RequestBody>, Two, Arc<Grant>), ConnectError> {
    let io = connector.shared(target, client, limits.connect).await?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32);
    let grant = Arc::<Grant>::default();
    grant.request();
    let shaken = builder.handshake(TokioIo::new(Counted::new(io, Arc::clone(&grant)))).await;
    let (sender, connection) = shaken.map_err(|error| ConnectError::Http(Arc::new(error)))?;
    Ok((sender, connection, grant))
}

impl Shared {
    fn new(sender: http2::SendRequest<RequestBody>, grant: Arc<Grant>) -> Self {
        let (streams, requests) = (AtomicU32::new(1), AtomicU32::new(1));
        Self { sender, grant, streams, requests, idle_since: Mutex::new(Instant::now()) }
    }
}

struct Open(Arc<AtomicU32>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// Whether the connection has carried requests before: it may have been closed in the meantime.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Whether the backend has sent more heads than requests were worth (HTTP/2).
    pub fn is_flooded(&self) -> bool {
        matches!(&self.kind, Kind::Two(stream) if stream.0.grant.is_exceeded())
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let sent = match &mut self.kind {
            Kind::One { sender, .. } => sender.try_send_request(request).await,
            Kind::Two(stream) => stream.0.sender.clone().try_send_request(request).await,
        };
        sent.map_err(|mut refused| {
            let request = refused.take_message().map(Box::new);
            let unsent = request.is_some() || is_refused_stream(refused.error());
            SendError { unsent, error: refused.into_error(), request }
        })
    }

    /// Ends the connection at once, if it carries this request alone.
    pub fn abort(self) {
        if let Kind::One { task, .. } = self.kind {
            task.abort();
        }
    }

    /// The response has ended: the connection may carry the next request.
    pub fn release(self) {
        let Self { kind, home, identity, .. } = self;
        if let Kind::One { sender, task, requests } = kind
            && !sender.is_closed()
            && !home.retired.load(Ordering::Relaxed)
        {
            home.with(&identity, |of| of.idle.push(Idle { sender, task, requests, since: Instant::now() }));
        }
    }
}

/// One stream of an HTTP/2 connection, until it is dropped.
struct Stream(Arc<Shared>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        *self.0.idle_since.lock() = Instant::now();
    }
}

/// REFUSED_STREAM, and GOAWAY below our stream: the endpoint says itself that it has done nothing (RFC 9113, 6.8, 8.7).
fn is_refused_stream(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM) || error.is_go_away() && error.is_remote();
        }
        source = cause.source();
    }
    false
}
