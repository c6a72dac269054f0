//! Bounds on the buffer memory of one workload. A workload that reaches its bound slows down its own connections only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Bytes received in the tunnels of one workload and not yet read by its applications. Flow-control windows narrow long
/// before this bound: a peer that respects them makes five hundred stalled readers hold about 20 MB.
const UNREAD: usize = 64 << 20;
/// Bytes by which the windows of its tunnels may exceed their initial size: four tunnels at full width.
const WIDE: usize = 64 << 20;
/// Bytes of large socket read buffers: thirty-two connections at full size.
const LARGE: usize = 16 << 20;

/// What a buffer is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Bytes received in tunnels and not yet read.
    Unread,
    /// Flow-control windows beyond their initial size.
    Wide,
    /// Large read buffers of streaming sockets.
    Large,
}

/// Buffer usage and bounds of one workload.
#[derive(Debug)]
pub struct Buffers {
    limits: [usize; 3],
    used: [AtomicUsize; 3],
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new([UNREAD, WIDE, LARGE])
    }
}

impl Buffers {
    /// Bounds in bytes, in the order of [`What`]: unread bytes, window growth, large read buffers.
    pub fn new(limits: [usize; 3]) -> Self {
        Self { limits, used: Default::default() }
    }

    /// Practically unbounded, for benchmarks.
    pub fn unlimited() -> Self {
        Self::new([usize::MAX >> 4; 3])
    }

    /// Bytes in use.
    pub fn used(&self, what: What) -> usize {
        self.used[what as usize].load(Ordering::Relaxed)
    }

    /// Reserves `bytes`, all or nothing; returns whether it did.
    pub fn take(&self, what: What, bytes: usize) -> bool {
        let used = &self.used[what as usize];
        // Added first and checked then, so that concurrent callers see each other's reservation.
        let granted = used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.limit(what);
        if !granted {
            self.release(what, bytes);
        }
        granted
    }

    /// Releases `bytes` that were reserved.
    pub fn release(&self, what: What, bytes: usize) {
        self.used[what as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The bound in bytes.
    pub fn limit(&self, what: What) -> usize {
        self.limits[what as usize]
    }
}

/// Buffers by peer address, for peers that are not known otherwise: all tunnels of one address share them.
#[derive(Debug, Default)]
pub struct ByAddress(Mutex<HashMap<IpAddr, Weak<Buffers>>>);

impl ByAddress {
    /// The buffers of an address, dropped with their last user.
    pub fn of(&self, address: IpAddr) -> Arc<Buffers> {
        let mut known = self.0.lock();
        if let Some(buffers) = known.get(&address).and_then(Weak::upgrade) {
            return buffers;
        }
        known.retain(|_, buffers| buffers.strong_count() > 0);
        let buffers = Arc::default();
        known.insert(address, Arc::downgrade(&buffers));
        buffers
    }
}

/// A reservation in a workload's buffers, released on drop.
#[derive(Debug)]
pub struct Part {
    of: Arc<Buffers>,
    bytes: u32,
    what: What,
}

impl Part {
    /// An empty reservation.
    pub fn new(of: &Arc<Buffers>, what: What) -> Self {
        Self { of: Arc::clone(of), bytes: 0, what }
    }

    /// The bytes reserved.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// The buffers that it is reserved in.
    pub fn of(&self) -> &Buffers {
        &self.of
    }

    /// Resizes the reservation to `wanted` bytes, or as far as the bound allows; returns the new size.
    pub fn resize(&mut self, wanted: usize) -> usize {
        let wanted = wanted.min(u32::MAX as usize);
        let (own, used) = (self.bytes(), &self.of.used[self.what as usize]);
        if wanted <= own {
            used.fetch_sub(own - wanted, Ordering::Relaxed);
            self.bytes = wanted as u32;
            return wanted;
        }
        let more = wanted - own;
        // Added first and checked then, so that concurrent callers see each other's reservation.
        let before = used.fetch_add(more, Ordering::Relaxed);
        let over = (before + more).saturating_sub(self.of.limit(self.what)).min(more);
        used.fetch_sub(over, Ordering::Relaxed);
        self.bytes = (wanted - over) as u32;
        self.bytes()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_of_one_address_have_common_buffers_and_nobody_is_remembered() {
        let (by_address, one, other) = (ByAddress::default(), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let buffers = by_address.of(one);
        assert!(Arc::ptr_eq(&buffers, &by_address.of(one)));
        assert!(!Arc::ptr_eq(&buffers, &by_address.of(other)));
        drop(buffers);
        let _other = by_address.of(other);
        assert_eq!(by_address.0.lock().len(), 1);
    }

    #[test]
    fn parts_use_what_there_is_and_release_it() {
        let buffers = Arc::new(Buffers::new([100, 0, 0]));
        let (mut one, mut other) = (Part::new(&buffers, What::Unread), Part::new(&buffers, What::Unread));
        assert_eq!((one.resize(70), other.resize(70)), (70, 30));
        assert_eq!(buffers.used(What::Unread), 100);
        assert_eq!((one.resize(10), other.resize(70)), (10, 70));
        drop(one);
        assert_eq!((other.resize(1000), buffers.used(What::Unread)), (100, 100));
        drop(other);
        assert_eq!(buffers.used(What::Unread), 0);
        assert_eq!(Part::new(&buffers, What::Large).resize(1), 0);
        assert!(buffers.take(What::Unread, 60) && !buffers.take(What::Unread, 60));
        assert_eq!(buffers.used(What::Unread), 60);
    }
}
