//! Pure. The retry budget: retries stay a bounded percentage of requests, however many callers fail at once.
//!
//! Gateway API `XBackendTrafficPolicy.retryConstraint`: a retry is allowed while retries in the interval are fewer than
//! `percent` of its requests, or fewer than `minRetryRate` a second. One budget per backend service.

use std::time::{Duration, Instant};

/// How many retries are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetLimits {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Over which time both are counted, 1 s to 1 h.
    pub interval: Duration,
    /// This many retries a second are always allowed, so that a quiet service can retry at all.
    pub min_per_second: f64,
}

const SLOTS: usize = 10;

/// Counts requests and retries over a sliding interval of ten slots.
#[derive(Clone, Debug)]
pub struct Budget {
    began: Instant,
    slot: u64,
    requests: [u32; SLOTS],
    retries: [u32; SLOTS],
    // GCRA for the minimum rate: when the next retry of a perfectly even stream would be due, since `began`.
    due: Duration,
}

impl Budget {
    /// An empty budget at `now`.
    pub fn new(now: Instant) -> Self {
        Self { began: now, slot: 0, requests: [0; SLOTS], retries: [0; SLOTS], due: Duration::ZERO }
    }

    /// Counts a first attempt.
    pub fn request(&mut self, limits: &BudgetLimits, now: Instant) {
        let at = self.advance(limits, now);
        self.requests[at] = self.requests[at].saturating_add(1);
    }

    /// Whether one more retry is allowed; if so, it is counted.
    pub fn retry(&mut self, limits: &BudgetLimits, now: Instant) -> bool {
        let at = self.advance(limits, now);
        let requests: u64 = self.requests.iter().map(|count| u64::from(*count)).sum();
        let retries: u64 = self.retries.iter().map(|count| u64::from(*count)).sum();
        let allowed = (retries + 1) * 100 <= requests * u64::from(limits.percent) || self.within_rate(limits, now);
        if allowed {
            self.retries[at] = self.retries[at].saturating_add(1);
        }
        allowed
    }

    fn within_rate(&mut self, limits: &BudgetLimits, now: Instant) -> bool {
        if limits.min_per_second <= 0.0 {
            return false;
        }
        let gap = Duration::from_secs_f64(1.0 / limits.min_per_second);
        let now = now.saturating_duration_since(self.began);
        let due = self.due.max(now);
        // A second's worth may come at once.
        let allowed = due + gap <= now + Duration::from_secs(1).max(gap);
        if allowed {
            self.due = due + gap;
        }
        allowed
    }

    fn advance(&mut self, limits: &BudgetLimits, now: Instant) -> usize {
        let width = (limits.interval.max(Duration::from_secs(1)) / SLOTS as u32).as_nanos();
        let elapsed = now.saturating_duration_since(self.began).as_nanos();
        let slot = u64::try_from(elapsed / width).unwrap_or(u64::MAX).max(self.slot);
        for elapsed_slots in 0..(slot - self.slot).min(SLOTS as u64) {
            let index = ((slot - elapsed_slots) % SLOTS as u64) as usize;
            self.requests[index] = 0;
            self.retries[index] = 0;
        }
        self.slot = slot;
        (slot % SLOTS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: BudgetLimits = BudgetLimits { percent: 20, interval: Duration::from_secs(10), min_per_second: 10.0 };

    #[test]
    fn at_high_rates_retries_stay_a_fifth_of_requests() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut retries = 0;
        for millis in 0..30_000u64 {
            let now = start + Duration::from_millis(millis);
            budget.request(&LIMITS, now);
            retries += u32::from(budget.retry(&LIMITS, now)) + u32::from(budget.retry(&LIMITS, now));
        }
        // 30,000 requests: a fifth, and ten a second at most on top.
        assert!((5_900..=6_310).contains(&retries), "{retries}");
    }

    #[test]
    fn a_quiet_service_may_retry_ten_times_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        budget.request(&LIMITS, start);
        let at_once = (0..100).filter(|_| budget.retry(&LIMITS, start)).count();
        assert_eq!(at_once, 10);
        assert!(!budget.retry(&LIMITS, start + Duration::from_millis(50)));
        assert!(budget.retry(&LIMITS, start + Duration::from_millis(110)));
    }

    #[test]
    fn without_percent_and_rate_nothing_is_retried() {
        let none = BudgetLimits { percent: 0, interval: Duration::from_secs(10), min_per_second: 0.0 };
        let start = Instant::now();
        let mut budget = Budget::new(start);
        budget.request(&none, start);
        assert!(!budget.retry(&none, start));
    }

    proptest! {
        #[test]
        fn no_pattern_of_calls_exceeds_the_bound(gaps in prop::collection::vec((0u64..400, 0u8..4), 1..400)) {
            let start = Instant::now();
            let mut budget = Budget::new(start);
            let (mut now, mut requests, mut retries) = (start, 0u64, 0u64);
            for (gap, tries) in gaps {
                now += Duration::from_millis(gap);
                budget.request(&LIMITS, now);
                requests += 1;
                retries += (0..tries).filter(|_| budget.retry(&LIMITS, now)).count() as u64;
            }
            let seconds = now.duration_since(start).as_secs() + 1;
            prop_assert!(retries <= requests / 5 + 10 * (seconds + 1), "{retries} of {requests} in {seconds} s");
        }
    }
}
