//! The inbound HBONE listener: terminates mTLS as the waypoint; each CONNECT is a connection to a service.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use process::telemetry::throttle::Throttle;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::{debug, error, warn};
use transport::hbone::{self, ServerConnection};
use transport::keyring::Keyring;
use transport::net::buffers::ByAddress;
use transport::net::handshakes::{Begun, Handshakes};
use transport::net::socket::{Liveness, reset_on_close, tune};

use super::connection;
use crate::handshakes::{Full, Handshaking};
use crate::shared::Shared;

/// What a listener needs beside what all connections share.
#[derive(Clone)]
pub struct Incoming {
    /// Certificates.
    pub keyring: Arc<Keyring>,
    /// How tunnels are set up.
    pub settings: Arc<hbone::Settings>,
    /// Handshakes that are in progress.
    pub handshakes: Arc<Handshakes>,
    /// How many there may be.
    pub limits: Handshaking,
    /// Quotas, by peer address, of what its tunnels buffer for slow readers.
    pub buffers: Arc<ByAddress>,
}

/// Accepts until the process drains.
pub async fn accept(shared: Arc<Shared>, incoming: Incoming, listener: TcpListener) {
    let refused = Throttle::default();
    loop {
        let accepted = tokio::select! {
            () = shared.draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                match incoming.handshakes.begin(peer.ip(), |counted| incoming.limits.judge(counted)) {
                    Ok(begun) => {
                        shared.tasks.spawn(tunnel(Arc::clone(&shared), incoming.clone(), begun, stream, peer));
                    }
                    Err(full) => refuse(&shared, &refused, &stream, peer, full),
                }
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                // Mostly no more file descriptors: some come back when connections end.
                error!("accepting: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// A reset, so that the peer learns at once.
fn refuse(shared: &Shared, refused: &Throttle, stream: &TcpStream, peer: SocketAddr, full: Full) {
    let _closed = reset_on_close(stream);
    shared.refusals.limit_refused(full.reason());
    if let Some(count) = refused.one_more(Instant::now()) {
        warn!("{peer}: {full}: {count} connections refused since the last such line ({})", full.reason());
    }
}

async fn tunnel(shared: Arc<Shared>, incoming: Incoming, begun: Begun, stream: TcpStream, peer: SocketAddr) {
    // The handshake timeout includes the wait for a turn and for our certificate: a peer that exhausts its quota delays
    // only itself.
    let shaking =
        timeout(incoming.settings.handshake, Box::pin(shake_hands(&shared, &incoming, &begun, stream, peer.ip())));
    let shaken = shaking.await.unwrap_or_else(|_| Err(("timeout", "no handshake in time".to_owned())));
    drop(begun);
    match shaken {
        Ok(tunnel) => streams(shared, tunnel, peer).await,
        Err((reason, text)) => {
            shared.refusals.peer_refused(reason);
            debug!("{peer}: {text}");
        }
    }
}

async fn shake_hands(
    shared: &Shared,
    incoming: &Incoming,
    begun: &Begun,
    stream: TcpStream,
    peer: IpAddr,
) -> Result<ServerConnection, (&'static str, String)> {
    let _turn = begun.turn().await;
    let identity = shared.connector.identity();
    let config = incoming.keyring.server_config(identity).await;
    let config = config.map_err(|error| ("no_certificate_yet", error.to_string()))?;
    tune(&stream, &Liveness::default()).map_err(|error| ("transport", error.to_string()))?;
    let buffers = incoming.buffers.of(peer);
    let accepted = hbone::accept_within(stream, &config, &incoming.settings, &buffers).await;
    accepted.map_err(|error| (error.reason(), error.to_string()))
}

async fn streams(shared: Arc<Shared>, mut tunnel: ServerConnection, peer: SocketAddr) {
    let identity = tunnel.peer().identity.clone();
    let mut draining = false;
    loop {
        let next = tokio::select! {
            next = tunnel.next() => next,
            () = shared.draining.cancelled(), if !draining => {
                draining = true;
                tunnel.drain();
                continue;
            }
        };
        let Some(request) = next else { break };
        shared.tasks.spawn(connection::carry(Arc::clone(&shared), request, peer, identity.clone()));
    }
    match tunnel.ended() {
        Some(hbone::Ended::Closed) | None => {}
        Some(ended) => {
            shared.refusals.peer_refused(ended.reason());
            debug!("tunnel from {peer} ({identity}): {ended}");
        }
    }
}
