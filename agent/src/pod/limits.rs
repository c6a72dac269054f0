//! Pure. How much of the agent one workload may have.

use thiserror::Error;

/// How much one workload may have. The defaults are far above what a workload needs that means no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections that one workload has open, outbound and inbound together.
    pub(crate) connections: usize,
    /// Sockets that all workloads together may have open: what is left then is for the process itself.
    pub(crate) sockets: usize,
    /// Handshakes that are in progress or wait, of all who call one workload.
    pub(crate) handshakes: usize,
    /// Handshakes of one peer's address that are in progress at once, whichever workloads it calls.
    pub(crate) peer_handshakes: usize,
    /// Handshakes of one peer's address that wait for those.
    pub(crate) peer_queue: usize,
    /// Connections of one workload that are being dialled at once; the others wait.
    pub(crate) dials: usize,
    /// Whether workloads take turns, however much each has to do.
    pub(crate) turns: bool,
}

/// Why a workload, or a peer, gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Full {
    /// As many connections as one workload may have.
    #[error("the pod has {0} connections open, which is its limit")]
    Connections(usize),
    /// As many sockets as its part of the file descriptors allows.
    #[error("the pod has as many sockets open ({0}) as there are file descriptors left for all others")]
    Sockets(usize),
    /// As many handshakes as one workload may be asked for.
    #[error("{0} handshakes with the pod are in progress, which is its limit")]
    Handshakes(usize),
    /// As many handshakes as one peer may begin.
    #[error("{0} handshakes of this peer are in progress or wait, which is its limit")]
    Peer(usize),
}

impl Limits {
    /// The limits of a process that may open so many descriptors; `connections` and `peer_handshakes` as they were told.
    pub(crate) fn new(descriptors: usize, connections: usize, peer_handshakes: usize) -> Self {
        Self {
            connections,
            // An eighth is for tunnels, pipes, listeners, files and the admin server.
            sockets: descriptors - descriptors / 8,
            handshakes: 1024,
            peer_handshakes,
            peer_queue: peer_handshakes.saturating_mul(7),
            dials: 1024,
            turns: true,
        }
    }

    /// No limits and no turns, to measure what both are good for.
    pub(crate) fn none() -> Self {
        let most = usize::MAX >> 4;
        Self {
            connections: most,
            sockets: most,
            handshakes: most,
            peer_handshakes: most,
            peer_queue: most,
            dials: most,
            turns: false,
        }
    }

    /// Whether a workload that has `own` of the `all` open sockets may have one more.
    ///
    /// A workload may have as many as are left (the "dynamic threshold" of switches with a shared buffer): alone half of all,
    /// one of two greedy ones a third each, and there always is something left for who comes next.
    pub(crate) fn connection(&self, own: usize, all: usize) -> Result<(), Full> {
        if own >= self.connections {
            return Err(Full::Connections(own));
        }
        if own >= self.sockets.saturating_sub(all) {
            return Err(Full::Sockets(own));
        }
        Ok(())
    }

    /// Whether one more handshake may begin, or wait, when a workload has so many and the peer has so many.
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
    /// A short word for the reason, stable: the value of a metric label.
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
    fn greedy_workloads_share_evenly_and_leave_something_for_the_next() {
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
