//! Pure. The payload bytes of a connection, derived from TCP's counters.
//!
//! `tp->bytes_acked` and `tp->bytes_received` are advances of sequence numbers, in which a FIN counts as one, and so
//! does the SYN of the connecting side (net/ipv4/tcp_input.c, tcp_snd_una_update and tcp_rcv_nxt_update). They are
//! subtracted here.

/// A TCP state in the kernel's numbering (include/net/tcp_states.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State(pub u32);

impl State {
    /// TCP_ESTABLISHED.
    pub const ESTABLISHED: Self = Self(1);
    /// TCP_FIN_WAIT1.
    pub const FIN_WAIT1: Self = Self(4);
    /// TCP_FIN_WAIT2.
    pub const FIN_WAIT2: Self = Self(5);
    /// TCP_CLOSE.
    pub const CLOSE: Self = Self(7);
    /// TCP_CLOSE_WAIT.
    pub const CLOSE_WAIT: Self = Self(8);
    /// TCP_LAST_ACK.
    pub const LAST_ACK: Self = Self(9);
    /// TCP_CLOSING.
    pub const CLOSING: Self = Self(11);
}

/// Value of the socket storage `ACCOUNTS`: a passthrough connection of a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// Id of the pod.
    pub pod: u32,
    /// Flags: see the constants.
    pub flags: u32,
    /// When it was opened, in nanoseconds of CLOCK_MONOTONIC; 0 before that.
    pub opened: u64,
    /// `bytes_received` when the peer acknowledged our FIN; bytes after that end with the peer's FIN.
    pub received_at_fin: u64,
}

impl Account {
    /// The pod accepted the connection.
    pub const INBOUND: u32 = 1;
    /// It is a probe of the kubelet.
    pub const PROBE: u32 = 2;

    /// Payload bytes that the peer has acknowledged. `old` is the state before CLOSE; `all_acked` is whether everything
    /// sent is acknowledged.
    #[inline(always)]
    pub const fn sent(&self, bytes_acked: u64, old: State, all_acked: bool) -> u64 {
        let syn = (self.flags & Self::INBOUND == 0) as u64;
        let fin = match old {
            State::FIN_WAIT2 => true,
            State::LAST_ACK | State::CLOSING => all_acked,
            _ => false,
        };
        bytes_acked.saturating_sub(syn + fin as u64)
    }

    /// Payload bytes that the peer sent. `old` is the state before CLOSE.
    #[inline(always)]
    pub const fn received(&self, bytes_received: u64, old: State) -> u64 {
        let fin = match old {
            State::CLOSE_WAIT | State::LAST_ACK | State::CLOSING => true,
            // An orphaned socket is closed when its FIN is acknowledged, without the peer's FIN.
            State::FIN_WAIT2 => bytes_received > self.received_at_fin,
            _ => false,
        };
        bytes_received.saturating_sub(fin as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::{Account, State};

    const fn account(flags: u32, received_at_fin: u64) -> Account {
        Account { pod: 1, flags, opened: 1, received_at_fin }
    }

    #[test]
    fn the_side_that_connects_does_not_count_its_syn() {
        assert_eq!(account(0, 0).sent(101, State::ESTABLISHED, true), 100);
        assert_eq!(account(Account::INBOUND, 0).sent(100, State::ESTABLISHED, true), 100);
        assert_eq!(account(0, 0).sent(0, State::ESTABLISHED, true), 0);
    }

    #[test]
    fn an_acknowledged_fin_is_not_payload() {
        assert_eq!(account(0, 0).sent(102, State::FIN_WAIT2, true), 100);
        assert_eq!(account(0, 0).sent(102, State::LAST_ACK, true), 100);
        assert_eq!(account(0, 0).sent(101, State::LAST_ACK, false), 100);
        assert_eq!(account(Account::INBOUND, 0).sent(101, State::CLOSING, true), 100);
        assert_eq!(account(Account::INBOUND, 0).sent(100, State::FIN_WAIT1, false), 100);
    }

    #[test]
    fn a_fin_of_the_peer_is_not_payload() {
        assert_eq!(account(0, 0).received(51, State::LAST_ACK), 50);
        assert_eq!(account(0, 0).received(51, State::CLOSE_WAIT), 50);
        assert_eq!(account(0, 0).received(50, State::ESTABLISHED), 50);
        assert_eq!(account(0, 20).received(51, State::FIN_WAIT2), 50);
        assert_eq!(account(0, 50).received(50, State::FIN_WAIT2), 50);
    }
}
