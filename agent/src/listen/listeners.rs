//! The listeners of one workload, and what they say of a connection.

use std::net::TcpListener;

use crate::capture::{Kind, Listener};

/// The listeners of one workload, in its network namespace.
pub(crate) struct Listeners {
    /// Each with what it is for.
    pub(crate) all: Vec<(Listener, TcpListener)>,
    /// How the original destination of an accepted connection is found.
    pub(crate) original: Original,
}

impl Listeners {
    /// Those of each kind; what family one is for it says itself.
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
    /// It is the socket's own address.
    SocketName,
    /// An iptables REDIRECT changed it: asked of conntrack by SO_ORIGINAL_DST.
    Redirected,
}
