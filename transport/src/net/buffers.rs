//! What one workload may have of this process for bytes that nobody takes: a bound, beyond which its own connections get
//! slower and those of others do not notice.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Bytes of tunnels that one workload's readers may leave unread. As windows get narrow long before, a peer that heeds them
/// comes nowhere near: five hundred readers that stall hold about 20 MB.
const HELD: usize = 64 << 20;
/// Bytes by which the windows of its tunnels may be wider than at first: four tunnels at full width.
const WIDE: usize = 64 << 20;
/// Bytes of large read buffers: thirty-two connections at full size.
const LARGE: usize = 16 << 20;

/// What bytes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Received in tunnels, and not taken.
    Held,
    /// Windows that are wider than at first.
    Wide,
    /// Read buffers of sockets that stream.
    Large,
}

/// The buffers of one workload.
#[derive(Debug)]
pub struct Buffers {
    limits: [usize; 3],
    used: [AtomicUsize; 3],
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new([HELD, WIDE, LARGE])
    }
}

impl Buffers {
    /// Bounds in bytes: for what is held, for wide windows, for large read buffers.
    pub fn new(limits: [usize; 3]) -> Self {
        Self { limits, used: Default::default() }
    }

    /// No bounds worth the name.
    pub fn unlimited() -> Self {
        Self::new([usize::MAX >> 4; 3])
    }

    /// Bytes that are used.
    pub fn used(&self, what: What) -> usize {
        self.used[what as usize].load(Ordering::Relaxed)
    }

    /// Takes all of so many bytes, or none.
    pub fn take(&self, what: What, bytes: usize) -> bool {
        let used = &self.used[what as usize];
        // Taken before it is known to be there: two who ask at once see each other.
        let fits = used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.limit(what);
        if !fits {
            self.give_back(what, bytes);
        }
        fits
    }

    /// Gives back what was taken.
    pub fn give_back(&self, what: What, bytes: usize) {
        self.used[what as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that may be used.
    pub fn limit(&self, what: What) -> usize {
        self.limits[what as usize]
    }
}

/// Buffers of those who are known by their address only: tunnels with one address share them.
#[derive(Debug, Default)]
pub struct ByAddress(Mutex<HashMap<IpAddr, Weak<Buffers>>>);

impl ByAddress {
    /// Those of an address, forgotten when the last who has them is gone.
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

/// A part of a workload's buffers, given back when it is dropped.
#[derive(Debug)]
pub struct Part {
    of: Arc<Buffers>,
    bytes: u32,
    what: What,
}

impl Part {
    /// Nothing yet.
    pub fn new(of: &Arc<Buffers>, what: What) -> Self {
        Self { of: Arc::clone(of), bytes: 0, what }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Whose it is.
    pub fn of(&self) -> &Buffers {
        &self.of
    }

    /// Makes it so many bytes, or as many more as there are; returns how many it has.
    pub fn resize(&mut self, wanted: usize) -> usize {
        let wanted = wanted.min(u32::MAX as usize);
        let (own, used) = (self.bytes(), &self.of.used[self.what as usize]);
        if wanted <= own {
            used.fetch_sub(own - wanted, Ordering::Relaxed);
            self.bytes = wanted as u32;
            return wanted;
        }
        let more = wanted - own;
        // Taken before it is known to be there: two who ask at once see each other.
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
    fn those_with_one_address_share_and_nobody_is_remembered() {
        let (by_address, one, other) = (ByAddress::default(), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let buffers = by_address.of(one);
        assert!(Arc::ptr_eq(&buffers, &by_address.of(one)));
        assert!(!Arc::ptr_eq(&buffers, &by_address.of(other)));
        drop(buffers);
        let _other = by_address.of(other);
        assert_eq!(by_address.0.lock().len(), 1);
    }

    #[test]
    fn parts_share_what_there_is_and_give_it_back() {
        let buffers = Arc::new(Buffers::new([100, 0, 0]));
        let (mut one, mut other) = (Part::new(&buffers, What::Held), Part::new(&buffers, What::Held));
        assert_eq!((one.resize(70), other.resize(70)), (70, 30));
        assert_eq!(buffers.used(What::Held), 100);
        assert_eq!((one.resize(10), other.resize(70)), (10, 70));
        drop(one);
        assert_eq!((other.resize(1000), buffers.used(What::Held)), (100, 100));
        drop(other);
        assert_eq!(buffers.used(What::Held), 0);
        assert_eq!(Part::new(&buffers, What::Large).resize(1), 0);
        assert!(buffers.take(What::Held, 60) && !buffers.take(What::Held, 60));
        assert_eq!(buffers.used(What::Held), 60);
    }
}
