//! Pure. The circuit breaker of one endpoint: it stops sending to what keeps failing, and lets one request find out
//! whether it has recovered.
//!
//! ```text
//!            too many failures                 the wait is over
//!   Closed ────────────────────▶ Open(until) ────────────────────▶ Probing (exactly one request)
//!      ▲                             ▲                                 │
//!      │                             └──────────── it failed ──────────┤
//!      └────────────────────────────────────────── it succeeded ───────┘
//! ```

use std::time::{Duration, Instant};

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerLimits {
    /// Opens after this many failures in a row; 0 switches this trigger off.
    pub consecutive: u32,
    /// Opens when fewer than this share of requests succeed within `window`; 0 switches this trigger off.
    pub success_rate: f64,
    /// Over which time the success rate is taken.
    pub window: Duration,
    /// The success rate is not judged on fewer requests.
    pub min_requests: u32,
    /// How long it is open the first time; it doubles each time in a row.
    pub open_min: Duration,
    /// The longest that it is open, before jitter.
    pub open_max: Duration,
}

/// Whether an endpoint may be given a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Open,
    /// One request may go, as a probe: ask [`Breaker::probe`] for it.
    Probe,
    /// No, until then.
    Until(Instant),
    /// No: a probe is under way.
    Probing,
}

/// What a record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The endpoint is ejected until then.
    Opened(Instant),
    /// The endpoint is back.
    Closed,
}

/// Part of the open time that jitter may add.
const JITTER: f64 = 0.5;
/// A probe whose outcome never comes (its request was cancelled unseen) is given up after this.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open { since: Instant, until: Instant },
    Probing { since: Instant },
}

/// The breaker of one endpoint.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    consecutive: u32,
    trips: u32,
    closed_since: Instant,
    window: Window,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Closed, consecutive: 0, trips: 0, closed_since: now, window: Window::new(now) }
    }

    /// Whether a request may go to the endpoint.
    pub fn admission(&self, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Open,
            State::Open { until, .. } if now < until => Admission::Until(until),
            State::Open { .. } => Admission::Probe,
            State::Probing { since } if now.saturating_duration_since(since) > PROBE_PATIENCE => Admission::Probe,
            State::Probing { .. } => Admission::Probing,
        }
    }

    /// Takes the right to send the one probe; false when another has it.
    pub fn probe(&mut self, now: Instant) -> bool {
        let free = self.admission(now) == Admission::Probe;
        if free {
            self.state = State::Probing { since: now };
        }
        free
    }

    /// As [`Breaker::probe`], also before the wait is over once the breaker has been open for `least`.
    pub fn probe_early(&mut self, now: Instant, least: Duration) -> bool {
        if let State::Open { since, until } = self.state
            && now.saturating_duration_since(since) >= least
        {
            self.state = State::Open { since, until: until.min(now) };
        }
        self.probe(now)
    }

    /// A probe ended without saying anything about the endpoint (its caller went away): the next request may probe.
    pub fn abandon_probe(&mut self, now: Instant) {
        if let State::Probing { .. } = self.state {
            self.state = State::Open { since: now, until: now };
        }
    }

    /// Counts the end of a request. `may_open` says whether the service can spare the endpoint; `random` is 0 to 1.
    pub fn record(
        &mut self,
        limits: &BreakerLimits,
        now: Instant,
        success: bool,
        may_open: bool,
        random: f64,
    ) -> Option<Transition> {
        match self.state {
            State::Closed => {
                self.window.count(limits.window, now, success);
                self.consecutive = if success { 0 } else { self.consecutive.saturating_add(1) };
                (!success && may_open && self.is_failing(limits)).then(|| self.open(limits, now, random))
            }
            State::Probing { .. } if success => {
                self.state = State::Closed;
                self.consecutive = 0;
                self.closed_since = now;
                self.window = Window::new(now);
                Some(Transition::Closed)
            }
            State::Probing { .. } => Some(self.open(limits, now, random)),
            // The end of a request that was sent before the breaker opened: nothing new.
            State::Open { .. } => None,
        }
    }

    fn is_failing(&self, limits: &BreakerLimits) -> bool {
        let in_a_row = limits.consecutive > 0 && self.consecutive >= limits.consecutive;
        let (total, good) = self.window.sums();
        let enough = limits.success_rate > 0.0 && total >= limits.min_requests.max(1);
        in_a_row || enough && f64::from(good) < limits.success_rate * f64::from(total)
    }

    fn open(&mut self, limits: &BreakerLimits, now: Instant, random: f64) -> Transition {
        if now.saturating_duration_since(self.closed_since) > limits.window && matches!(self.state, State::Closed) {
            self.trips = 0;
        }
        let doubled = limits.open_min.saturating_mul(1u32.checked_shl(self.trips).unwrap_or(u32::MAX));
        let least = doubled.min(limits.open_max.max(limits.open_min));
        let until = now + least + least.mul_f64(JITTER * random.clamp(0.0, 1.0));
        self.trips = self.trips.saturating_add(1);
        self.state = State::Open { since: now, until };
        Transition::Opened(until)
    }
}

const SLOTS: usize = 5;

