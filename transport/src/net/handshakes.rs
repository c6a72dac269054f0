//! Limits concurrent handshakes per peer address: a peer that exhausts its quota delays only itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The handshakes in progress or waiting, by peer address.
#[derive(Debug)]
pub struct Handshakes {
    /// Handshakes of one peer that run at once; further ones wait.
    at_once: usize,
    all: AtomicUsize,
    peers: Mutex<HashMap<IpAddr, Arc<Peer>>>,
}

/// The handshakes of one peer.
#[derive(Debug)]
struct Peer {
    count: AtomicUsize,
    permits: Semaphore,
}

/// The counts before one more handshake is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Handshakes of all peers, in progress and waiting.
    pub all: usize,
    /// Handshakes of this peer, in progress and waiting.
    pub of_peer: usize,
}

/// A handshake of a peer, counted until dropped.
#[derive(Debug)]
pub struct Begun {
    home: Arc<Handshakes>,
    address: IpAddr,
    peer: Arc<Peer>,
}

impl Handshakes {
    /// No handshakes yet. At most `at_once` of one peer run at once.
    pub fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self { at_once, all: AtomicUsize::new(0), peers: Mutex::default() })
    }

    /// Admits one more handshake of `peer` unless `judge` objects.
    ///
    /// # Errors
    /// The objection of `judge`.
    pub fn begin<E>(self: &Arc<Self>, peer: IpAddr, judge: impl FnOnce(Counted) -> Result<(), E>) -> Result<Begun, E> {
        let mut peers = self.peers.lock();
        let of_peer = peers.get(&peer).map_or(0, |known| known.count.load(Ordering::Relaxed));
        judge(Counted { all: self.all.load(Ordering::Relaxed), of_peer })?;
        let make = || Arc::new(Peer { count: AtomicUsize::new(0), permits: Semaphore::new(self.at_once) });
        let known = Arc::clone(peers.entry(peer).or_insert_with(make));
        known.count.fetch_add(1, Ordering::Relaxed);
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Begun { home: Arc::clone(self), address: peer, peer: known })
    }

    /// Whether no handshake is counted and no peer remembered.
    pub fn is_empty(&self) -> bool {
        self.peers.lock().is_empty()
    }
}

impl Begun {
    /// Waits for one of the peer's permits. `None` when the limiter is gone.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.peer.permits.acquire().await.ok()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut peers = self.home.peers.lock();
        self.home.all.fetch_sub(1, Ordering::Relaxed);
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
    use std::convert::Infallible;
    use std::time::Duration;

    use super::*;

    fn any(_: Counted) -> Result<(), Infallible> {
        Ok(())
    }

    #[tokio::test]
    async fn a_peer_waits_for_itself_and_for_nobody_else() {
        let (slow, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let handshakes = Handshakes::new(2);
        let begun: Vec<Begun> = (0..3).map(|_| handshakes.begin(slow, any).unwrap()).collect();
        let in_progress = (begun[0].turn().await, begun[1].turn().await);
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, begun[2].turn()).await.is_err());
        let unharmed = handshakes.begin(other, any).unwrap();
        assert!(tokio::time::timeout(short, unharmed.turn()).await.is_ok());
        drop(in_progress);
        assert!(tokio::time::timeout(short, begun[2].turn()).await.is_ok());
    }

    #[test]
    fn the_judge_hears_how_many_there_are_and_all_is_released() {
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::2".parse().unwrap());
        let handshakes = Handshakes::new(2);
        let begun = [handshakes.begin(one, any).unwrap(), handshakes.begin(two, any).unwrap()];
        assert_eq!(handshakes.begin(one, Err).err(), Some(Counted { all: 2, of_peer: 1 }));
        drop(begun);
        assert!(handshakes.is_empty());
        assert_eq!(handshakes.begin(one, Err).err(), Some(Counted { all: 0, of_peer: 0 }));
        assert!(handshakes.is_empty(), "what was refused leaves nothing");
    }
}
