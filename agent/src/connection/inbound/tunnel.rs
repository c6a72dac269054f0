//! One HBONE connection: TLS as the workload, then each CONNECT in it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use mesh::model::connection::Direction;
use tokio::net::TcpStream;
use tracing::debug;
use transport::hbone::{self, ServerConnection};

use super::request;
use crate::node::Node;
use crate::pod::workload::{Handshake, Pod, SocketLease};

/// Serves one connection to the HBONE port of `pod` until the peer closes it or the process drains. Handshakes run
/// here; the streams run among the pod's connections.
pub(crate) async fn serve(
    node: Arc<Node>,
    pod: SocketLease,
    handshake: Handshake,
    stream: TcpStream,
    peer: SocketAddr,
    dialled: SocketAddr,
) {
    let shaken = Box::pin(shake_hands(&node, &pod, &handshake, stream)).await;
    drop(handshake);
    match shaken {
        Ok(tunnel) => {
            let of = Arc::clone(&pod);
            node.clone().spawn_for(&of, streams(node, pod, tunnel, peer, dialled));
        }
        Err((reason, text)) => {
            node.counters.refusals.peer_refused(reason);
            node.log.failed_early(peer, dialled, Direction::Inbound, text);
        }
    }
}

async fn shake_hands(
    node: &Node,
    pod: &Pod,
    handshake: &Handshake,
    stream: TcpStream,
) -> Result<ServerConnection, (&'static str, String)> {
    // Waiting counts towards the handshake timeout: a peer that exhausts its quota delays only itself.
    let Ok(_turn) = tokio::time::timeout(node.tunnel_settings.handshake, handshake.begun.turn()).await else {
        return Err(("peer_handshakes", "too many handshakes of this peer are in progress".to_owned()));
    };
    let config =
        node.keyring.server_config(&pod.identity).await.map_err(|error| ("no_certificate_yet", error.to_string()))?;
    let tuned = transport::net::socket::tune(&stream, &transport::net::socket::Liveness::default());
    tuned.map_err(|error| ("transport", error.to_string()))?;
    let accepted = hbone::accept_within(stream, &config, &node.tunnel_settings, pod.quota.buffers()).await;
    accepted.map_err(|error| (error.reason(), error.to_string()))
}

async fn streams(
    node: Arc<Node>,
    pod: SocketLease,
    mut tunnel: ServerConnection,
    peer: SocketAddr,
    dialled: SocketAddr,
) {
    let identity = tunnel.peer().identity.clone();
    let mut draining = false;
    loop {
        let next = tokio::select! {
            next = tunnel.next() => next,
            // Either way the peer gets GOAWAY, and the tunnel ends with its open streams.
            () = node.draining.cancelled(), if !draining => {
                draining = true;
                tunnel.drain();
                continue;
            }
            () = pod.released.cancelled(), if !draining => {
                draining = true;
                tunnel.drain();
                continue;
            }
        };
        let Some(request) = next else { break };
        let from = request::From { peer, dialled, identity: identity.clone() };
        match pod.lease(1) {
            Ok(lease) => node.spawn_for(&pod, request::carry(Arc::clone(&node), lease, request, from)),
            Err(full) => {
                request.refuse(StatusCode::SERVICE_UNAVAILABLE);
                node.refused(&pod, full);
            }
        }
    }
    match tunnel.ended() {
        Some(hbone::Ended::Closed) | None => {}
        Some(ended) => {
            node.counters.refusals.peer_refused(ended.reason());
            debug!("tunnel from {peer} ({identity}): {ended}");
        }
    }
}
