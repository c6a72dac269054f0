//! Pure. The wait before a retry: exponential, with jitter that nobody can switch off.

use std::time::Duration;

/// How the wait grows. Gateway API's `retry.backoff` is a minimum, so jitter is added, never subtracted (GEP-1731).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The least wait before the first retry.
    pub base: Duration,
    /// The least wait never grows beyond this.
    pub max: Duration,
}

impl Backoff {
    /// The wait before retry number `retry` (0 is the first): `b = min(base·2^retry, max)`, or `at_least` if that is
    /// longer, plus `random` (0 to 1) of `b`. Who was told by a backend how long to wait is spread like everybody else:
    /// all its callers were told the same at the same moment.
    pub fn wait(&self, retry: u32, at_least: Duration, random: f64) -> Duration {
        let grown = self.base.saturating_mul(1u32.checked_shl(retry).unwrap_or(u32::MAX));
        let least = grown.min(self.max.max(self.base));
        least.max(at_least) + least.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: Backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_secs(1) };

    #[test]
    fn the_wait_doubles_up_to_its_cap() {
        let waits: Vec<u128> = (0..8).map(|retry| DEFAULT.wait(retry, Duration::ZERO, 0.0).as_millis()).collect();
        assert_eq!(waits, [25, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(DEFAULT.wait(0, Duration::ZERO, 1.0), Duration::from_millis(50));
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
            let (least, added) = (DEFAULT.wait(retry, told, 0.0), DEFAULT.wait(retry, Duration::ZERO, 0.0));
            let spread = |wait: Duration| (wait - least).as_secs_f64() / added.as_secs_f64();
            let waits = (0..SAMPLE).map(|_| spread(DEFAULT.wait(retry, told, random.f64())));
            let apart = distance(waits.collect());
            assert!(apart < bound, "retry {retry}, told {told:?}: {apart} from uniform, more than {bound}");
        }
        assert!(distance(vec![0.5; SAMPLE]) >= 0.5, "the measure knows lockstep");
    }

    proptest! {
        #[test]
        fn the_configured_minimum_always_holds(retry in 0u32..200, told in 0u64..5000, random in 0.0f64..1.0) {
            let told = Duration::from_millis(told);
            let wait = DEFAULT.wait(retry, told, random);
            prop_assert!(wait >= DEFAULT.base && wait >= told && wait <= DEFAULT.max.max(told) + DEFAULT.max);
        }
    }
}
