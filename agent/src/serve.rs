//! The accept loops of one captured workload.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::accept;
use crate::inbound::{plaintext, tunnel};
use crate::limits::Full;
use crate::listeners::{Listeners, Original};
use crate::node::Node;
use crate::outbound::connection;
use crate::pod::Pod;

/// Accepts on every listener until the workload is released or the process drains. The listeners are closed then, which is
/// how the kernel knows.
pub(crate) fn start(node: &Arc<Node>, pod: &Arc<Pod>, listeners: Listeners) {
    let stop = &pod.released;
    let original = listeners.original;
    let each = |pod: &Arc<Pod>| (Arc::clone(node), Arc::clone(pod));
    for listener in listeners.outbound {
        let (node, pod) = each(pod);
        accepting(&Arc::clone(&node), listener, "outbound", stop, move |stream, peer| {
            let Some(meant) = destination(&stream, original) else { return };
            match pod.hold(1) {
                Ok(held) => node.spawn_for(&pod, connection::carry(Arc::clone(&node), held, stream, peer, meant)),
                Err(full) => refuse(&node, &pod, &stream, full),
            }
        });
    }
    for listener in listeners.plaintext {
        let (node, pod) = each(pod);
        accepting(&Arc::clone(&node), listener, "plaintext", stop, move |stream, peer| {
            let Some(meant) = destination(&stream, original) else { return };
            match pod.hold(2) {
                Ok(held) => node.spawn_for(&pod, plaintext::carry(Arc::clone(&node), held, stream, peer, meant)),
                Err(full) => refuse(&node, &pod, &stream, full),
            }
        });
    }
    for listener in listeners.hbone {
        let (node, pod) = each(pod);
        accepting(&Arc::clone(&node), listener, "HBONE", stop, move |stream, peer| {
            let Some(dialled) = destination(&stream, Original::SocketName) else { return };
            let begun = pod.handshake(peer.ip()).and_then(|handshake| Ok((handshake, pod.hold(1)?)));
            match begun {
                Ok((handshake, held)) => {
                    let serving = tunnel::serve(Arc::clone(&node), held, handshake, stream, peer, dialled);
                    node.spawn_handshake(&pod, serving);
                }
                Err(full) => refuse(&node, &pod, &stream, full),
            }
        });
    }
}

/// Closes a connection that the pod, or its peer, may not have. A reset, so that the other end learns at once.
fn refuse(node: &Node, pod: &Pod, stream: &TcpStream, full: Full) {
    let _closed = mesh::net::socket::reset_on_close(stream);
    node.refused(pod, full);
}

fn accepting(
    node: &Arc<Node>,
    listener: TcpListener,
    what: &'static str,
    stop: &CancellationToken,
    each: impl Fn(TcpStream, SocketAddr) + Send + Sync + 'static,
) {
    let (stop, draining) = (stop.clone(), node.draining.clone());
    node.spawn(async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return error!("the {what} listener cannot be polled: {error}"),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = draining.cancelled() => {}
            () = accept::forever(listener, what, |stream, peer| each(stream, canonical(peer))) => {}
        }
    });
}

/// Where the connection meant to go. `None` when the peer has already gone.
fn destination(stream: &TcpStream, original: Original) -> Option<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let redirected = match original {
        Original::SocketName => None,
        // Without an entry in conntrack (TPROXY, or nobody redirected) the socket's own address is right.
        Original::Redirected => socket.original_dst_v4().or_else(|_| socket.original_dst_v6()).ok(),
    };
    let meant = canonical(redirected.and_then(|address| address.as_socket()).or_else(|| stream.local_addr().ok())?);
    // Captured connections are never for loopback: somebody in the pod has dialled the listener itself.
    (!meant.ip().is_loopback()).then_some(meant)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
