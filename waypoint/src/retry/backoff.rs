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
    /// The wait before retry number `retry` (0 is the first): `b = min(base·2^retry, max)`, plus `random` (0 to 1) of `b`.
    pub fn wait(&self, retry: u32, random: f64) -> Duration {
        let grown = self.base.saturating_mul(1u32.checked_shl(retry).unwrap_or(u32::MAX));
        let least = grown.min(self.max.max(self.base));
        least + least.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: Backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_secs(1) };

    #[test]
    fn the_wait_doubles_up_to_its_cap() {
        let waits: Vec<u128> = (0..8).map(|retry| DEFAULT.wait(retry, 0.0).as_millis()).collect();
        assert_eq!(waits, [25, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(DEFAULT.wait(0, 1.0), Duration::from_millis(50));
    }

    proptest! {
        #[test]
        fn the_configured_minimum_always_holds(retry in 0u32..200, random in 0.0f64..1.0) {
            let wait = DEFAULT.wait(retry, random);
            prop_assert!(wait >= DEFAULT.base && wait <= 2 * DEFAULT.max);
        }
    }
}
