//! One endpoint: how it is reached, how busy and how trusted it is, and its connections. What is learnt about it
//! outlives every change of configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh::model::workload::Workload;
use parking_lot::Mutex;

use super::connect::Target;
use super::connections::Connections;
use crate::balance::{Load, LoadSettings};
use crate::resilience::breaker::{Admission, Breaker, BreakerLimits, PATIENCE, Sign, Transition, may_eject};
use crate::settings::Settings;

/// One endpoint of the current configuration.
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// How it is reached.
    pub target: Target,
    /// How close it is: 0 is the closest.
    pub tier: usize,
    /// What was learnt about it from requests.
    pub state: Arc<State>,
}

/// What was learnt about an endpoint.
pub struct State {
    /// Latency and requests in flight.
    pub load: Load,
    /// HTTP connections.
    pub connections: Arc<Connections>,
    breaker: Mutex<Breaker>,
    /// Mirrors the breaker, so that choosing takes no lock.
    ejected: AtomicBool,
}

/// The endpoints of a cluster as their breakers see them: how many there are, and how many are ejected.
#[derive(Default)]
pub struct Roll {
    states: Mutex<Box<[Arc<State>]>>,
    total: AtomicUsize,
    ejected: AtomicUsize,
}

impl Roll {
    /// The cluster has these endpoints now.
    pub fn replace(&self, states: Box<[Arc<State>]>) {
        self.total.store(states.len(), Ordering::Relaxed);
        *self.states.lock() = states;
        self.recount();
    }

    /// How many are ejected.
    pub fn ejected(&self) -> usize {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Whether one more endpoint that answers may be ejected, or may stay so when it is `ejected` itself.
    pub fn can_spare(&self, percent: u32, ejected: bool) -> bool {
        let others = self.ejected().saturating_sub(usize::from(ejected));
        may_eject(others, self.total.load(Ordering::Relaxed), percent)
    }

    /// Counted anew at each change, not up and down: an endpoint that has left the cluster still hears of its requests.
    fn recount(&self) {
        let states = self.states.lock();
        let ejected = states.iter().filter(|state| !state.is_trusted()).count();
        self.ejected.store(ejected, Ordering::Relaxed);
    }
}

impl State {
    /// An endpoint of which nothing is known.
    pub fn new(settings: &Settings, weight: u32, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            load: Load::new(&settings.load(), weight, now),
            connections: Arc::default(),
            breaker: Mutex::new(Breaker::new(now)),
            ejected: AtomicBool::new(false),
        })
    }

    /// Whether the breaker is closed.
    pub fn is_trusted(&self) -> bool {
        !self.ejected.load(Ordering::Relaxed)
    }

    /// Whether a probe is due; since when, at most.
    pub fn probe_due(&self, now: Instant) -> bool {
        self.ejected.load(Ordering::Relaxed) && self.breaker.lock().admission(now) == Admission::Probe
    }

    /// Takes the right to probe.
    pub fn probe(&self, now: Instant) -> bool {
        self.breaker.lock().probe(now)
    }

    /// Takes the right to probe, also before it is due when the ejection has lasted `least`.
    pub fn probe_early(&self, now: Instant, least: Duration) -> bool {
        self.breaker.lock().probe_early(now, least)
    }

    /// When the next probe may be sent, if the endpoint is ejected.
    pub fn ejected_until(&self, now: Instant) -> Option<Instant> {
        match self.breaker.lock().admission(now) {
            Admission::Until(until) => Some(until),
            Admission::Open | Admission::Probe | Admission::Probing => None,
        }
    }
}

/// One request on an endpoint. Whatever becomes of it, the endpoint's figures stay right.
pub struct InFlight {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    roll: Arc<Roll>,
    load: LoadSettings,
    began: Instant,
    probe: bool,
    judged: bool,
}

impl InFlight {
    /// A request is about to be sent.
    pub fn new(endpoint: Arc<Endpoint>, roll: Arc<Roll>, load: LoadSettings, probe: bool, now: Instant) -> Self {
        endpoint.state.load.start();
        Self { endpoint, roll, load, began: now, probe, judged: false }
    }

