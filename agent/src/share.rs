//! What each workload holds of the agent, and what it may: counts, turns, and the word about what was refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh::lane::Lane;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits::{Full, Limits};

/// What all workloads share.
pub(crate) struct Shares {
    limits: Limits,
    runtime: Handle,
    /// Threads that carry traffic.
    threads: usize,
    /// Sockets of all workloads.
    all: AtomicUsize,
    /// Whose handshakes are in progress.
    peers: Mutex<HashMap<IpAddr, Arc<Peer>>>,
}

/// The handshakes of one peer's address.
struct Peer {
    count: AtomicUsize,
    turns: Semaphore,
}

/// The share of one workload.
pub(crate) struct Share {
    shares: Arc<Shares>,
    sockets: AtomicUsize,
    handshakes: AtomicUsize,
    dials: Semaphore,
    /// Turns of its connections and tunnels.
    lane: Lane,
    /// Turns of the handshakes that others begin with it: they cost most, and anyone may begin them.
    handshaking: Lane,
    refused: Mutex<Refused>,
}

/// What was refused and not told yet.
#[derive(Default)]
struct Refused {
    count: u64,
    told: Option<Instant>,
}

impl Shares {
    /// Nobody has anything yet. What is spawned runs on `runtime`.
    pub(crate) fn new(limits: Limits, runtime: Handle, threads: usize) -> Arc<Self> {
        Arc::new(Self { limits, runtime, threads, all: AtomicUsize::new(0), peers: Mutex::default() })
    }

    /// The share of one more workload.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        let lane = || match self.limits.turns {
            true => Lane::new(self.runtime.clone(), self.threads),
            false => Lane::without_turns(self.runtime.clone()),
        };
        Share {
            sockets: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            dials: Semaphore::new(self.limits.dials),
            lane: lane(),
            handshaking: lane(),
            refused: Mutex::default(),
            shares: Arc::clone(self),
        }
    }
}

impl Share {
    /// Takes so many sockets, if it may have one more. They are given back by `give_back`.
    pub(crate) fn take(&self, sockets: usize) -> Result<(), Full> {
        let (own, all) = (self.sockets.load(Ordering::Relaxed), self.shares.all.load(Ordering::Relaxed));
        self.shares.limits.connection(own, all)?;
        self.take_anyway(sockets);
        Ok(())
    }

    /// Counts sockets that are there already.
    pub(crate) fn take_anyway(&self, sockets: usize) {
        self.sockets.fetch_add(sockets, Ordering::Relaxed);
        self.shares.all.fetch_add(sockets, Ordering::Relaxed);
    }

    /// Sockets were closed.
    pub(crate) fn give_back(&self, sockets: usize) {
        self.sockets.fetch_sub(sockets, Ordering::Relaxed);
        self.shares.all.fetch_sub(sockets, Ordering::Relaxed);
    }

    /// A peer begins a handshake, if it may: to be ended by dropping what it gets.
    pub(crate) fn handshake(&self, peer: IpAddr) -> Result<Begun, Full> {
        let limits = &self.shares.limits;
        let mut peers = self.shares.peers.lock();
        let of_peer = peers.get(&peer).map_or(0, |known| known.count.load(Ordering::Relaxed));
        limits.handshake(self.handshakes.load(Ordering::Relaxed), of_peer)?;
        let known = peers.entry(peer).or_insert_with(|| {
            Arc::new(Peer { count: AtomicUsize::new(0), turns: Semaphore::new(limits.peer_handshakes) })
        });
        known.count.fetch_add(1, Ordering::Relaxed);
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        Ok(Begun { shares: Arc::clone(&self.shares), address: peer, peer: Arc::clone(known) })
    }

    /// A handshake with it has ended.
    pub(crate) fn handshake_ended(&self) {
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits for one of the places of those who dial. None: not in that time.
    pub(crate) async fn dialling(&self, within: Duration) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.dials.try_acquire() {
            return Some(place);
        }
        tokio::time::timeout(within, self.dials.acquire()).await.ok()?.ok()
    }

    /// Turns of its connections.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Turns of handshakes with it.
    pub(crate) fn handshaking(&self) -> &Lane {
        &self.handshaking
    }

    /// Counts a refusal. Some: it is time to say how many there were, once in a second at most.
    pub(crate) fn refused(&self) -> Option<u64> {
        self.refused.lock().one_more(Instant::now())
    }
}

impl Refused {
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < Duration::from_secs(1)) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// A handshake that a peer has begun.
pub(crate) struct Begun {
    shares: Arc<Shares>,
    address: IpAddr,
    peer: Arc<Peer>,
}

impl Begun {
    /// Waits until few enough others of the same peer are in progress.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.peer.turns.acquire().await.ok()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut peers = self.shares.peers.lock();
        if self.peer.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            peers.remove(&self.address);
        }
        if peers.is_empty() {
            peers.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(connections: usize) -> Arc<Shares> {
        Shares::new(Limits::new(8000, connections, 2), Handle::current(), 1)
    }

    #[tokio::test]
    async fn what_is_given_back_can_be_taken_again() {
        let shares = shares(2);
        let (one, other) = (shares.share(), shares.share());
        one.take(1).unwrap();
        one.take(1).unwrap();
        assert_eq!(one.take(1), Err(Full::Connections(2)));
        other.take(1).unwrap();
        one.give_back(1);
        one.take(1).unwrap();
        assert_eq!(shares.all.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_peer_with_slow_handshakes_waits_for_itself_and_for_nobody_else() {
        let (slow, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let shares = shares(100);
        let share = shares.share();
        let begun: Vec<Begun> = (0..16).map(|_| share.handshake(slow).unwrap()).collect();
        assert_eq!(share.handshake(slow).err(), Some(Full::Peer(16)));
        let _in_progress = (begun[0].turn().await, begun[1].turn().await);
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, begun[2].turn()).await.is_err());
        let unharmed = share.handshake(other).unwrap();
        assert!(tokio::time::timeout(short, unharmed.turn()).await.is_ok());
        drop(_in_progress);
        assert!(tokio::time::timeout(short, begun[2].turn()).await.is_ok());
        drop((begun, unharmed));
        assert!(shares.peers.lock().is_empty());
    }

    #[test]
    fn refusals_are_told_once_in_a_second_with_their_number() {
        let (mut refused, now) = (Refused::default(), Instant::now());
        assert_eq!(refused.one_more(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(refused.one_more(now + Duration::from_millis(900)), None);
        }
        assert_eq!(refused.one_more(now + Duration::from_millis(1001)), Some(1001));
    }
}
