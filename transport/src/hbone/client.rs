//! The client end of one tunnel: opens streams, keeps the connection alive, knows when it is going away.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::StatusCode;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::driver::{Driver, Lost, Windows};
use super::head::{ConnectHead, baggage_of};
use super::load::{Load, Place};
use super::settings::Settings;
use super::stream::{Opened, Stream};
use super::transport::Transport;
use crate::keyring::KeyringError;
use crate::net::buffers::Buffers;
use crate::tls::{ClientConfig, Peer, TlsError};
use mesh::model::connection::{Fault, ResponseFlag};
use mesh::model::identity::Identity;

/// Why no stream could be opened. Cheap to clone: all callers that wait for one dial get its error.
#[derive(Clone, Debug, Error)]
pub enum TunnelError {
    /// No certificate for the source.
    #[error(transparent)]
    Keyring(Arc<KeyringError>),
    /// The TCP connection failed.
    #[error("connect: {0}")]
    Dial(Arc<io::Error>),
    /// The TLS handshake failed, for example because the peer has another identity than the expected ones.
    #[error(transparent)]
    Tls(Arc<TlsError>),
    /// The HTTP/2 connection or stream failed.
    #[error("HTTP/2: {0}")]
    Http2(Arc<h2::Error>),
    /// The request head is not valid HTTP.
    #[error("the request cannot be written: {0}")]
    Head(Arc<http::Error>),
    /// The peer answered the CONNECT with a status other than 200.
    #[error("the peer answered {0}")]
    Refused(StatusCode),
    /// The tunnel ended before the CONNECT was answered.
    #[error("the tunnel was closed")]
    Closed,
    /// The connection's flow-control window is used up by streams that the peer does not read.
    #[error("the flow-control window of the tunnel is used up by streams that nobody reads")]
    Clogged,
}

impl TunnelError {
    /// The stable value of a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Keyring(_) => "no_certificate_yet",
            Self::Dial(error) if error.kind() == io::ErrorKind::TimedOut => "connect_timeout",
            Self::Dial(_) => "connect",
            Self::Tls(error) => error.reason(),
            Self::Http2(_) => "http2",
            Self::Head(_) => "head",
            Self::Refused(StatusCode::UNAUTHORIZED) => "denied_by_peer",
            Self::Refused(_) => "refused_by_peer",
            Self::Closed => "closed",
            Self::Clogged => "clogged",
        }
    }

    /// Which side caused it.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Keyring(_) => Fault::ControlPlane,
            Self::Refused(StatusCode::UNAUTHORIZED) => Fault::Policy,
            Self::Head(_) => Fault::Ours,
            _ => Fault::Upstream,
        }
    }

    /// The metric label `response_flags`.
    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::Keyring(_) => ResponseFlag::IdentityError,
            // Packets are dropped on the way: on a mesh peer this port is always open.
            Self::Dial(error) if error.kind() == io::ErrorKind::TimedOut => ResponseFlag::NetworkPolicy,
            Self::Tls(error) if error.is_identity() => ResponseFlag::IdentityError,
            Self::Tls(_) => ResponseFlag::TlsFailure,
            Self::Http2(_) => ResponseFlag::H2HandshakeFailure,
            Self::Dial(_) | Self::Head(_) | Self::Refused(_) | Self::Closed | Self::Clogged => ResponseFlag::Connect,
        }
    }

    /// Whether the CONNECT may have failed only because the tunnel was going away: no application byte was sent, so it
    /// is safe to retry on another tunnel.
    pub(crate) fn is_dying_tunnel(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Http2(error) => {
                error.is_io() || error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
            }
            _ => false,
        }
    }
}

impl From<h2::Error> for TunnelError {
    fn from(error: h2::Error) -> Self {
        Self::Http2(Arc::new(error))
    }
}

impl From<TlsError> for TunnelError {
    fn from(error: TlsError) -> Self {
        Self::Tls(Arc::new(error))
    }
}

impl From<KeyringError> for TunnelError {
    fn from(error: KeyringError) -> Self {
        Self::Keyring(Arc::new(error))
    }
}

impl From<io::Error> for TunnelError {
    fn from(error: io::Error) -> Self {
        Self::Dial(Arc::new(error))
    }
}

/// One HTTP/2 connection to a peer. After it is dropped the connection ends with its last stream.
pub struct Tunnel {
    requests: SendRequest<Bytes>,
    load: Arc<Load>,
    alive: Arc<AtomicBool>,
    peer: Peer,
    max_streams: usize,
    opened: Instant,
    cut: CancellationToken,
}

impl Tunnel {
    /// Performs the TLS and HTTP/2 handshakes within their timeout. The returned future drives the tunnel and must be
    /// polled.
    pub async fn open(
        tcp: TcpStream,
        tls: &ClientConfig,
        expected: &[Identity],
        settings: &Settings,
        buffers: &Arc<Buffers>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), TunnelError> {
        match timeout(settings.handshake, Self::shake_hands(tcp, tls, expected, settings, buffers)).await {
            Ok(tunnel) => tunnel,
            Err(_) => Err(TlsError::Timeout.into()),
        }
    }

