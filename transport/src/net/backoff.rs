//! Pure. Exponential backoff with jitter.

use std::time::Duration;

/// Parameters of an exponential backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure, before jitter.
    pub first: Duration,
    /// Upper bound of the wait, before jitter.
    pub longest: Duration,
}

/// Jitter as a fraction of the wait, to either side: clients that failed together do not come back together.
const JITTER: f64 = 0.2;

impl Backoff {
    /// The wait after `failures` consecutive failures (1 is the first), doubled each time. `random` is uniform in 0..1
    /// and sets the jitter, of a fifth to either side.
    pub fn around(&self, failures: u32, random: f64) -> Duration {
        spread(self.doubled(failures.saturating_sub(1)), JITTER, random)
    }

    /// The wait before retry number `retry` (0 is the first) when what is configured is a minimum (GEP-1731): the
    /// doubled wait, or `told` if that is longer, plus `random` (uniform in 0..1) of the doubled wait. A wait that a
    /// server has told is spread like others: all its callers were told the same at the same moment.
    pub fn at_least(&self, retry: u32, told: Duration, random: f64) -> Duration {
        let least = self.doubled(retry);
        least.max(told) + least.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The first wait doubled `times` times, at most the longest, and never less than the first.
    fn doubled(&self, times: u32) -> Duration {
        let grown = self.first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX));
        grown.min(self.longest.max(self.first))
    }
}

/// Spreads `around` by up to the fraction `jitter` to either side; `random` is uniform in 0..1.
pub fn spread(around: Duration, jitter: f64, random: f64) -> Duration {
    around.mul_f64(1.0 - jitter + 2.0 * jitter * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTROL: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(150) };
    const RETRY: Backoff = Backoff { first: Duration::from_millis(25), longest: Duration::from_secs(1) };

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<f64> =
            [1, 2, 3, 9, 10, 40, u32::MAX].iter().map(|n| CONTROL.around(*n, 0.5).as_secs_f64()).collect();
        assert_eq!(waits, [0.5, 1.0, 2.0, 128.0, 150.0, 150.0, 150.0]);
        let waits: Vec<u128> = (0..8).map(|retry| RETRY.at_least(retry, Duration::ZERO, 0.0).as_millis()).collect();
        assert_eq!(waits, [25, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(RETRY.at_least(0, Duration::ZERO, 1.0), Duration::from_millis(50));
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        assert_eq!(CONTROL.around(2, 0.0), Duration::from_millis(800));
        assert_eq!(CONTROL.around(2, 1.0), Duration::from_millis(1200));
    }

    /// The distance of Kolmogorov and Smirnov between a sample and the uniform distribution from 0 to 1.
    fn distance(mut sample: Vec<f64>) -> f64 {
        sample.sort_by(f64::total_cmp);
        let count = sample.len() as f64;
        let apart = |(index, value): (usize, &f64)| {
            (value - index as f64 / count).abs().max((index + 1) as f64 / count - value)
        };
        sample.iter().enumerate().map(apart).fold(0.0, f64::max)
    }

    #[test]
    fn waits_are_spread_evenly_over_what_is_added_to_the_minimum() {
        const SAMPLE: usize = 10_000;
        // Beyond this a uniform sample of the size lies once in a thousand seeds.
        let bound = 1.95 / (SAMPLE as f64).sqrt();
        for (retry, told) in (0..7).flat_map(|retry| [(retry, 0), (retry, 3000)]) {
            let told = Duration::from_millis(told);
            let mut random = fastrand::Rng::with_seed(u64::from(retry) + 1);
            let (least, added) = (RETRY.at_least(retry, told, 0.0), RETRY.at_least(retry, Duration::ZERO, 0.0));
            let spread = |wait: Duration| (wait - least).as_secs_f64() / added.as_secs_f64();
            let waits = (0..SAMPLE).map(|_| spread(RETRY.at_least(retry, told, random.f64())));
            let apart = distance(waits.collect());
            assert!(apart < bound, "retry {retry}, told {told:?}: {apart} from uniform, more than {bound}");
        }
        assert!(distance(vec![0.5; SAMPLE]) >= 0.5, "the measure knows lockstep");
    }

    proptest! {
        #[test]
        fn the_configured_minimum_always_holds(retry in 0u32..200, told in 0u64..5000, random in 0.0f64..1.0) {
            let told = Duration::from_millis(told);
            let wait = RETRY.at_least(retry, told, random);
            prop_assert!(wait >= RETRY.first && wait >= told && wait <= RETRY.longest.max(told) + RETRY.longest);
        }
    }
}
