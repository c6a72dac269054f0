//! Log lines about what may happen very often: written once in a second at most, with how often it happened.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The time between two lines.
const PERIOD: Duration = Duration::from_secs(1);

/// Counts the events that were not logged yet.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Unlogged>);

#[derive(Debug, Default)]
struct Unlogged {
    count: u64,
    last_line: Option<Instant>,
}

impl Throttle {
    /// Counts one more event. `Some(n)` when a line is due: `n` events happened since the last one.
    pub fn one_more(&self, now: Instant) -> Option<u64> {
        let mut unlogged = self.0.lock();
        unlogged.count += 1;
        if unlogged.last_line.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            return None;
        }
        unlogged.last_line = Some(now);
        Some(std::mem::take(&mut unlogged.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_in_a_second_with_the_number_of_events() {
        let (refused, now) = (Throttle::default(), Instant::now());
        assert_eq!(refused.one_more(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(refused.one_more(now + Duration::from_millis(900)), None);
        }
        assert_eq!(refused.one_more(now + Duration::from_millis(1001)), Some(1001));
    }
}
