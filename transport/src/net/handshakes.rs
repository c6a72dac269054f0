//! Handshakes by whose address began them: each peer waits for itself, and none is forgotten until it has ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Whose handshakes are in progress or wait.
#[derive(Debug)]
pub struct Handshakes {
    /// Handshakes of one peer that are in progress at once; its others wait.
    at_once: usize,
    all: AtomicUsize,
    peers: Mutex<HashMap<IpAddr, Arc<Peer>>>,
}

/// The handshakes of one peer's address.
#[derive(Debug)]
struct Peer {
    count: AtomicUsize,
    turns: Semaphore,
}

/// How many there are when one more is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Of all peers, in progress and waiting.
    pub all: usize,
    /// Of the peer.
    pub of_peer: usize,
}

/// A handshake that a peer has begun, until it is dropped.
#[derive(Debug)]
pub struct Begun {
    home: Arc<Handshakes>,
    address: IpAddr,
    peer: Arc<Peer>,
}

impl Handshakes {
    /// Nobody has begun any. `at_once` of one peer are in progress at once.
    pub fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self { at_once, all: AtomicUsize::new(0), peers: Mutex::default() })
    }

    /// One more of a peer, if `judge` has no objection.
    ///
    /// # Errors
    /// What `judge` objects.
    pub fn begin<E>(self: &Arc<Self>, peer: IpAddr, judge: impl FnOnce(Counted) -> Result<(), E>) -> Result<Begun, E> {
        let mut peers = self.peers.lock();
        let of_peer = peers.get(&peer).map_or(0, |known| known.count.load(Ordering::Relaxed));
        judge(Counted { all: self.all.load(Ordering::Relaxed), of_peer })?;
        let make = || Arc::new(Peer { count: AtomicUsize::new(0), turns: Semaphore::new(self.at_once) });
        let known = Arc::clone(peers.entry(peer).or_insert_with(make));
        known.count.fetch_add(1, Ordering::Relaxed);
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Begun { home: Arc::clone(self), address: peer, peer: known })
    }

    /// Whether none is in progress, and nothing is kept of any.
    pub fn is_empty(&self) -> bool {
        self.peers.lock().is_empty()
    }
}

impl Begun {
    /// Waits until few enough others of the same peer are in progress.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.peer.turns.acquire().await.ok()
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
    fn the_judge_hears_how_many_there_are_and_all_is_given_back() {
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
