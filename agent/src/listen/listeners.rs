//! The listeners of one workload, and how to find the original destination of what they accept.

use std::net::TcpListener;

use crate::capture::{Kind, Listener};

/// The listeners of one workload, in its network namespace.
pub(crate) struct Listeners {
    /// The listeners with their kind and address family.
    pub(crate) all: Vec<(Listener, TcpListener)>,
    /// How the original destination of an accepted connection is found.
    pub(crate) original: Original,
}

impl Listeners {
    /// The listeners of each kind; the address family is asked of the socket.
    pub(crate) fn new(original: Original, kinds: [(Kind, Vec<TcpListener>); 3]) -> Self {
        let which = |kind, listener: &TcpListener| {
            let v6 = listener.local_addr().is_ok_and(|address| address.is_ipv6());
            Listener { kind, v6 }
        };
        let all = kinds.into_iter().flat_map(|(kind, listeners)| {
            listeners.into_iter().map(move |listener| (which(kind, &listener), listener))
        });
        Self { all: all.collect(), original }
    }
}

/// How the original destination of an accepted connection is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Original {
    /// The local address of the accepted socket.
    SocketName,
    /// `SO_ORIGINAL_DST`: iptables REDIRECT has changed the local address.
    Redirected,
}
