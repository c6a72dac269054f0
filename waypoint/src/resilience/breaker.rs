//! Pure. The circuit breaker of one endpoint: it stops sending to what keeps failing, and lets one request find out
//! whether it has recovered.
//!
//! ```text
//!            too many failures                 the wait is over
//!   Closed ────────────────────▶ Open(until) ────────────────────▶ Probing (exactly one request)
//!      ▲                             ▲                                 │
//!      │                             └── it failed and can be spared ──┤
//!      └──────────── it succeeded, or failed and cannot be spared ─────┘
//! ```
//!
//! Nothing but the probe ends the probing: what comes back meanwhile was sent before the breaker opened.

use std::time::{Duration, Instant};

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerLimits {
    /// Opens after this many failures in a row; 0 switches this trigger off.
    pub consecutive: u32,
    /// Opens when less than this fraction (0 to 1) of requests succeed within `window`; 0 switches this trigger off.
    pub success_rate: f64,
    /// The time over which the success rate is measured.
    pub window: Duration,
    /// Fewest requests within `window` for which the success rate counts.
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

/// What the end of a request says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered well.
    Good,
    /// It answered badly, or broke off. `spare`: whether the service can do without it.
    Bad {
        /// Whether the endpoint may be ejected for it.
        spare: bool,
    },
    /// There was no connection: nobody loses by its ejection.
    Unreachable,
    /// It did not answer in time. A time-out shorter than [`PATIENCE`] says more about the time-out than about the
    /// endpoint.
    Silent {
        /// When the request was sent.
        sent: Instant,
        /// Whether the service can do without the endpoint.
        spare: bool,
        /// Whether it may be ejected also when the service cannot: after a row of such signs, and [`ALONE`] of silence.
        last: bool,
    },
}

/// A time-out shorter than this says little about an endpoint's health: a route may ask for 200 ms and mean "try
/// again".
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Where nothing but such time-outs was heard of an endpoint for so long, they count: the length of the default
/// deadline.
pub const SILENCE: Duration = Duration::from_secs(15);

/// The last endpoint of a service is ejected for its silence when nobody has heard of it for so long; where all are
/// ejected one is probed after this, however long its ejection was to last.
pub const ALONE: Duration = Duration::from_secs(5);

