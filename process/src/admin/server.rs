//! The HTTP servers. Small on purpose: one request to a connection, few connections at a time, all of them with an end.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::warn;

use super::route::{Query, Route, Surface, is_for_this_machine, is_foreign, is_relayed, route};
use super::state::AdminState;
use crate::flags::ServerArgs;
use crate::telemetry::escape;
use crate::telemetry::registry::CONTENT_TYPE;

/// Connections served at the same time, by each server.
const CONNECTIONS: usize = 32;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may take in all.
const WHOLE: Duration = Duration::from_secs(60);
/// Pause after `accept` failed, as it does when no file descriptor is left.
const REST: Duration = Duration::from_millis(100);
/// A dump is sent in pieces of this many bytes, with [`PIECES`] of them waiting at most.
const PIECE: usize = 32 << 10;
const PIECES: usize = 4;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Why a server could not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr} for {surface:?}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Which server.
        surface: Surface,
        /// Why.
        source: io::Error,
    },
}

/// A server that listens and does not answer yet.
pub struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
    surface: Surface,
}

impl Bound {
    /// Listens on `addr`; port 0 takes any. Needs a tokio runtime.
    pub fn bind(addr: SocketAddr, surface: Surface) -> Result<Self, ServeError> {
        let listen = || {
            let listener = std::net::TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, bound))
        };
        let (listener, addr) = listen().map_err(|source| ServeError::Listen { addr, surface, source })?;
        Ok(Self { listener, addr, surface })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers requests until it is dropped.
    pub async fn serve(self, state: Arc<AdminState>) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let state = Arc::clone(&state);
                    let surface = self.surface;
                    tokio::spawn(async move {
                        // A client that is slow or gone harms only itself.
                        let _ = timeout(WHOLE, serve_one(stream, peer, surface, state)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, addr = %self.addr, "cannot accept a connection to the {:?} server", self.surface);
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }
}

/// The three servers of every program, listening and not answering yet.
pub struct Servers([Bound; 3]);

impl Servers {
    /// Listens on all three addresses. A program does this first: a port that is taken is found before anything else is
    /// done.
    ///
    /// # Errors
    /// The first address that cannot be listened on.
    pub fn bind(args: &ServerArgs) -> Result<Self, ServeError> {
        Ok(Self([
            Bound::bind(args.admin, Surface::Admin)?,
            Bound::bind(args.stats, Surface::Stats)?,
            Bound::bind(args.ready, Surface::Ready)?,
        ]))
    }

    /// Where they listen.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().map(Bound::local_addr)
    }

    /// Answers requests in tasks of the current runtime.
    pub fn serve(self, state: AdminState) {
        let state = Arc::new(state);
        for server in self.0 {
            tokio::spawn(server.serve(Arc::clone(&state)));
        }
    }
}