    /// Whether the service can do without the endpoint, as far as endpoints go that answer.
    pub fn can_be_spared(&self, percent: u32) -> bool {
        self.roll.can_spare(percent, self.probe)
    }

    /// The endpoint has answered well, after this time.
    pub fn succeeded(&mut self, limits: &BreakerLimits, now: Instant) {
        let took = now.saturating_duration_since(self.began);
        let load = &self.endpoint.state.load;
        if self.probe {
            load.reset(took, now);
        } else {
            load.record(&self.load, took, now);
        }
        self.judge(limits, Sign::Good, now);
    }

    /// The endpoint has failed. `at_least` is what it asks to be left alone for.
    pub fn failed(&mut self, limits: &BreakerLimits, sign: Sign, at_least: Duration, now: Instant) {
        let took = now.saturating_duration_since(self.began);
        let penalty = self.load.failure_penalty.max(at_least.min(LONGEST_PUSHBACK)).max(took);
        self.endpoint.state.load.record(&self.load, penalty, now);
        self.judge(limits, sign, now);
    }

    /// The endpoint has not answered within the time that it was given. `spare`: whether the service can do without it;
    /// `last`: whether it may be ejected also if not, which an impatient caller does not bring about.
    pub fn timed_out(&mut self, limits: &BreakerLimits, spare: bool, last: bool, now: Instant) {
        let sign = Sign::Silent { sent: self.began, spare, last };
        let waited = now.saturating_duration_since(self.began);
        if waited >= PATIENCE {
            return self.failed(limits, sign, Duration::ZERO, now);
        }
        self.note_wait(waited, now);
        self.judge(limits, sign, now);
    }

    /// The endpoint says that it is busy (429): it gets fewer requests, and is not ejected.
    pub fn pushed_back(&mut self, limits: &BreakerLimits, at_least: Duration, now: Instant) {
        let penalty = self.load.failure_penalty.max(at_least.min(LONGEST_PUSHBACK));
        self.endpoint.state.load.record(&self.load, penalty, now);
        self.judge(limits, Sign::Good, now);
    }

    /// A failure that came to light after the response had begun: it counts, and alone ejects nobody.
    pub fn failed_late(&mut self, limits: &BreakerLimits, now: Instant) {
        self.endpoint.state.load.record(&self.load, self.load.failure_penalty, now);
        self.judge(limits, Sign::Bad { spare: false }, now);
    }

    fn judge(&mut self, limits: &BreakerLimits, sign: Sign, now: Instant) {
        self.judged = true;
        let state = &self.endpoint.state;
        let Some(transition) = state.breaker.lock().record(limits, now, sign, self.probe, fastrand::f64()) else {
            return;
        };
        // What the probe was for is decided: what else becomes of the request is as of any other.
        self.probe = false;
        let (ejected, what) = match transition {
            Transition::Opened(_) => (true, "ejected, it keeps failing"),
            Transition::Closed => (false, "back, its probe succeeded"),
            Transition::LetBack => (false, "back, its probe failed and the service cannot spare it"),
        };
        if state.ejected.swap(ejected, Ordering::Relaxed) != ejected {
            self.roll.recount();
            tracing::info!("{}: {what}", self.endpoint.workload.uid);
        }
    }

    /// How long a request waited in vain is a lower bound of the latency, and worth knowing when it is longer than what
    /// is known. Otherwise an endpoint that never answers would look as good as new.
    fn note_wait(&self, waited: Duration, now: Instant) {
        let load = &self.endpoint.state.load;
        if waited > load.latency(&self.load, now) {
            load.record(&self.load, waited, now);
        }
    }
}

/// Longest `Retry-After` that is honoured.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(300);

impl Drop for InFlight {
    fn drop(&mut self) {
        let state = &self.endpoint.state;
        state.load.finish();
        if self.judged {
            return;
        }
        // The caller went away before an answer.
        let now = Instant::now();
        self.note_wait(now.saturating_duration_since(self.began), now);
        if self.probe {
            state.breaker.lock().abandon_probe(now);
        }
    }
}
