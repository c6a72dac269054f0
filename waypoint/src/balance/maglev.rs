//! Pure. Consistent hashing by Maglev tables (Eisenbud et al., NSDI 2016, 3.4).
//!
//! Every endpoint fills the table in the order of its own permutation, taking turns, so that each gets an equal share
//! and a change of one endpoint moves few of the others' keys.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A lookup table from hash to endpoint index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    table: Box<[u16]>,
}

const EMPTY: u16 = u16::MAX;
const PRIMES: [usize; 9] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521];
/// Entries per endpoint: shares are equal within about one percent.
const ENTRIES_EACH: usize = 100;

impl Maglev {
    /// A table for endpoints with these stable names and weights. Endpoints beyond 65,534 get no share.
    pub fn new<'a>(endpoints: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        let endpoints: Vec<(&[u8], u32)> = endpoints.take(usize::from(EMPTY)).collect();
        let wanted = endpoints.len() * ENTRIES_EACH;
        let size = PRIMES.into_iter().find(|prime| *prime >= wanted).unwrap_or(PRIMES[PRIMES.len() - 1]);
        let mut table = vec![EMPTY; size];
        let mut turns: Vec<Turn> = endpoints.iter().map(|(name, weight)| Turn::new(name, *weight, size)).collect();
        let most = turns.iter().map(|turn| turn.weight).max().unwrap_or(1);
        let mut filled = 0;
        while filled < size && !turns.is_empty() {
            for (index, turn) in turns.iter_mut().enumerate() {
                // Lighter endpoints sit out turns in proportion.
                turn.credit += turn.weight;
                if turn.credit < most {
                    continue;
                }
                turn.credit -= most;
                let at = turn.next_free(&table, size);
                table[at] = index as u16;
                filled += 1;
                if filled == size {
                    break;
                }
            }
        }
        Self { table: table.into() }
    }

    /// The endpoint for `hash`, the first for which `usable` says yes, walking on from the hash's own entry. `None`
    /// when there is no endpoint, or when none of the entries tried is usable.
    pub fn get(&self, hash: u64, mut usable: impl FnMut(usize) -> bool) -> Option<usize> {
        let size = self.table.len();
        let start = (hash % size as u64) as usize;
        let mut last = EMPTY;
        for step in 0..size {
            let entry = self.table[(start + step) % size];
            if entry == EMPTY {
                return None;
            }
            if entry != last && usable(usize::from(entry)) {
                return Some(usize::from(entry));
            }
            last = entry;
        }
        None
    }
}

struct Turn {
    at: usize,
    skip: usize,
    weight: u32,
    credit: u32,
}

impl Turn {
    fn new(name: &[u8], weight: u32, size: usize) -> Self {
        Self {
            at: (hash(name) % size as u64) as usize,
            skip: (hash(&[name, b"skip"].concat()) % (size as u64 - 1) + 1) as usize,
            weight: weight.clamp(1, 1 << 16),
            credit: 0,
        }
    }

    /// The next free place of this endpoint's permutation. There is one: the caller stops when the table is full.
    fn next_free(&mut self, table: &[u16], size: usize) -> usize {
        while table[self.at] != EMPTY {
            self.at = (self.at + self.skip) % size;
        }
        self.at
    }
}

/// A hash that is the same in every process and version (FNV-1a with a final mix): all waypoints must agree.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut value = 0xcbf2_9ce4_8422_2325u64;
    for byte in bytes {
        value = (value ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^ value >> 33
}

/// A hash for a request that carries nothing to hash: any endpoint will do.
pub fn any_hash() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:8080")).collect()
    }

    fn table(names: &[String]) -> Maglev {
        Maglev::new(names.iter().map(|name| (name.as_bytes(), 1)))
    }

    #[test]
    fn slots_are_divided_equally() {
        let names = names(6);
        let table = table(&names);
        let mut counts = [0u32; 6];
        for key in 0..60_000u64 {
            counts[table.get(hash(&key.to_le_bytes()), |_| true).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }

    #[test]
    fn one_endpoint_less_moves_few_keys_of_the_others() {
        let all = names(10);
        let (before, after) = (table(&all), table(&all[..9]));
        let mut moved = 0;
        for key in 0..10_000u64 {
            let hash = hash(&key.to_le_bytes());
            let old = before.get(hash, |_| true).unwrap();
            moved += u32::from(old != 9 && after.get(hash, |_| true) != Some(old));
        }
        assert!(moved < 600, "{moved} of 10,000 keys moved without need");
    }

    #[test]
    fn weights_set_the_proportions() {
        let names = names(2);
        let table = Maglev::new([(names[0].as_bytes(), 1), (names[1].as_bytes(), 3)].into_iter());
        let heavy = (0..10_000u64).filter(|key| table.get(hash(&key.to_le_bytes()), |_| true) == Some(1)).count();
        assert!((7_200..7_800).contains(&heavy), "{heavy}");
    }

    #[test]
    fn what_cannot_be_used_is_passed_over() {
        let names = names(3);
        let table = table(&names);
        for key in 0..100u64 {
            assert_ne!(table.get(key, |index| index != 1), Some(1));
        }
        assert_eq!(table.get(5, |_| false), None);
        assert_eq!(Maglev::new(std::iter::empty()).get(5, |_| true), None);
    }
}