#[derive(Clone, Debug)]
struct Window {
    began: Instant,
    slot: u64,
    counts: [(u32, u32); SLOTS],
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { began: now, slot: 0, counts: [(0, 0); SLOTS] }
    }

    fn count(&mut self, width: Duration, now: Instant, success: bool) {
        let width = (width.max(Duration::from_millis(50)) / SLOTS as u32).as_nanos();
        let elapsed = now.saturating_duration_since(self.began).as_nanos();
        let slot = u64::try_from(elapsed / width).unwrap_or(u64::MAX).max(self.slot);
        for passed in 0..(slot - self.slot).min(SLOTS as u64) {
            self.counts[((slot - passed) % SLOTS as u64) as usize] = (0, 0);
        }
        self.slot = slot;
        let (total, good) = &mut self.counts[(slot % SLOTS as u64) as usize];
        *total = total.saturating_add(1);
        *good = good.saturating_add(u32::from(success));
    }

    fn sums(&self) -> (u32, u32) {
        self.counts.iter().fold((0, 0), |(total, good), (t, g)| (total + t, good + g))
    }
}

/// Whether one more of `total` endpoints may be ejected when `ejected` are, at most `percent` of them in all. A single
/// endpoint is never ejected: there would be nothing left to ask whether the service is back.
pub fn may_eject(ejected: usize, total: usize, percent: u32) -> bool {
    total > 1 && (ejected + 1) * 100 <= total * percent.min(100) as usize && ejected + 1 < total
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: BreakerLimits = BreakerLimits {
        consecutive: 5,
        success_rate: 0.8,
        window: Duration::from_secs(10),
        min_requests: 5,
        open_min: SECOND,
        open_max: Duration::from_secs(60),
    };

    fn fail(breaker: &mut Breaker, times: u32, now: Instant) -> Option<Transition> {
        (0..times).filter_map(|_| breaker.record(&LIMITS, now, false, true, 0.0)).last()
    }

    #[test]
    fn five_failures_in_a_row_open_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        assert_eq!(fail(&mut breaker, 4, now), None);
        assert_eq!(fail(&mut breaker, 1, now), Some(Transition::Opened(now + SECOND)));
        assert_eq!(breaker.admission(now), Admission::Until(now + SECOND));
    }

    #[test]
    fn a_low_success_rate_opens_it_without_a_row() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        let opened = (0..20).any(|n| breaker.record(&LIMITS, now, n % 3 != 0, true, 0.0).is_some());
        assert!(opened, "two thirds succeed, four fifths are asked for");
        let mut good = Breaker::new(now);
        assert!(!(1..200).any(|n| good.record(&LIMITS, now, n % 10 != 0, true, 0.0).is_some()));
    }

    #[test]
    fn exactly_one_probe_decides() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        fail(&mut breaker, 5, now);
        let later = now + 2 * SECOND;
        assert_eq!(breaker.admission(later), Admission::Probe);
        assert!(breaker.probe(later));
        assert!(!breaker.probe(later), "a second probe while the first is under way");
        assert_eq!(breaker.admission(later), Admission::Probing);
        assert_eq!(breaker.record(&LIMITS, later, true, true, 0.0), Some(Transition::Closed));
        assert_eq!(breaker.admission(later), Admission::Open);
    }

    #[test]
    fn it_stays_open_longer_each_time_up_to_its_cap() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        fail(&mut breaker, 5, now);
        let mut waits = vec![];
        for _ in 0..8 {
            let Admission::Until(until) = breaker.admission(now) else { panic!("not open") };
            waits.push(until.duration_since(now).as_secs());
            now = until;
            assert!(breaker.probe(now));
            breaker.record(&LIMITS, now, false, true, 0.0);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_probe_that_never_ends_does_not_shut_the_endpoint_out() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        fail(&mut breaker, 5, now);
        assert!(breaker.probe(now + SECOND));
        assert_eq!(breaker.admission(now + 40 * SECOND), Admission::Probe);
        breaker.abandon_probe(now + 2 * SECOND);
        assert!(breaker.probe(now + 2 * SECOND));
    }

    #[test]
    fn at_most_half_may_be_ejected_and_never_all() {
        assert!(may_eject(0, 2, 50) && may_eject(2, 6, 50));
        assert!(!may_eject(3, 6, 50) && !may_eject(0, 1, 50) && !may_eject(1, 2, 100) && !may_eject(0, 3, 0));
    }

    #[test]
    fn a_probe_can_be_had_early() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        let far = BreakerLimits { open_min: 60 * SECOND, ..LIMITS };
        for _ in 0..5 {
            breaker.record(&far, now, false, true, 0.0);
        }
        assert!(!breaker.probe(now + 5 * SECOND) && !breaker.probe_early(now + 4 * SECOND, 5 * SECOND));
        assert!(breaker.probe_early(now + 5 * SECOND, 5 * SECOND));
        assert!(!breaker.probe_early(now + 6 * SECOND, 5 * SECOND), "one probe only");
    }

    #[test]
    fn what_cannot_be_spared_is_not_ejected() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..50 {
            assert_eq!(breaker.record(&LIMITS, now, false, false, 0.0), None);
        }
        assert_eq!(breaker.admission(now), Admission::Open);
    }
}
