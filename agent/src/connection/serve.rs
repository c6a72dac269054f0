//! The accept loops of one captured workload.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::net::TcpStream;
use tracing::warn;

use crate::capture::{Kind, Listener};
use crate::connection::inbound::{plaintext, tunnel};
use crate::connection::outbound::connection;
use crate::listen::accept;
use crate::listen::listeners::{Listeners, Original};
use crate::node::Node;
use crate::pod::limits::Full;
use crate::pod::workload::Pod;

/// Accepts on every listener until the workload is released or the process drains. Closing the listeners then tells the
/// kernel.
pub(crate) fn start(node: &Arc<Node>, pod: &Arc<Pod>, listeners: Listeners) {
    for (which, listener) in listeners.all {
        one(node, pod, (which, listener), listeners.original);
    }
}

/// Accepts on one listener.
pub(crate) fn one(node: &Arc<Node>, pod: &Arc<Pod>, (which, listener): (Listener, TcpListener), original: Original) {
    let (for_each, of) = (Arc::clone(node), Arc::clone(pod));
    match which.kind {
        Kind::Outbound => accepting(node, pod, (which, listener), move |stream, peer| {
            let (node, pod) = (&for_each, &of);
            let Some(original_dst) = destination(&stream, original) else { return };
            match pod.lease(1) {
                Ok(lease) => {
                    node.spawn_for(pod, connection::carry(Arc::clone(node), lease, stream, peer, original_dst))
                }
                Err(full) => refuse(node, pod, &stream, full),
            }
        }),
        Kind::Plaintext => accepting(node, pod, (which, listener), move |stream, peer| {
            let (node, pod) = (&for_each, &of);
            let Some(original_dst) = destination(&stream, original) else { return };
            match pod.lease(2) {
                Ok(lease) => node.spawn_for(pod, plaintext::carry(Arc::clone(node), lease, stream, peer, original_dst)),
                Err(full) => refuse(node, pod, &stream, full),
            }
        }),
        Kind::Hbone => accepting(node, pod, (which, listener), move |stream, peer| {
            let (node, pod) = (&for_each, &of);
            let Some(dialled) = destination(&stream, Original::SocketName) else { return };
            let begun = pod.handshake(peer.ip()).and_then(|handshake| Ok((handshake, pod.lease(1)?)));
            match begun {
                Ok((handshake, lease)) => {
                    let serving = tunnel::serve(Arc::clone(node), lease, handshake, stream, peer, dialled);
                    node.spawn_handshake(pod, serving);
                }
                Err(full) => refuse(node, pod, &stream, full),
            }
        }),
    }
}

/// Refuses a connection beyond the quota of the pod or its peer, with a reset so that the other end learns at once.
fn refuse(node: &Node, pod: &Pod, stream: &TcpStream, full: Full) {
    let _closed = transport::net::socket::reset_on_close(stream);
    node.refused(pod, full);
}

fn accepting(
    node: &Arc<Node>,
    pod: &Pod,
    (which, listener): (Listener, TcpListener),
    each: impl Fn(TcpStream, SocketAddr) + Send + Sync + 'static,
) {
    let (stop, draining) = (pod.released.clone(), node.draining.clone());
    let (id, uid, lost, counters) = (pod.id, pod.uid.clone(), Arc::clone(&node.lost), Arc::clone(&node.counters));
    node.spawn(async move {
        let what = which.to_string();
        let dead = async {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    accept::until_dead(&listener, &what, |stream, peer| each(stream, canonical(peer))).await
                }
                Err(error) => error,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = draining.cancelled() => {}
            error = dead => {
                warn!("{uid}: somebody has destroyed the {what}: {error}");
                counters.listeners_lost.inc();
                lost.tell(id, which);
            }
        }
    });
}

/// The original destination of a connection. `None` when the peer has already gone.
fn destination(stream: &TcpStream, original: Original) -> Option<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let redirected = match original {
        Original::SocketName => None,
        // Without a conntrack entry (TPROXY, or no redirect) the local address is the original destination.
        Original::Redirected => socket.original_dst_v4().or_else(|_| socket.original_dst_v6()).ok(),
    };
    let original_dst =
        canonical(redirected.and_then(|address| address.as_socket()).or_else(|| stream.local_addr().ok())?);
    // Captured connections never target loopback: somebody in the pod has dialled the listener itself.
    (!original_dst.ip().is_loopback()).then_some(original_dst)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
