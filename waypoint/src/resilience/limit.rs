//! Pure. A local rate limit: the generic cell rate algorithm, one 64-bit word per limit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second, in the long run.
    pub per_second: f64,
    /// How many may come at once, at least 1.
    pub burst: u32,
}

/// The state of one limit.
#[derive(Debug)]
pub struct Limiter {
    began: Instant,
    // When the next request of a perfectly even stream would be due, in nanoseconds since `began`.
    due: AtomicU64,
}

impl Limiter {
    /// A limit that has seen nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { began: now, due: AtomicU64::new(0) }
    }

    /// Admits one request, or says after which time to come back.
    pub fn admit(&self, rate: &Rate, now: Instant) -> Result<(), Duration> {
        if rate.per_second <= 0.0 {
            return Err(Duration::from_secs(1));
        }
        let gap = (1e9 / rate.per_second) as u64;
        let tolerance = gap.saturating_mul(u64::from(rate.burst.max(1) - 1));
        let now = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        let mut due = self.due.load(Ordering::Relaxed);
        loop {
            let earliest = due.saturating_sub(tolerance);
            if now < earliest {
                return Err(Duration::from_nanos(earliest - now));
            }
            let next = due.max(now).saturating_add(gap);
            match self.due.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(changed) => due = changed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let start = Instant::now();
        let limiter = Limiter::new(start);
        let rate = Rate { per_second: 10.0, burst: 5 };
        assert_eq!((0..20).filter(|_| limiter.admit(&rate, start).is_ok()).count(), 5);
        assert_eq!(limiter.admit(&rate, start), Err(Duration::from_millis(100)));
        assert!(limiter.admit(&rate, start + Duration::from_millis(100)).is_ok());
        assert!(limiter.admit(&rate, start + Duration::from_millis(150)).is_err());
    }

    proptest! {
        #[test]
        fn no_window_admits_more_than_burst_and_rate(gaps in prop::collection::vec(0u64..60, 1..300)) {
            let start = Instant::now();
            let limiter = Limiter::new(start);
            let rate = Rate { per_second: 50.0, burst: 7 };
            let mut now = start;
            let mut admitted = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if limiter.admit(&rate, now).is_ok() {
                    admitted.push(now);
                }
            }
            for (index, first) in admitted.iter().enumerate() {
                for (count, last) in admitted[index..].iter().enumerate() {
                    let allowed = 7.0 + last.duration_since(*first).as_secs_f64() * 50.0;
                    prop_assert!((count + 1) as f64 <= allowed + 0.001);
                }
            }
        }
    }
}