async fn serve_one(
    stream: TcpStream,
    peer: SocketAddr,
    surface: Surface,
    state: Arc<AdminState>,
) -> Result<(), hyper::Error> {
    let is_local = peer.ip().to_canonical().is_loopback();
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, std::convert::Infallible>(answer(surface, is_local, &request, state).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    surface: Surface,
    is_local: bool,
    request: &Request<Incoming>,
    state: Arc<AdminState>,
) -> Response<Body> {
    if surface == Surface::Admin && is_foreign(request.headers()) {
        return text(StatusCode::FORBIDDEN, "the admin server answers only requests to an address or localhost\n");
    }
    if surface == Surface::Admin && is_relayed(request.headers()) {
        return text(StatusCode::FORBIDDEN, "the admin server answers no requests that a proxy passes on\n");
    }
    let query = Query::parse(request.uri().query());
    let route = match route(surface, request.method(), request.uri().path(), &query, &state.queries()) {
        Ok(route) => route,
        Err((status, message)) => return text(status, format!("{message}\n")),
    };
    if !is_local && is_for_this_machine(&route) {
        return text(StatusCode::FORBIDDEN, "this changes something: ask over loopback\n");
    }
    let mut response = run(route, query, state).await;
    if request.method() == Method::HEAD {
        *response.body_mut() = full(Bytes::new());
    }
    response
}

async fn run(route: Route, query: Query, state: Arc<AdminState>) -> Response<Body> {
    match route {
        Route::Help => text(StatusCode::OK, state.help()),
        Route::Ready => match (state.pending)() {
            pending if pending.is_empty() => text(StatusCode::OK, "ready\n"),
            pending => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready, pending: {}\n", pending.join(", "))),
        },
        Route::Version => {
            json(StatusCode::OK, &serde_json::json!({"component": state.component, "version": state.version}))
        }
        Route::Logging(None) => text(StatusCode::OK, format!("current log level is {}\n", state.logging.current())),
        Route::Logging(Some(levels)) => match state.logging.set(&levels) {
            Ok(()) => text(StatusCode::OK, format!("current log level is {levels}\n")),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        Route::Quit => {
            (state.quit)();
            text(StatusCode::OK, "shutdown now\n")
        }
        Route::Metrics => {
            blocking(move || match state.registry.encode(Instant::now()) {
                Ok(metrics) => with_type(StatusCode::OK, CONTENT_TYPE, full(metrics)),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")),
            })
            .await
        }
        Route::Dump(Some(part)) if !state.has_part(&part) => {
            text(StatusCode::NOT_FOUND, format!("no part {part:?} in the dump; GET / lists them\n"))
        }
        Route::Dump(part) => with_type(StatusCode::OK, "application/json", dump(state, part)),
        Route::Query(name) => {
            let Some(ask) = state.query_named(&name) else {
                return text(StatusCode::NOT_FOUND, "no such page\n");
            };
            blocking(move || match ask(&query) {
                Ok(answer) => json(StatusCode::OK, &answer),
                Err(refusal) => text(refusal.status, format!("{}\n", refusal.message)),
            })
            .await
        }
    }
}

/// Runs what may take long on a thread that may block, and not on the one of the control runtime.
async fn blocking(run: impl FnOnce() -> Response<Body> + Send + 'static) -> Response<Body> {
    match tokio::task::spawn_blocking(run).await {
        Ok(response) => response,
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// A dump is written by another thread while it is sent, so that a mesh of any size needs little memory.
fn dump(state: Arc<AdminState>, part: Option<String>) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { sender, piece: Vec::with_capacity(PIECE) };
        let written = state.write_dump(part.as_deref(), &mut pieces).and_then(|()| pieces.flush());
        if let Err(error) = written {
            // Cuts the connection, so that no client takes half a dump for a whole one.
            let _ = pieces.sender.blocking_send(Err(error));
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

/// Collects what is written and sends it in pieces. Fails when the receiver is gone, which ends the dump.
struct Pieces {
    sender: mpsc::Sender<Result<Bytes, io::Error>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", full(body))
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    with_type(status, "application/json", full(escape::lines(&format!("{body}\n")).into_owned()))
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::client::{Client, ClientError};
    use super::super::state::Refusal;
    use super::*;
    use crate::telemetry::logging::LogControl;
    use crate::telemetry::registry::Registry;

    fn state() -> AdminState {
        AdminState::new("culvert", "0.0.1", Registry::new("culvert", "0.0.1"), LogControl::detached("info"))
            .part("workloads", || vec!["client", "shop"])
            .part("problems", || serde_json::json!({"count": 0}))
    }

    fn serve(surface: Surface, state: AdminState) -> SocketAddr {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), surface).unwrap();
        let addr = bound.local_addr();
        tokio::spawn(bound.serve(Arc::new(state)));
        addr
    }

    async fn get(addr: SocketAddr, path: &str) -> Result<String, ClientError> {
        Client::new(addr).get(path, &[]).await.map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    /// Sends `request` as it is and returns the answer as it is.
    async fn raw(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_dump_is_one_object_of_its_parts() {
        let addr = serve(Surface::Admin, state());
        let dump: serde_json::Value = serde_json::from_str(&get(addr, "/config_dump").await.unwrap()).unwrap();
        let expected = serde_json::json!({
            "version": {"component": "culvert", "version": "0.0.1"},
            "workloads": ["client", "shop"],
            "problems": {"count": 0},
        });
        assert_eq!(dump, expected);
        assert_eq!(get(addr, "/config_dump/workloads").await.unwrap(), r#"["client","shop"]"#);
        let error = get(addr, "/config_dump/secrets").await.unwrap_err().to_string();
        assert!(error.contains("no part \"secrets\""), "{error}");
    }

    #[tokio::test]
    async fn a_large_dump_arrives_whole() {
        let large: Vec<u64> = (0..200_000).collect();
        let expected = serde_json::to_string(&large).unwrap();
        let addr = serve(Surface::Admin, state().part("large", move || large.clone()));
        assert_eq!(get(addr, "/config_dump/large").await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_dump_that_breaks_off_is_not_taken_for_a_whole_one() {
        let broken: super::super::state::Dump = Arc::new(|out| {
            out.write_all(&vec![b'1'; 2 * PIECE])?;
            Err(io::Error::other("half"))
        });
        let addr = serve(Surface::Admin, state().part_streamed("broken", broken));
        assert!(matches!(get(addr, "/config_dump/broken").await, Err(ClientError::Http { .. })));
    }

    #[tokio::test]
    async fn readiness_names_what_is_pending() {
        let ready = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ready);
        let pending = move || if told.load(Ordering::Relaxed) { vec![] } else { vec!["ca".into(), "source".into()] };
        let addr = serve(Surface::Ready, state().ready_when(pending));
        match get(addr, "/healthz/ready").await {
            Err(ClientError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, message }) => {
                assert_eq!(message, "not ready, pending: ca, source");
            }
            other => panic!("{other:?}"),
        }
        ready.store(true, Ordering::Relaxed);
        assert_eq!(get(addr, "/healthz/ready").await.unwrap(), "ready\n");
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_on_both_paths() {
        let addr = serve(Surface::Stats, state());
        for path in ["/metrics", "/stats/prometheus"] {
            let answer = raw(addr, &format!("GET {path} HTTP/1.1\r\nHost: any.example\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
            assert!(answer.ends_with("# EOF\n"), "{answer}");
        }
        assert!(get(addr, "/config_dump").await.is_err());
    }

    #[tokio::test]
    async fn the_level_is_shown_and_set() {
        let addr = serve(Surface::Admin, state());
        let client = Client::new(addr);
        assert_eq!(client.get("/logging", &[]).await.unwrap(), "current log level is info\n");
        client.post("/logging", &[("level", "info,mesh::hbone=trace")]).await.unwrap();
        assert_eq!(get(addr, "/logging").await.unwrap(), "current log level is info,mesh::hbone=trace\n");
        let error = client.post("/logging", &[("level", "loud")]).await.unwrap_err().to_string();
        assert!(error.starts_with("\"loud\" is not a log level"), "{error}");
    }

    #[tokio::test]
    async fn quit_is_heard_once_and_only_by_post() {
        let (sender, mut asked) = mpsc::channel(1);
        let quit = move || sender.try_send(()).unwrap();
        let addr = serve(Surface::Admin, state().on_quit(quit));
        assert!(get(addr, "/quitquitquit").await.is_err());
        assert!(asked.try_recv().is_err());
        Client::new(addr).post("/quitquitquit", &[]).await.unwrap();
        assert!(asked.try_recv().is_ok());
    }

    #[tokio::test]
    async fn a_web_page_gets_nothing_from_the_admin_server() {
        let addr = serve(Surface::Admin, state());
        for head in ["Host: evil.example", "Host: localhost\r\nOrigin: http://evil.example"] {
            let answer = raw(addr, &format!("GET /config_dump HTTP/1.1\r\n{head}\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        }
    }

    #[tokio::test]
    async fn what_a_proxy_passes_on_neither_ends_the_process_nor_reads_it() {
        let (sender, mut asked) = mpsc::channel(1);
        let quit = move || sender.try_send(()).unwrap();
        let addr = serve(Surface::Admin, state().on_quit(quit));
        for line in ["POST /quitquitquit", "POST /logging?level=trace", "GET /config_dump"] {
            let head = "Host: localhost\r\nx-forwarded-client-cert: By=spiffe://td/ns/a/sa/wp";
            let answer = raw(addr, &format!("{line} HTTP/1.1\r\n{head}\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{line}: {answer}");
        }
        assert!(asked.try_recv().is_err());
        assert_eq!(get(addr, "/logging").await.unwrap(), "current log level is info\n");
    }

    #[tokio::test]
    async fn a_query_answers_or_says_why_not() {
        let explain = |query: &Query| match query.get("src") {
            Some(source) => Ok(serde_json::json!({"from": source})),
            None => Err(Refusal { status: StatusCode::BAD_REQUEST, message: "src is missing".into() }),
        };
        let client = Client::new(serve(Surface::Admin, state().query("explain", explain)));
        assert_eq!(client.get("/explain", &[("src", "a/b c")]).await.unwrap(), "{\"from\":\"a/b c\"}\n");
        assert_eq!(client.get("/explain", &[]).await.unwrap_err().to_string(), "src is missing");
    }

    #[tokio::test]
    async fn nobody_there_is_said_plainly() {
        let addr = Bound::bind("127.0.0.1:0".parse().unwrap(), Surface::Admin).unwrap().local_addr();
        let error = get(addr, "/version").await.unwrap_err().to_string();
        let expected =
            format!("cannot reach the agent's admin server at {addr}: connection refused; is it running? (--admin)");
        assert_eq!(error, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_not_waited_for() {
        let addr = serve(Surface::Ready, state());
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /healthz/ready HTTP/1.1\r\n").await.unwrap();
        let mut answer = Vec::new();
        let started = tokio::time::Instant::now();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(started.elapsed() >= HEAD && started.elapsed() < WHOLE, "{:?}", started.elapsed());
    }
}
