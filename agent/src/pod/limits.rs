//! Pure. The limits of one workload's use of the agent.

use thiserror::Error;

/// Limits of one workload. The defaults are far above what a well-behaved workload needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Open connections of one workload, outbound and inbound together.
    pub(crate) connections: usize,
    /// Open sockets of all workloads together; the remaining descriptors are for the process itself.
    pub(crate) sockets: usize,
    /// Inbound handshakes of one workload, in progress and waiting.
    pub(crate) handshakes: usize,
    /// Handshakes of one peer address in progress, whichever workloads it calls.
    pub(crate) peer_handshakes: usize,
    /// Handshakes of one peer address that wait for those.
    pub(crate) peer_queue: usize,
    /// Concurrent dials of one workload; further ones wait.
    pub(crate) dials: usize,
    /// Whether workloads are scheduled by fair queueing.
    pub(crate) fair_queueing: bool,
}

/// The limit that a workload or a peer has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Full {
    /// Connections of the workload.
    #[error("the pod has {0} connections open, which is its limit")]
    Connections(usize),
    /// Sockets of the workload: it has as many as are left.
    #[error("the pod has as many sockets open ({0}) as there are file descriptors left for all others")]
    Sockets(usize),
    /// Inbound handshakes of the workload.
    #[error("{0} handshakes with the pod are in progress, which is its limit")]
    Handshakes(usize),
    /// Handshakes of the peer.
    #[error("{0} handshakes of this peer are in progress or wait, which is its limit")]
    Peer(usize),
}

impl Limits {
    /// The limits of a process that may open `descriptors` files; `connections` and `peer_handshakes` are configured.
    pub(crate) fn new(descriptors: usize, connections: usize, peer_handshakes: usize) -> Self {
        Self {
            connections,
            // An eighth is for tunnels, pipes, listeners, files and the admin server.
            sockets: descriptors - descriptors / 8,
            handshakes: 1024,
            peer_handshakes,
            peer_queue: peer_handshakes.saturating_mul(7),
            dials: 1024,
            fair_queueing: true,
        }
    }

    /// No limits and no fair queueing, for benchmarks.
    pub(crate) fn none() -> Self {
        let most = usize::MAX >> 4;
        Self {
            connections: most,
            sockets: most,
            handshakes: most,
            peer_handshakes: most,
            peer_queue: most,
            dials: most,
            fair_queueing: false,
        }
    }

    /// Checks whether a workload with `own` of the `all` open sockets may open another connection.
    ///
    /// A workload may have as many sockets as are left (the "dynamic threshold" of switches with a shared buffer):
    /// alone half of all, two greedy workloads a third each, and there is always something left for the next one.
    pub(crate) fn connection(&self, own: usize, all: usize) -> Result<(), Full> {
        if own >= self.connections {
            return Err(Full::Connections(own));
        }
        if own >= self.sockets.saturating_sub(all) {
            return Err(Full::Sockets(own));
        }
        Ok(())
    }

    /// Checks whether one more handshake may begin or wait, given the counts of the workload and of the peer.
    pub(crate) fn handshake(&self, of_workload: usize, of_peer: usize) -> Result<(), Full> {
        if of_peer >= self.peer_handshakes.saturating_add(self.peer_queue) {
            return Err(Full::Peer(of_peer));
        }
        if of_workload >= self.handshakes {
            return Err(Full::Handshakes(of_workload));
        }
        Ok(())
    }
}

impl Full {
    /// The stable value of a metric label.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Connections(_) => "pod_connections",
            Self::Sockets(_) => "pod_share",
            Self::Handshakes(_) => "pod_handshakes",
            Self::Peer(_) => "peer_handshakes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_may_have_as_many_connections_as_it_was_told() {
        let limits = Limits::new(1_000_000, 100, 128);
        assert_eq!(limits.connection(99, 5000), Ok(()));
        assert_eq!(limits.connection(100, 100), Err(Full::Connections(100)));
    }

    #[test]
    fn greedy_workloads_get_equal_parts_and_leave_something_for_the_next() {
        let limits = Limits::new(8000, usize::MAX, 128);
        for greedy in 1..=20_usize {
            // Each takes one in its turn, as long as it may.
            let mut own = vec![0_usize; greedy];
            let mut all = 0;
            loop {
                let before = all;
                for mine in &mut own {
                    if limits.connection(*mine, all).is_ok() {
                        (*mine, all) = (*mine + 1, all + 1);
                    }
                }
                if all == before {
                    break;
                }
            }
            let fair = 7000 / (greedy + 1);
            assert!(own.iter().all(|mine| mine.abs_diff(fair) <= 1), "{greedy}: {own:?}");
            assert_eq!(limits.connection(0, all), Ok(()), "{greedy}: nothing is left");
        }
    }

    #[test]
    fn one_peer_is_refused_before_the_workload_is_full() {
        let limits = Limits::new(8000, 100, 10);
        assert_eq!(limits.handshake(79, 79), Ok(()));
        assert_eq!(limits.handshake(80, 80), Err(Full::Peer(80)));
        assert_eq!(limits.handshake(80, 0), Ok(()));
        assert_eq!(limits.handshake(1024, 0), Err(Full::Handshakes(1024)));
    }

    #[test]
    fn without_limits_nothing_is_refused() {
        let limits = Limits::none();
        assert_eq!(limits.connection(1 << 40, 1 << 40), Ok(()));
        assert_eq!(limits.handshake(1 << 40, 1 << 40), Ok(()));
    }
}
