//! Pure. How many handshakes with the waypoint may be in progress, of one peer and of all.

use thiserror::Error;
use transport::net::handshakes::Counted;

/// Handshakes that may be in progress or wait, of all peers.
const ALL: usize = 8192;
/// So many handshakes of a peer wait for each that is in progress.
const WAITING: usize = 7;

/// How many handshakes there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshaking {
    /// Of one peer's address, in progress at once.
    pub at_once: usize,
}

/// Why a peer may begin no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Full {
    /// As many as one peer may have.
    #[error("{0} handshakes of this peer are in progress or wait, which is its limit")]
    Peer(usize),
    /// As many as are left for all others.
    #[error("this peer has as many handshakes in progress ({0}) as there is room left for all others")]
    Quota(usize),
}

impl Handshaking {
    /// Whether one more may begin, or wait.
    ///
    /// A peer may have as many as are left, so that however many take all they can get there is something for who comes
    /// next.
    pub fn judge(self, counted: Counted) -> Result<(), Full> {
        if counted.of_peer >= self.at_once.saturating_mul(1 + WAITING) {
            return Err(Full::Peer(counted.of_peer));
        }
        if counted.of_peer >= ALL.saturating_sub(counted.all) {
            return Err(Full::Quota(counted.of_peer));
        }
        Ok(())
    }
}

impl Full {
    /// A short word for the reason, stable: the value of a metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Peer(_) => "peer_handshakes",
            Self::Quota(_) => "all_handshakes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_its_limit() {
        let limits = Handshaking { at_once: 10 };
        assert_eq!(limits.judge(Counted { all: 79, of_peer: 79 }), Ok(()));
        assert_eq!(limits.judge(Counted { all: 80, of_peer: 80 }), Err(Full::Peer(80)));
        assert_eq!(limits.judge(Counted { all: 80, of_peer: 0 }), Ok(()));
    }

    #[test]
    fn all_peers_together_have_theirs_and_leave_something_for_the_next() {
        let limits = Handshaking { at_once: 1 << 20 };
        for greedy in [1, 2, 50] {
            let mut own = vec![0; greedy];
            loop {
                let before: usize = own.iter().sum();
                for at in 0..greedy {
                    let counted = Counted { all: own.iter().sum(), of_peer: own[at] };
                    own[at] += usize::from(limits.judge(counted).is_ok());
                }
                let all = own.iter().sum();
                if all == before {
                    assert!(all < ALL, "{greedy}");
                    assert_eq!(limits.judge(Counted { all, of_peer: 0 }), Ok(()), "{greedy}: nothing is left");
                    break;
                }
            }
        }
    }
}
