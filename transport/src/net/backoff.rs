//! Pure. Exponential backoff with jitter.

use std::time::Duration;

/// Parameters of an exponential backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// Upper bound of the wait, before jitter.
    pub longest: Duration,
}

/// Jitter as a fraction of the wait, to either side: clients that failed together do not come back together.
const JITTER: f64 = 0.2;

impl Backoff {
    /// The wait after `failures` consecutive failures (1 is the first), doubled each time. `random` is uniform in 0..1
    /// and sets the jitter.
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        spread(doubled.min(self.longest), JITTER, random)
    }
}

/// Spreads `around` by up to the fraction `jitter` to either side; `random` is uniform in 0..1.
pub fn spread(around: Duration, jitter: f64, random: f64) -> Duration {
    around.mul_f64(1.0 - jitter + 2.0 * jitter * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(150) };

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<f64> =
            [1, 2, 3, 9, 10, 40, u32::MAX].iter().map(|n| BACKOFF.wait(*n, 0.5).as_secs_f64()).collect();
        assert_eq!(waits, [0.5, 1.0, 2.0, 128.0, 150.0, 150.0, 150.0]);
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        assert_eq!(BACKOFF.wait(2, 0.0), Duration::from_millis(800));
        assert_eq!(BACKOFF.wait(2, 1.0), Duration::from_millis(1200));
    }
}
