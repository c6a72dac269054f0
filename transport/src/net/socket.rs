//! Socket options for every connection of ours.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Keepalive and user timeout: how dead peers are detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Idle time before the first keepalive probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is given up.
    pub probes: u32,
    /// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482).
    pub unacknowledged: Duration,
}

impl Default for Liveness {
    /// A dead peer is detected after three minutes idle and one of probing; a peer that acknowledges nothing after two.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(180),
            interval: Duration::from_secs(15),
            probes: 4,
            unacknowledged: Duration::from_secs(120),
        }
    }
}

/// Sets `TCP_NODELAY`, keepalive and user timeout.
pub fn tune(socket: &impl AsFd, liveness: &Liveness) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(liveness.idle).with_interval(liveness.interval).with_retries(liveness.probes);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(liveness.unacknowledged))
}

/// For a socket whose peer is on this machine: there is no path to share, so nothing to pace. A host that runs BBR
/// would arm a timer for every segment, which costs a third of the CPU of a copy.
pub fn tune_local(socket: &impl AsFd) {
    // Reno is part of every kernel; where it may not be chosen, the default works too.
    let _ = SockRef::from(socket).set_tcp_congestion(b"reno");
}

/// Makes closing the socket send a reset (`SO_LINGER` 0): the peer sees an error, not an end.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}
