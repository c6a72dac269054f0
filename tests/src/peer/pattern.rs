//! Pure. A stream of bytes that both ends can compute, so that a lost, repeated or reordered byte is found where it
//! happens.

/// What clients send.
pub const TO_SERVER: u64 = 7;
/// What servers send.
pub const TO_CLIENT: u64 = 11;

/// A position in the endless stream that belongs to a seed.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    offset: u64,
}

impl Pattern {
    /// The start of the stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// Bytes produced or checked so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes the next bytes of the stream.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let word = self.word().to_le_bytes();
            let skip = (self.offset % 8) as usize;
            let n = (8 - skip).min(out.len() - done);
            out[done..done + n].copy_from_slice(&word[skip..skip + n]);
            done += n;
            self.offset += n as u64;
        }
    }

    /// Checks that `bytes` continue the stream; the error is the offset of the first byte that does not.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), u64> {
        let start = self.offset;
        let mut expected = vec![0; bytes.len()];
        self.fill(&mut expected);
        if expected == bytes {
            return Ok(());
        }
        let wrong = expected.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
        Err(start + wrong as u64)
    }

    /// The eight bytes around the offset: splitmix64 of their index.
    fn word(&self) -> u64 {
        let mut z = (self.offset / 8).wrapping_add(self.seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 1000];
        Pattern::new(7).fill(&mut whole);
        let mut cut = Pattern::new(7);
        let mut parts = Vec::new();
        for n in [1, 7, 8, 9, 100, 875] {
            let mut part = vec![0; n];
            cut.fill(&mut part);
            parts.extend(part);
        }
        assert_eq!(whole, parts);
        assert_eq!(cut.offset(), 1000);
    }

    #[test]
    fn a_changed_a_lost_and_a_doubled_byte_are_found_where_they_are() {
        let mut bytes = vec![0; 100];
        Pattern::new(7).fill(&mut bytes);
        assert_eq!(Pattern::new(7).check(&bytes), Ok(()));
        let mut changed = bytes.clone();
        changed[42] ^= 1;
        assert_eq!(Pattern::new(7).check(&changed), Err(42));
        let mut lost = bytes.clone();
        lost.remove(10);
        assert!(Pattern::new(7).check(&lost).is_err_and(|at| (10..13).contains(&at)));
        assert!(Pattern::new(11).check(&bytes).is_err());
    }
}
