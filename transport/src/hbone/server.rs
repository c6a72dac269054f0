//! The server end: accepts one TLS connection, then each CONNECT in it is accepted or refused.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Response, StatusCode};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::baggage::Baggage;
use super::driver::{Driver, Lost, Windows};
use super::head::{ConnectHead, HeadError, add_baggage};
use super::load::{Load, Place};
use super::settings::Settings;
use super::stream::Stream;
use super::transport::Transport;
use crate::net::buffers::Buffers;
use crate::tls::{Peer, ServerConfig, TlsError};

/// The period in which early resets are counted.
const RESET_PERIOD: Duration = Duration::from_secs(10);

/// Why a connection did not become a tunnel.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The TLS handshake failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP/2 handshake failed.
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
}

impl AcceptError {
    /// The stable value of a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Tls(error) => error.reason(),
            Self::Http2(_) => "http2",
        }
    }
}

/// How a tunnel ended.
#[derive(Debug, Error)]
pub enum Ended {
    /// Closed by the client, or drained.
    #[error("closed")]
    Closed,
    /// A protocol error, or the connection broke.
    #[error("HTTP/2: {0}")]
    Http2(h2::Error),
    /// Writing to the connection failed.
    #[error("transport: {0}")]
    Transport(std::io::Error),
    /// Keepalive timeout: the client answered no ping.
    #[error("no answer to a ping")]
    Silent,
    /// Too many streams were reset before they were answered (rapid reset).
    #[error("too many streams were reset before they were answered")]
    Resets,
}

impl Ended {
    /// The stable value of a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Http2(error) if error.is_io() => "transport",
            Self::Http2(_) => "http2",
            Self::Transport(_) => "transport",
            Self::Silent => "silent",
            Self::Resets => "resets",
        }
    }
}

/// Performs the TLS and HTTP/2 handshakes of an incoming connection, within their timeout. The tunnel has buffers of
/// its own.
pub async fn accept(tcp: TcpStream, tls: &ServerConfig, settings: &Settings) -> Result<ServerConnection, AcceptError> {
    accept_within(tcp, tls, settings, &Arc::default()).await
}

/// Like [`accept`], for a tunnel that shares its buffers with others.
pub async fn accept_within(
    tcp: TcpStream,
    tls: &ServerConfig,
    settings: &Settings,
    buffers: &Arc<Buffers>,
) -> Result<ServerConnection, AcceptError> {
    match timeout(settings.handshake, shake_hands(tcp, tls, settings, buffers)).await {
        Ok(accepted) => accepted,
        Err(_) => Err(TlsError::Timeout.into()),
    }
}

async fn shake_hands(
    tcp: TcpStream,
    tls: &ServerConfig,
    settings: &Settings,
    buffers: &Arc<Buffers>,
) -> Result<ServerConnection, AcceptError> {
    let remote = tcp.peer_addr().map_err(TlsError::Io)?;
    let local = tcp.local_addr().map_err(TlsError::Io)?;
    let (stream, peer) = tls.accept(tcp).await?;
    let transport = Transport::new(stream);
    let load = Arc::default();
    let windows = Windows::new(settings, buffers, &load);
    let (stream_window, tunnel_window) = windows.sizes();
    let mut builder = Builder::new();
    builder
        .initial_window_size(stream_window)
        .initial_connection_window_size(tunnel_window)
        .max_frame_size(settings.max_frame)
        .max_header_list_size(settings.max_head)
        .max_concurrent_streams(settings.max_accepted_streams)
        .max_send_buffer_size(settings.send_buffer)
        .data_frame_budget(settings.largest_stream_window as usize);
    let mut connection = builder.handshake(transport.clone()).await?;
    let driver = Driver::new(transport, connection.ping_pong(), settings, windows);
    let resets = Resets { seen: Arc::default(), since: Instant::now(), most: settings.max_resets };
    Ok(ServerConnection { connection, driver, load, peer, remote, local, resets, ended: None })
}

/// The server end of a tunnel.
pub struct ServerConnection {
    connection: Connection<Transport, Bytes>,
    driver: Driver,
    load: Arc<Load>,
    peer: Peer,
    remote: SocketAddr,
    local: SocketAddr,
    resets: Resets,
    ended: Option<Ended>,
}

impl ServerConnection {
    /// The client's authenticated identity.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The client's socket address.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The local socket address that the client dialled.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next CONNECT; `None` when the tunnel has ended.
    ///
    /// This drives the whole tunnel: call it again at once and handle each request in a task of its own. Cancel-safe.
    pub async fn next(&mut self) -> Option<Request> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        let end = match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                self.driver.flush(cx);
                let head = ConnectHead::parse(&request);
                let (resets, load) = (Arc::clone(&self.resets.seen), Arc::clone(&self.load));
                return Poll::Ready(Some(Request { head, respond, receive: request.into_body(), load, resets }));
            }
            Poll::Ready(Some(Err(error))) => Ended::Http2(error),
            Poll::Ready(None) => Ended::Closed,
            Poll::Pending => match self.driver.poll(cx, &mut self.connection) {
                Poll::Pending if self.resets.too_many() => {
                    self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    self.say_goodbye(cx);
                    Ended::Resets
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Lost::Silent) => Ended::Silent,
                Poll::Ready(Lost::Transport(error)) => Ended::Transport(error),
            },
        };
        self.ended = Some(end);
        Poll::Ready(None)
    }

    /// Polls once more, so that a GOAWAY can leave.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let _ = self.connection.poll_closed(cx);
        self.driver.flush(cx);
    }

    /// Sends GOAWAY; `next` ends when the open streams have ended.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// How the tunnel ended, once `next` has returned `None`.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }
}

impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnection")
            .field("peer", &self.peer.identity)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Counts streams that were reset before they were answered, per period.
struct Resets {
    seen: Arc<AtomicU32>,
    since: Instant,
    most: u32,
}

impl Resets {
    fn too_many(&mut self) -> bool {
        if self.seen.load(Ordering::Relaxed) <= self.most {
            return false;
        }
        let now = Instant::now();
        if now - self.since <= RESET_PERIOD {
            return true;
        }
        self.since = now;
        self.seen.store(0, Ordering::Relaxed);
        false
    }
}

/// One CONNECT, to be accepted or refused. Dropping it resets the stream.
pub struct Request {
    head: Result<ConnectHead, HeadError>,
    respond: SendResponse<Bytes>,
    receive: RecvStream,
    load: Arc<Load>,
    resets: Arc<AtomicU32>,
}

impl Request {
    /// The parsed head, or why the request is not a CONNECT and is to be refused with 400.
    pub fn head(&self) -> Result<&ConnectHead, &HeadError> {
        self.head.as_ref()
    }

    /// Resolves when the client has reset the stream.
    pub async fn cancelled(&mut self) {
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
        self.resets.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers 200, with the labels of the destination workload.
    pub fn accept(mut self, baggage: Option<&Baggage>) -> Result<Stream, h2::Error> {
        let mut response = Response::new(());
        if let Some(baggage) = baggage {
            add_baggage(response.headers_mut(), baggage);
        }
        let send = self.respond.send_response(response, false).inspect_err(|_| {
            self.resets.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok(Stream::new(send, self.receive, Place::new(&self.load)))
    }

    /// Answers with another status.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        if self.respond.send_response(response, true).is_err() {
            self.resets.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Request").field(&self.head).finish()
    }
}
