//! Pure. What is known of one endpoint: a peak-sensitive moving average of its latency, its requests in flight, its
//! age.
//!
//! Peak EWMA as Finagle and Linkerd have it: a sample above the average replaces it at once, a sample below pulls it
//! down by `1 − e^(−Δt/decay)`, and an average that nobody renews decays towards zero, so that a slow endpoint is asked
//! again after a while. Failures count as a long latency, because an endpoint that fails fast would otherwise look
//! best.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How latency turns into cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadSettings {
    /// Time constant of the average.
    pub decay: Duration,
    /// What an endpoint without samples is taken for.
    pub initial: Duration,
    /// The latency that a failure counts as.
    pub failure_penalty: Duration,
    /// How long a new endpoint is held back; zero is off.
    pub slow_start: Duration,
}

/// The load of one endpoint. Shared by all threads; one cache line.
#[derive(Debug)]
#[repr(align(64))]
pub struct Load {
    began: Instant,
    // High half: the average in seconds as f32 bits. Low half: when it was taken, in milliseconds since `began`.
    average: AtomicU64,
    pending: AtomicU32,
    weight: u32,
}

/// A new endpoint costs at most this many times more.
const SLOW_START_MOST: f64 = 10.0;

impl Load {
    /// An endpoint that is new at `now`. `weight` is its share relative to the others, at least 1.
    pub fn new(settings: &LoadSettings, weight: u32, now: Instant) -> Self {
        Self {
            began: now,
            average: AtomicU64::new(pack(settings.initial.as_secs_f32(), 0)),
            pending: AtomicU32::new(0),
            weight: weight.max(1),
        }
    }

    /// A request was sent.
    pub fn start(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is over, or was given up.
    pub fn finish(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests in flight.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Share of traffic relative to the other endpoints.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Records the time to response headers, or a failure's penalty.
    pub fn record(&self, settings: &LoadSettings, sample: Duration, now: Instant) {
        let sample = sample.as_secs_f32();
        let stamp = self.stamp(now);
        let mut old = self.average.load(Ordering::Relaxed);
        loop {
            let (average, taken) = unpack(old);
            let faded = average * fade(settings.decay, stamp.wrapping_sub(taken));
            let fresh = if sample >= faded {
                sample
            } else {
                // The decayed average and the step towards the sample share one exponential.
                let keep = fade(settings.decay, stamp.wrapping_sub(taken));
                average * keep + sample * (1.0 - keep)
            };
            match self.average.compare_exchange_weak(old, pack(fresh, stamp), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(changed) => old = changed,
            }
        }
    }

    /// Forgets what was learnt and takes `sample` for the truth: a probe has shown that the endpoint is back.
    pub fn reset(&self, sample: Duration, now: Instant) {
        self.average.store(pack(sample.as_secs_f32(), self.stamp(now)), Ordering::Relaxed);
    }

    /// The average latency as of `now`, decayed.
    pub fn latency(&self, settings: &LoadSettings, now: Instant) -> Duration {
        let (average, taken) = unpack(self.average.load(Ordering::Relaxed));
        Duration::from_secs_f32(average * fade(settings.decay, self.stamp(now).wrapping_sub(taken)))
    }

    /// What sending one more request here costs: latency × (pending + 1), over the weight, raised while the endpoint
    /// is new.
    pub fn ewma_cost(&self, settings: &LoadSettings, now: Instant) -> f64 {
        let latency = self.latency(settings, now).as_secs_f64().max(1e-6);
        latency * (f64::from(self.pending()) + 1.0) * self.newness(settings, now) / f64::from(self.weight)
    }

    /// The cost by requests in flight alone.
    pub fn request_cost(&self, settings: &LoadSettings, now: Instant) -> f64 {
        (f64::from(self.pending()) + 1.0) * self.newness(settings, now) / f64::from(self.weight)
    }

    fn newness(&self, settings: &LoadSettings, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.began).as_secs_f64();
        let ramp = settings.slow_start.as_secs_f64();
        if age >= ramp { 1.0 } else { (ramp / age.max(1e-3)).min(SLOW_START_MOST) }
    }

    fn stamp(&self, now: Instant) -> u32 {
        // Wraps after 49 days; only differences are used.
        now.saturating_duration_since(self.began).as_millis() as u32
    }
}

fn fade(decay: Duration, millis: u32) -> f32 {
    // Another thread may have stamped a little later than our `now`: a difference "in the past" is no time at all.
    if millis == 0 || millis > u32::MAX / 2 {
        return 1.0;
    }
    (-(millis as f32) / 1000.0 / decay.as_secs_f32().max(1e-3)).exp()
}

fn pack(average: f32, stamp: u32) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(stamp)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const SETTINGS: LoadSettings = LoadSettings {
        decay: Duration::from_secs(10),
        initial: Duration::from_millis(30),
        failure_penalty: Duration::from_secs(5),
        slow_start: Duration::ZERO,
    };

    fn near(actual: Duration, wanted: Duration) {
        let off = actual.abs_diff(wanted).as_secs_f64();
        assert!(off <= wanted.as_secs_f64() * 0.01 + 1e-6, "{actual:?}, wanted {wanted:?}");
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_slowly() {
        let start = Instant::now();
        let load = Load::new(&SETTINGS, 1, start);
        load.record(&SETTINGS, 1000 * MILLI, start);
        near(load.latency(&SETTINGS, start), 1000 * MILLI);
        // One time constant later 1/e is left, sampled or not.
        near(load.latency(&SETTINGS, start + Duration::from_secs(10)), 368 * MILLI);
        load.record(&SETTINGS, 10 * MILLI, start + Duration::from_secs(10));
        near(load.latency(&SETTINGS, start + Duration::from_secs(10)), Duration::from_micros(374_200));
    }

    #[test]
    fn cost_grows_with_what_is_in_flight_and_shrinks_with_weight() {
        let now = Instant::now();
        let (one, two) = (Load::new(&SETTINGS, 1, now), Load::new(&SETTINGS, 2, now));
        let idle = one.ewma_cost(&SETTINGS, now);
        one.start();
        assert!((one.ewma_cost(&SETTINGS, now) / idle - 2.0).abs() < 1e-6);
        assert!((two.ewma_cost(&SETTINGS, now) / idle - 0.5).abs() < 1e-6);
        one.finish();
        assert_eq!(one.pending(), 0);
    }

    #[test]
    fn a_new_endpoint_is_held_back_at_most_tenfold() {
        let start = Instant::now();
        let settings = LoadSettings { slow_start: Duration::from_secs(10), ..SETTINGS };
        let load = Load::new(&settings, 1, start);
        let factor = |seconds| load.request_cost(&settings, start + Duration::from_secs(seconds));
        assert_eq!((factor(0), factor(5), factor(10), factor(60)), (10.0, 2.0, 1.0, 1.0));
    }
}
