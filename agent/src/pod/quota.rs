//! The quota of each workload: what it uses of the agent's sockets, handshakes, dials, buffers and CPU time.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use process::telemetry::throttle::Throttle;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use transport::fair_queue::FairQueue;
use transport::net::buffers::Buffers;
use transport::net::handshakes::{Begun, Counted, Handshakes};

use crate::pod::limits::{Full, Limits};

/// The quotas of all workloads, and the counts that they share.
pub(crate) struct Quotas {
    limits: Limits,
    runtime: Handle,
    /// Worker threads of the traffic runtime.
    threads: usize,
    /// Leased sockets of all workloads.
    all: AtomicUsize,
    /// Handshakes in progress, by peer.
    handshakes: Arc<Handshakes>,
}

/// The quota of one workload.
pub(crate) struct Quota {
    quotas: Arc<Quotas>,
    sockets: AtomicUsize,
    handshakes: AtomicUsize,
    dials: Semaphore,
    /// Bounds of its buffer memory.
    buffers: Arc<Buffers>,
    /// The queue of its connections and tunnels.
    fair_queue: FairQueue,
    /// The queue of inbound handshakes: they cost most CPU time, and anybody may begin them.
    handshake_queue: FairQueue,
    refused: Throttle,
}

impl Quotas {
    /// No quotas yet. The fair queues run on `runtime`.
    pub(crate) fn new(limits: Limits, runtime: Handle, threads: usize) -> Arc<Self> {
        let handshakes = Handshakes::new(limits.peer_handshakes);
        Arc::new(Self { limits, runtime, threads, all: AtomicUsize::new(0), handshakes })
    }

    /// A quota for one more workload.
    pub(crate) fn quota(self: &Arc<Self>) -> Quota {
        let fair_queue = || match self.limits.fair_queueing {
            true => FairQueue::new(self.runtime.clone(), self.threads),
            false => FairQueue::disabled(self.runtime.clone()),
        };
        Quota {
            sockets: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            dials: Semaphore::new(self.limits.dials),
            buffers: Arc::new(if self.limits.fair_queueing { Buffers::default() } else { Buffers::unlimited() }),
            fair_queue: fair_queue(),
            handshake_queue: fair_queue(),
            refused: Throttle::default(),
            quotas: Arc::clone(self),
        }
    }
}

impl Quota {
    /// Acquires `sockets` sockets if the workload may open another connection.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(crate) fn acquire(&self, sockets: usize) -> Result<(), Full> {
        let (own, all) = (self.sockets.load(Ordering::Relaxed), self.quotas.all.load(Ordering::Relaxed));
        self.quotas.limits.connection(own, all)?;
        self.acquire_unchecked(sockets);
        Ok(())
    }

    /// Acquires sockets that are open already, beyond the limit if need be.
    pub(crate) fn acquire_unchecked(&self, sockets: usize) {
        self.sockets.fetch_add(sockets, Ordering::Relaxed);
        self.quotas.all.fetch_add(sockets, Ordering::Relaxed);
    }

    /// Releases closed sockets.
    pub(crate) fn release(&self, sockets: usize) {
        self.sockets.fetch_sub(sockets, Ordering::Relaxed);
        self.quotas.all.fetch_sub(sockets, Ordering::Relaxed);
    }

    /// Begins a handshake of `peer`, counted until the result is dropped and [`Quota::handshake_ended`] is called.
    pub(crate) fn handshake(&self, peer: IpAddr) -> Result<Begun, Full> {
        let judge =
            |counted: Counted| self.quotas.limits.handshake(self.handshakes.load(Ordering::Relaxed), counted.of_peer);
        let begun = self.quotas.handshakes.begin(peer, judge)?;
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        Ok(begun)
    }

    /// Ends a handshake.
    pub(crate) fn handshake_ended(&self) {
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits for a dial permit; `None` on timeout.
    pub(crate) async fn dial_permit(&self, within: Duration) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.dials.try_acquire() {
            return Some(place);
        }
        tokio::time::timeout(within, self.dials.acquire()).await.ok()?.ok()
    }

    /// Bounds of its buffer memory.
    pub(crate) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The queue of its connections.
    pub(crate) fn fair_queue(&self) -> &FairQueue {
        &self.fair_queue
    }

    /// The queue of inbound handshakes.
    pub(crate) fn handshake_queue(&self) -> &FairQueue {
        &self.handshake_queue
    }

    /// Counts a refusal. `Some(count)`, at most once a second, when the count should be logged.
    pub(crate) fn refused(&self) -> Option<u64> {
        self.refused.one_more(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(connections: usize) -> Arc<Quotas> {
        Quotas::new(Limits::new(8000, connections, 2), Handle::current(), 1)
    }

    #[tokio::test]
    async fn what_is_released_can_be_acquired_again() {
        let quotas = quotas(2);
        let (one, other) = (quotas.quota(), quotas.quota());
        one.acquire(1).unwrap();
        one.acquire(1).unwrap();
        assert_eq!(one.acquire(1), Err(Full::Connections(2)));
        other.acquire(1).unwrap();
        one.release(1);
        one.acquire(1).unwrap();
        assert_eq!(quotas.all.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_peer_with_slow_handshakes_waits_for_itself_and_for_nobody_else() {
        let (slow, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let quotas = quotas(100);
        let quota = quotas.quota();
        let begun: Vec<Begun> = (0..16).map(|_| quota.handshake(slow).unwrap()).collect();
        assert_eq!(quota.handshake(slow).err(), Some(Full::Peer(16)));
        let _in_progress = (begun[0].turn().await, begun[1].turn().await);
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, begun[2].turn()).await.is_err());
        let unharmed = quota.handshake(other).unwrap();
        assert!(tokio::time::timeout(short, unharmed.turn()).await.is_ok());
        drop(_in_progress);
        assert!(tokio::time::timeout(short, begun[2].turn()).await.is_ok());
        drop((begun, unharmed));
        assert!(quotas.handshakes.is_empty());
    }
}