/// What the end of a request changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The endpoint is ejected until then.
    Opened(Instant),
    /// The endpoint is back: its probe succeeded.
    Closed,
    /// The endpoint is back: its probe failed, and the service cannot spare it.
    LetBack,
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
    /// When it answered last.
    heard: Option<Instant>,
    /// Since when requests were sent to it in vain, and none was answered.
    silent_since: Option<Instant>,
    window: Window,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Closed,
            consecutive: 0,
            trips: 0,
            closed_since: now,
            heard: None,
            silent_since: None,
            window: Window::new(now),
        }
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

    /// Counts the end of a request, which was the probe or was not. `random` is 0 to 1.
    pub fn record(
        &mut self,
        limits: &BreakerLimits,
        now: Instant,
        sign: Sign,
        probe: bool,
        random: f64,
    ) -> Option<Transition> {
        let silence = self.silence(sign, now);
        match self.state {
            State::Closed if sign.is_brief(now) && silence < SILENCE => None,
            State::Closed => {
                let success = sign == Sign::Good;
                self.window.count(limits.window, now, success);
                self.consecutive = if success { 0 } else { self.consecutive.saturating_add(1) };
                let in_a_row = limits.consecutive > 0 && self.consecutive >= limits.consecutive;
                let ejects = sign.can_spare() || sign.is_dead(now) && (in_a_row && silence >= ALONE);
                (!success && ejects && self.is_failing(limits)).then(|| self.open(limits, now, random))
            }
            State::Probing { .. } if probe && sign == Sign::Good => Some(self.close(now, Transition::Closed)),
            State::Probing { .. } if probe => {
                let stays = (sign.can_spare() || sign.is_dead(now)) && !limits.are_off();
                Some(if stays { self.open(limits, now, random) } else { self.close(now, Transition::LetBack) })
            }
            // The end of a request that was sent before the breaker opened: nothing new.
            State::Probing { .. } | State::Open { .. } => None,
        }
    }

    /// For how long nothing was heard of the endpoint.
    fn silence(&mut self, sign: Sign, now: Instant) -> Duration {
        let began = match sign {
            Sign::Good | Sign::Bad { .. } => {
                (self.heard, self.silent_since) = (Some(now), None);
                return Duration::ZERO;
            }
            Sign::Unreachable => now,
            Sign::Silent { sent, .. } => sent,
        };
        // What was sent before it answered another is no longer silence than what came after.
        let began = self.heard.map_or(began, |heard| began.max(heard));
        let since = self.silent_since.map_or(began, |since| since.min(began));
        self.silent_since = Some(since);
        now.saturating_duration_since(since)
    }

    fn close(&mut self, now: Instant, how: Transition) -> Transition {
        self.state = State::Closed;
        self.consecutive = 0;
        self.closed_since = now;
        self.silent_since = None;
        self.window = Window::new(now);
        how
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

impl Sign {
    /// Whether the service can do without the endpoint.
    fn can_spare(self) -> bool {
        match self {
            Self::Good => false,
            Self::Bad { spare } | Self::Silent { spare, .. } => spare,
            Self::Unreachable => true,
        }
    }

    /// Whether it is a time-out that says little.
    fn is_brief(self, now: Instant) -> bool {
        matches!(self, Self::Silent { sent, .. } if now.saturating_duration_since(sent) < PATIENCE)
    }

    /// Whether the endpoint may be dead, so that asking it is in vain even where it is the last one.
    fn is_dead(self, now: Instant) -> bool {
        matches!(self, Self::Unreachable) || matches!(self, Self::Silent { last: true, .. } if !self.is_brief(now))
    }
}

impl BreakerLimits {
    /// Whether both triggers are switched off.
    fn are_off(&self) -> bool {
        self.consecutive == 0 && self.success_rate <= 0.0
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
        for elapsed_slots in 0..(slot - self.slot).min(SLOTS as u64) {
            self.counts[((slot - elapsed_slots) % SLOTS as u64) as usize] = (0, 0);
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

/// Whether one more of `total` endpoints may be ejected when `ejected` others are, at most `percent` of them in all. A
/// single endpoint that answers is never ejected, nor the last of several: a bad answer is better than none.
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

    /// A failure of an endpoint that the service can spare, and of one that it cannot.
    const BAD: Sign = Sign::Bad { spare: true };
    const KEPT: Sign = Sign::Bad { spare: false };

    fn sign(success: bool) -> Sign {
        if success { Sign::Good } else { BAD }
    }

    fn fail(breaker: &mut Breaker, times: u32, now: Instant) -> Option<Transition> {
        (0..times).filter_map(|_| breaker.record(&LIMITS, now, BAD, false, 0.0)).last()
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
        let opened = (0..20).any(|n| breaker.record(&LIMITS, now, sign(n % 3 != 0), false, 0.0).is_some());
        assert!(opened, "two thirds succeed, four fifths are asked for");
        let mut good = Breaker::new(now);
        assert!(!(1..200).any(|n| good.record(&LIMITS, now, sign(n % 10 != 0), false, 0.0).is_some()));
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
        assert_eq!(breaker.record(&LIMITS, later, Sign::Good, true, 0.0), Some(Transition::Closed));
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
            breaker.record(&LIMITS, now, BAD, true, 0.0);
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
            breaker.record(&far, now, BAD, false, 0.0);
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
            assert_eq!(breaker.record(&LIMITS, now, KEPT, false, 0.0), None);
        }
        assert_eq!(breaker.admission(now), Admission::Open);
    }

    /// A request of so many milliseconds that was not answered by `now`.
    fn silent(now: Instant, millis: u64, spare: bool) -> Sign {
        Sign::Silent { sent: now - Duration::from_millis(millis), spare, last: true }
    }

    /// A breaker whose probe is under way at `now`.
    fn probing(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(now);
        for _ in 0..5 {
            breaker.record(&LIMITS, now, Sign::Unreachable, false, 0.0);
        }
        assert!(breaker.probe_early(now, Duration::ZERO), "not ejected");
        breaker
    }

    #[test]
    fn a_probe_that_fails_lets_back_what_cannot_be_spared() {
        let now = Instant::now() + 60 * SECOND;
        let off = BreakerLimits { consecutive: 0, success_rate: 0.0, ..LIMITS };
        let impatient = Sign::Silent { sent: now - 2 * SECOND, spare: false, last: false };
        for (limits, sign, expected) in [
            (LIMITS, Sign::Good, Some(Transition::Closed)),
            (LIMITS, KEPT, Some(Transition::LetBack)),
            (LIMITS, silent(now, 200, false), Some(Transition::LetBack)),
            (LIMITS, impatient, Some(Transition::LetBack)),
            (off, Sign::Unreachable, Some(Transition::LetBack)),
            (LIMITS, BAD, None),
            (LIMITS, silent(now, 200, true), None),
            (LIMITS, silent(now, 1000, false), None),
            (LIMITS, Sign::Unreachable, None),
        ] {
            let mut breaker = probing(now);
            let got = breaker.record(&limits, now, sign, true, 0.0);
            match expected {
                Some(transition) => {
                    assert_eq!((got, breaker.admission(now)), (Some(transition), Admission::Open), "{sign:?}");
                }
                None => assert!(matches!(got, Some(Transition::Opened(_))), "{sign:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn what_was_sent_before_decides_nothing_for_the_probe() {
        let now = Instant::now() + 60 * SECOND;
        for early in [Sign::Good, BAD, KEPT, Sign::Unreachable, silent(now, 5000, true)] {
            let mut breaker = probing(now);
            assert_eq!(breaker.record(&LIMITS, now, early, false, 0.0), None, "{early:?}");
            assert_eq!(breaker.admission(now), Admission::Probing, "{early:?}");
            assert_eq!(breaker.record(&LIMITS, now, Sign::Good, true, 0.0), Some(Transition::Closed), "{early:?}");
        }
    }

    #[test]
    fn brief_time_outs_eject_nothing_that_answers_now_and_then() {
        let start = Instant::now() + 60 * SECOND;
        let mut breaker = Breaker::new(start);
        // Ten a second for a minute, and an answer, good or bad, every ten seconds.
        for tenth in 0..600 {
            let now = start + SECOND / 10 * tenth;
            let sign = if tenth % 100 == 99 { KEPT } else { silent(now, 200, true) };
            assert_eq!(breaker.record(&LIMITS, now, sign, false, 0.0), None, "{tenth}");
        }
        assert_eq!(breaker.admission(start + 60 * SECOND), Admission::Open);
    }

    #[test]
    fn brief_time_outs_find_what_is_dead_after_the_default_deadline() {
        let start = Instant::now() + 60 * SECOND;
        for spare in [true, false] {
            let mut breaker = Breaker::new(start);
            let opened = (0..300).find_map(|tenth| {
                let now = start + SECOND / 10 * tenth;
                breaker.record(&LIMITS, now, silent(now, 200, spare), false, 0.0).map(|_| tenth)
            });
            // The fifth that counts, which is 15 s after the first was sent; never the only endpoint.
            assert_eq!(opened, spare.then_some(152));
        }
    }

    #[test]
    fn time_outs_of_a_second_count_at_once_and_eject_the_last_after_five_of_silence() {
        let start = Instant::now() + 60 * SECOND;
        let opened = |spare, millis: u64, each: u32| {
            let mut breaker = Breaker::new(start);
            (0..20).find(|n| {
                let now = start + SECOND * *n * each / 1000;
                breaker.record(&LIMITS, now, silent(now, millis, spare), false, 0.0).is_some()
            })
        };
        // All at once: five of a second are little where they are of the last endpoint, five of the default deadline
        // are enough.
        assert_eq!(opened(true, 1000, 0), Some(4));
        assert_eq!(opened(false, 1000, 0), None);
        assert_eq!(opened(false, 2000, 0), None);
        assert_eq!(opened(false, 15_000, 0), Some(4));
        // One after the other.
        assert_eq!(opened(false, 1100, 1100), Some(4));
        // An answer between them, bad as it may be, and it is not dead.
        let mut breaker = Breaker::new(start);
        for n in 0..100 {
            let now = start + SECOND * n;
            let sign = if n % 3 == 2 { KEPT } else { silent(now, 1000, false) };
            assert_eq!(breaker.record(&LIMITS, now, sign, false, 0.0), None, "{n}");
            if n % 9 == 8 {
                assert_eq!(breaker.record(&LIMITS, now, Sign::Good, false, 0.0), None);
            }
        }
        // Five that hang beside many that are answered are no silence either.
        let mut breaker = Breaker::new(start);
        breaker.record(&LIMITS, start, Sign::Good, false, 0.0);
        assert!((0..10).all(|_| breaker.record(&LIMITS, start, silent(start, 15_000, false), false, 0.0).is_none()));
        // An impatient caller ejects what can be spared and nothing else.
        let mut breaker = Breaker::new(start);
        let impatient = |n| Sign::Silent { sent: start + SECOND * n, spare: false, last: false };
        assert!((0..50).all(|n| breaker.record(&LIMITS, start + SECOND * (n + 2), impatient(n), false, 0.0).is_none()));
    }

    #[test]
    fn the_probed_endpoint_is_not_counted_against_itself() {
        // Of six with three ejected, the one that is probed leaves two others.
        assert!(may_eject(2, 6, 50) && !may_eject(3, 6, 50));
        // Of two, none other; alone, there is nothing to spare.
        assert!(may_eject(0, 2, 50) && !may_eject(0, 1, 50));
    }
}
