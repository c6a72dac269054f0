//! What may happen very often and is logged once in a second at most, with how often it was.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Counts what was not logged yet.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Untold>);

#[derive(Debug, Default)]
struct Untold {
    count: u64,
    told: Option<Instant>,
}

impl Seldom {
    /// It happened once more. Some: it is time to say so, and it was so often since it was said last.
    pub fn one_more(&self, now: Instant) -> Option<u64> {
        let mut untold = self.0.lock();
        untold.count += 1;
        if untold.told.is_some_and(|told| now.saturating_duration_since(told) < Duration::from_secs(1)) {
            return None;
        }
        untold.told = Some(now);
        Some(std::mem::take(&mut untold.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_in_a_second_with_its_number() {
        let (refused, now) = (Seldom::default(), Instant::now());
        assert_eq!(refused.one_more(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(refused.one_more(now + Duration::from_millis(900)), None);
        }
        assert_eq!(refused.one_more(now + Duration::from_millis(1001)), Some(1001));
    }
}
