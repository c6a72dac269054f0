//! Byte streams to one endpoint: through an HBONE tunnel when it is enrolled, else plain TCP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mesh::model::connection::Fault;
use mesh::model::identity::Identity;
use mesh::model::name::{Hostname, WorkloadUid};
use mesh::model::workload::Workload;
use mesh::policy::subject::{Http, Subject};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use transport::hbone::{
    self, Authority, Baggage, ConnectHead, Dial, DialFuture, Forwarded, Pool, TunnelError, TunnelKey,
};
use transport::net::buffers::{Buffers, ByAddress};
use transport::net::socket::{Liveness, tune};

use crate::local_targets::{Around, DialError};
use crate::resilience::breaker::PATIENCE;

/// The client on whose behalf a stream is opened.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address of the client's socket, as far as known.
    pub address: SocketAddr,
    /// The client's verified SPIFFE identity.
    pub identity: Identity,
    /// The workload, if known.
    pub workload: Option<Arc<Workload>>,
}

impl Client {
    /// What policies judge: its request (`http`), or its connection, to `destination`, which has the service's port.
    pub fn subject<'a>(&'a self, destination: SocketAddr, http: Option<Http<'a>>) -> Subject<'a> {
        let address = Some(self.address.ip());
        Subject {
            identity: Some(&self.identity),
            source: address,
            remote: address,
            destination: Some(destination.ip()),
            port: destination.port(),
            http,
        }
    }
}

/// How one endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address and port of the application.
    pub address: SocketAddr,
    /// The HBONE port and who must answer there; `None` is plain TCP.
    pub tunnel: Option<(SocketAddr, Arc<[Identity]>)>,
}

/// Why no stream could be opened. Nothing of a request was sent.
#[derive(Clone, Debug, Error)]
pub enum ConnectError {
    /// It is never dialled: see [`mesh::authority::dial`].
    #[error("connect: {0}")]
    Off(Arc<DialError>),
    /// TCP connect failed.
    #[error("connect: {0}")]
    Tcp(Arc<io::Error>),
    /// The tunnel could not be set up.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The connect timeout has expired.
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The endpoint has as many connections as it may have.
    #[error("the endpoint has all the connections that it may have")]
    Full,
    /// The HTTP handshake failed.
    #[error("HTTP/2: {0}")]
    Http(Arc<hyper::Error>),
}

impl ConnectError {
    /// Whether the endpoint's agent refuses this client, which says nothing about the endpoint: others may be welcome.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Tunnel(error) if error.fault() == Fault::Policy)
    }

    /// Whether the time for it was so short that it says little about the endpoint.
    pub fn is_brief(&self) -> bool {
        matches!(self, Self::Timeout(limit) if *limit < PATIENCE)
    }

    /// Whether it says something about the endpoint.
    pub fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Full => false,
            Self::Tunnel(error) => !matches!(error.fault(), Fault::Policy | Fault::ControlPlane | Fault::Ours),
            Self::Off(_) | Self::Tcp(_) | Self::Timeout(_) | Self::Http(_) => true,
        }
    }
}

/// Makes connections as this waypoint.
pub struct Connector {
    pool: Arc<Pool>,
    uid: WorkloadUid,
    identity: Identity,
    around: Arc<Around>,
}

impl Connector {
    /// A connector whose tunnels carry `identity`.
    pub fn new(pool: Arc<Pool>, uid: WorkloadUid, identity: Identity, around: Arc<Around>) -> Self {
        Self { pool, uid, identity, around }
    }

    /// The waypoint's own identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A stream that many requests of clients with this identity may share. It names no address of a client, and as
    /// labels those of the client that it was opened for.
    pub async fn shared(&self, target: &Target, client: &Client, limit: Duration) -> Result<Io, ConnectError> {
        let mut head = ConnectHead::new(Authority::Address(target.address));
        head.on_behalf_of = Some(client.identity.clone());
        head.baggage = client.workload.as_deref().map(Baggage::of);
        self.connect(target, &head, limit).await
    }

    /// A stream for one connection of one client.
    pub async fn exclusive(
        &self,
        target: &Target,
        client: &Client,
        host: Option<Hostname>,
        limit: Duration,
    ) -> Result<Io, ConnectError> {
        let mut head = ConnectHead::new(Authority::Address(target.address));
        head.on_behalf_of = Some(client.identity.clone());
        head.forwarded = Some(Forwarded { source: client.address, host });
        head.baggage = client.workload.as_deref().map(Baggage::of);
        self.connect(target, &head, limit).await
    }

    async fn connect(&self, target: &Target, head: &ConnectHead, limit: Duration) -> Result<Io, ConnectError> {
        self.around.check(target.address).map_err(|off| ConnectError::Off(Arc::new(off)))?;
        let connecting = async {
            match &target.tunnel {
                None => {
                    let dialled = plain(&self.around, target.address).await.map(Io::Plain);
                    dialled.map_err(|error| ConnectError::Tcp(Arc::new(error)))
                }
                Some((destination, expected)) => {
                    let key = TunnelKey {
                        workload: self.uid.clone(),
                        source: self.identity.clone(),
                        destination: *destination,
                        expected: Arc::clone(expected),
                    };
                    Ok(Io::Tunnel(self.pool.connect(&key, head).await?.stream))
                }
            }
        };
        match timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(ConnectError::Timeout(limit)),
        }
    }
}

async fn plain(around: &Around, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = around.dial(address).await.map_err(|error| match error {
        DialError::Io(error) => error,
        off @ DialError::Off(..) => io::Error::new(io::ErrorKind::PermissionDenied, off),
    })?;
    tune(&stream, &Liveness::default())?;
    Ok(stream)
}

/// Dials tunnels from this process's own network namespace.
pub struct FromHere {
    around: Arc<Around>,
    /// Of tunnels to one endpoint.
    buffers: ByAddress,
}

impl FromHere {
    /// Dials only where `around` lets a waypoint dial.
    pub fn new(around: Arc<Around>) -> Self {
        Self { around, buffers: ByAddress::default() }
    }
}

impl Dial for FromHere {
    fn dial<'a>(&'a self, key: &'a TunnelKey) -> DialFuture<'a> {
        Box::pin(plain(&self.around, key.destination))
    }

    fn buffers(&self, key: &TunnelKey) -> Arc<Buffers> {
        self.buffers.of(key.destination.ip())
    }
}

/// A byte stream to an endpoint.
pub enum Io {
    /// Plain TCP.
    Plain(TcpStream),
    /// In a tunnel.
    Tunnel(hbone::Stream),
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tunnel(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
