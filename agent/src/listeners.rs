//! The listeners of one workload, and what they say of a connection.

use std::net::TcpListener;

/// The listeners of one workload, in its network namespace.
pub(crate) struct Listeners {
    /// Connections leaving the workload.
    pub(crate) outbound: Vec<TcpListener>,
    /// Plaintext connections arriving that the kernel cannot decide alone.
    pub(crate) plaintext: Vec<TcpListener>,
    /// Tunnels arriving.
    pub(crate) hbone: Vec<TcpListener>,
    /// How the original destination of an accepted connection is found.
    pub(crate) original: Original,
}

/// How the original destination of an accepted connection is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Original {
    /// It is the socket's own address.
    SocketName,
    /// An iptables REDIRECT changed it: asked of conntrack by SO_ORIGINAL_DST.
    Redirected,
}