    async fn shake_hands(
        tcp: TcpStream,
        tls: &ClientConfig,
        expected: &[Identity],
        settings: &Settings,
        buffers: &Arc<Buffers>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), TunnelError> {
        let (stream, peer) = tls.connect(tcp, expected).await?;
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
            .initial_max_send_streams(settings.max_streams as usize)
            .max_send_buffer_size(settings.send_buffer)
            .data_frame_budget(settings.largest_stream_window as usize)
            .enable_push(false);
        let (requests, mut connection) = builder.handshake(transport.clone()).await?;
        let ping = connection.ping_pong();
        let mut driver = Driver::new(transport.clone(), ping, settings, windows);
        poll_fn(|cx| poll_greeting(cx, &mut connection, &mut driver, &transport)).await?;
        let alive = Arc::new(AtomicBool::new(true));
        let cut = CancellationToken::new();
        let driving = drive(connection, driver, Alive(Arc::clone(&alive)), cut.clone());
        let max_streams = settings.max_streams as usize;
        let opened = Instant::now();
        Ok((Self { requests, load, alive, peer, max_streams, opened, cut }, driving))
    }

    /// The peer's authenticated identity.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The number of open streams.
    pub fn streams(&self) -> usize {
        self.load.streams()
    }

    /// Whether streams can be opened: not after the connection broke or the peer sent GOAWAY.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// When the handshakes completed.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// The most streams that it may carry at once.
    pub fn max_streams(&self) -> usize {
        self.max_streams.min(self.requests.current_max_send_streams())
    }

    /// Reserves a stream slot, visible to other callers at once.
    pub(crate) fn reserve(&self) -> Place {
        Place::new(&self.load)
    }

    /// Sends a CONNECT and waits for the response. Dropping the future resets the stream.
    pub async fn connect(&self, head: &ConnectHead) -> Result<Opened, TunnelError> {
        self.connect_counted(head, self.reserve()).await
    }

    pub(crate) async fn connect_counted(&self, head: &ConnectHead, place: Place) -> Result<Opened, TunnelError> {
        let request = head.to_request().map_err(|error| TunnelError::Head(Arc::new(error)))?;
        let mut requests = self.requests.clone().ready().await.inspect_err(|_| self.retire())?;
        let suspect = self.load.is_suspect();
        let (response, mut send) = requests.send_request(request, false)?;
        drop(requests);
        if suspect {
            send.reserve_capacity(1);
        }
        let (parts, receive) = answer(response).await?.into_parts();
        if parts.status != StatusCode::OK {
            return Err(TunnelError::Refused(parts.status));
        }
        if suspect && !has_room(&mut send).await {
            self.load.clogged();
            return Err(TunnelError::Clogged);
        }
        let baggage = baggage_of(&parts.headers);
        Ok(Opened { stream: Stream::new(send, receive, place), peer: self.peer().identity.clone(), baggage })
    }

    /// Whether a new stream could send nothing because stalled streams have used up the connection's window.
    pub(crate) fn is_clogged(&self) -> bool {
        self.load.is_clogged()
    }

    /// Takes no new streams; open ones continue.
    pub(crate) fn retire(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    /// Closes the tunnel with every stream in it.
    pub fn cut(&self) {
        self.retire();
        self.cut.cancel();
    }
}

/// Ready when the peer's SETTINGS have arrived (RFC 9113, 3.4): before them its stream limit is unknown, and h2 would
/// queue streams beyond it behind open ones.
fn poll_greeting(
    cx: &mut Context<'_>,
    connection: &mut Connection<Transport, Bytes>,
    driver: &mut Driver,
    transport: &Transport,
) -> Poll<Result<(), TunnelError>> {
    if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
        return Poll::Ready(ended.map_err(TunnelError::from).and(Err(TunnelError::Closed)));
    }
    match driver.poll(cx, connection) {
        Poll::Ready(Lost::Silent) => Poll::Ready(Err(TunnelError::Closed)),
        Poll::Ready(Lost::Transport(error)) => Poll::Ready(Err(TlsError::Io(error).into())),
        Poll::Pending if transport.received() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    }
}

/// How long a new stream may be unable to send in a tunnel with stalled streams: bulk fills a window for a moment.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether the stream gets capacity for one byte; the capacity is released again.
async fn has_room(send: &mut SendStream<Bytes>) -> bool {
    if send.capacity() == 0 {
        let room = timeout(PATIENCE, poll_fn(|cx| send.poll_capacity(cx))).await;
        if room.is_err() {
            return false;
        }
    }
    send.reserve_capacity(0);
    true
}

async fn answer(response: ResponseFuture) -> Result<http::Response<h2::RecvStream>, TunnelError> {
    Ok(response.await?)
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("peer", &self.peer.identity)
            .field("streams", &self.streams())
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

/// Marks the tunnel as dead when its task ends, for whatever reason.
struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

async fn drive(
    mut connection: Connection<Transport, Bytes>,
    mut driver: Driver,
    _alive: Alive,
    cut: CancellationToken,
) {
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Ok(ended));
        }
        driver.poll(cx, &mut connection).map(Err)
    });
    let ended = tokio::select! {
        ended = ended => ended,
        () = cut.cancelled() => return,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("tunnel ended: {error}"),
        Err(Lost::Silent) => debug!("tunnel ended: keepalive timeout"),
        Err(Lost::Transport(error)) => debug!("tunnel ended: {error}"),
    }
}
