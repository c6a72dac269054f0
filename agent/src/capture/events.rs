//! Events of the eBPF programs, read from their ring buffer.
#![expect(unsafe_code, reason = "events are read from shared memory as plain structures")]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use agent_abi::{Account, EventKind};
use aya::maps::{Map, MapData, RingBuf};
use mesh::model::connection::Direction;

use super::error::CaptureError;

/// An event of a connection that the agent does not carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Policy refused a plaintext connection to a pod; the peer got a reset.
    Refused {
        /// Id of the pod.
        pod: u32,
        /// The client's address.
        src: SocketAddr,
        /// The destination.
        dst: SocketAddr,
    },
    /// A passthrough connection was established.
    Opened {
        /// Id of the pod.
        pod: u32,
        /// Inbound if the pod accepted it, outbound if it connected.
        direction: Direction,
        /// The client's address.
        src: SocketAddr,
        /// The destination.
        dst: SocketAddr,
        /// Whether it is a probe of the kubelet.
        probe: bool,
    },
    /// A passthrough connection ended.
    Closed {
        /// Id of the pod.
        pod: u32,
        /// Inbound if the pod accepted it, outbound if it connected.
        direction: Direction,
        /// The client's address.
        src: SocketAddr,
        /// The destination.
        dst: SocketAddr,
        /// Payload that the pod sent and its peer acknowledged, in bytes.
        sent: u64,
        /// Payload that the pod received, in bytes.
        received: u64,
        /// How long it was open.
        duration: Duration,
        /// Whether it is a probe of the kubelet.
        probe: bool,
    },
    /// A passthrough connection of a pod could not be established.
    Failed {
        /// Id of the pod.
        pod: u32,
        /// The pod's address.
        src: SocketAddr,
        /// The destination.
        dst: SocketAddr,
    },
}

/// The event reader. The file descriptor becomes readable only when a quarter of the buffer is full, so that
/// passthrough connections do not wake the agent: poll on a timer as well (every 100 ms), until `next` returns `None`.
///
/// One reader at a time: a draining agent must drop its reader before the next agent reads.
pub struct Events(RingBuf<MapData>);

impl Events {
    pub(super) fn new(map: MapData) -> Result<Self, CaptureError> {
        let map = Map::from_map_data(map).map_err(CaptureError::map("EVENTS"))?;
        RingBuf::try_from(map).map(Self).map_err(CaptureError::map("EVENTS"))
    }

    /// The next event, if any.
    #[expect(clippy::should_implement_trait, reason = "`None` means none yet, not the end")]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            if item.len() < size_of::<agent_abi::Event>() {
                continue;
            }
            // SAFETY: there are as many bytes as the structure has, and any bytes are integers.
            let raw = unsafe { item.as_ptr().cast::<agent_abi::Event>().read_unaligned() };
            if let Some(event) = decode(&raw) {
                return Some(event);
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring buffer owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn decode(raw: &agent_abi::Event) -> Option<Event> {
    let pod = raw.pod;
    let src = SocketAddr::new(IpAddr::from(raw.source), raw.source_port);
    let dst = SocketAddr::new(IpAddr::from(raw.destination), raw.destination_port);
    let direction = if raw.flags & Account::INBOUND != 0 { Direction::Inbound } else { Direction::Outbound };
    let probe = raw.flags & Account::PROBE != 0;
    let kinds = [EventKind::Refused, EventKind::Opened, EventKind::Closed, EventKind::Failed];
    Some(match kinds.into_iter().find(|kind| *kind as u32 == raw.kind)? {
        EventKind::Refused => Event::Refused { pod, src, dst },
        EventKind::Opened => Event::Opened { pod, direction, src, dst, probe },
        EventKind::Closed => Event::Closed {
            pod,
            direction,
            src,
            dst,
            sent: raw.sent,
            received: raw.received,
            duration: Duration::from_nanos(raw.duration),
            probe,
        },
        EventKind::Failed => Event::Failed { pod, src, dst },
    })
}

#[cfg(test)]
mod tests {
    use agent_abi::{Account, Address, EventKind};

    use super::*;

    fn raw(kind: u32, flags: u32) -> agent_abi::Event {
        agent_abi::Event {
            kind,
            pod: 7,
            flags,
            source_port: 40000,
            destination_port: 80,
            source: Address::from(IpAddr::from([10, 0, 0, 1])),
            destination: Address::from(IpAddr::from([10, 0, 0, 2])),
            sent: 5,
            received: 6,
            duration: 1_500_000,
        }
    }

    #[test]
    fn events_are_decoded() {
        let src = "10.0.0.1:40000".parse().unwrap();
        let dst = "10.0.0.2:80".parse().unwrap();
        assert_eq!(decode(&raw(EventKind::Refused as u32, 1)), Some(Event::Refused { pod: 7, src, dst }));
        let closed = Event::Closed {
            pod: 7,
            direction: Direction::Inbound,
            src,
            dst,
            sent: 5,
            received: 6,
            duration: Duration::from_micros(1500),
            probe: true,
        };
        assert_eq!(decode(&raw(EventKind::Closed as u32, Account::INBOUND | Account::PROBE)), Some(closed));
    }

    #[test]
    fn an_event_of_another_build_is_left_out() {
        assert_eq!(decode(&raw(99, 0)), None);
    }
}
