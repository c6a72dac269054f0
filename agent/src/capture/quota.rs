//! Pure. One pod's quota of a map that all pods share.

use agent_abi::MAX_PODS;

/// A shared map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// Capacity of the map in entries.
    room: usize,
    /// Entries guaranteed to each pod.
    each: usize,
    /// Upper bound of one pod's entries.
    most: usize,
}

/// `OWN`: addresses. A pod has two, or four with a second network.
pub(super) const ADDRESSES: Quota = Quota::new(16_384, 8, 136);
/// `VERDICTS`: ports with a verdict of their own. During a change, it has the entries of both rule sets.
pub(super) const VERDICTS: Quota = Quota::new(16_384, 8, 520);

impl Quota {
    const fn new(room: usize, each: usize, most: usize) -> Self {
        assert!(each * MAX_PODS <= room && each <= most && most <= room);
        Self { room, each, most }
    }

    /// How many of the `wanted` entries a pod gets if the other pods have `extra` beyond their guarantees.
    pub(super) fn allow(self, wanted: usize, extra: usize) -> usize {
        let common = self.room - self.each * MAX_PODS;
        let more = wanted.saturating_sub(self.each).min(self.most - self.each).min(common.saturating_sub(extra));
        wanted.min(self.each) + more
    }

    /// Upper bound of one pod's entries.
    pub(super) fn most(self) -> usize {
        self.most
    }

    /// The entries beyond the guarantee.
    pub(super) fn extra(self, entries: usize) -> usize {
        entries.saturating_sub(self.each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Quota = Quota { room: 2 * MAX_PODS + 10, each: 2, most: 8 };

    #[test]
    fn what_each_can_count_on_it_gets_whatever_the_others_have() {
        for extra in [0, 5, 10, 10_000] {
            assert_eq!(SMALL.allow(0, extra), 0);
            assert_eq!(SMALL.allow(2, extra), 2);
        }
    }

    #[test]
    fn more_comes_from_what_is_common_and_no_pod_gets_all_of_it() {
        assert_eq!(SMALL.allow(5, 0), 5);
        assert_eq!(SMALL.allow(17_000, 0), 8);
        assert_eq!(SMALL.allow(17_000, 7), 5);
        assert_eq!(SMALL.allow(17_000, 10), 2);
    }

    #[test]
    fn the_table_never_overflows() {
        for quota in [SMALL, ADDRESSES, VERDICTS] {
            let (mut all, mut extra) = (0, 0);
            for _ in 0..MAX_PODS {
                let got = quota.allow(usize::MAX, extra);
                all += got;
                extra += quota.extra(got);
            }
            assert!(all <= quota.room, "{all} of {}", quota.room);
            assert_eq!(quota.allow(quota.each, extra), quota.each);
        }
    }
}
