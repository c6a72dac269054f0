//! One endpoint: how it is reached, how busy and how trusted it is, and its connections. What is learnt about it outlives
//! every change of configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mesh::model::workload::Workload;
use parking_lot::Mutex;

use super::connect::Target;
use super::connections::Connections;
use crate::balance::{Load, LoadSettings};
use crate::breaker::{Admission, Breaker, BreakerLimits, Transition};
use crate::settings::Settings;

/// One endpoint as the current mesh has it.
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// How it is reached.
    pub target: Target,
    /// How close it is: 0 is the closest.
    pub tier: usize,
    /// What was learnt.
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

/// How many endpoints of a cluster are ejected.
pub type Ejected = Arc<AtomicU32>;

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
    ejected: Ejected,
    load: LoadSettings,
    began: Instant,
    probe: bool,
    judged: bool,
}

impl InFlight {
    /// A request is about to be sent.
    pub fn new(endpoint: Arc<Endpoint>, ejected: Ejected, load: LoadSettings, probe: bool, now: Instant) -> Self {
        endpoint.state.load.start();
        Self { endpoint, ejected, load, began: now, probe, judged: false }
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
        self.judge(limits, true, true, now);
    }

    /// The endpoint has failed. `at_least` is what it asks to be left alone for.
    pub fn failed(&mut self, limits: &BreakerLimits, may_eject: bool, at_least: Duration, now: Instant) {
        let took = now.saturating_duration_since(self.began);
        let penalty = self.load.failure_penalty.max(at_least.min(LONGEST_PUSHBACK)).max(took);
        self.endpoint.state.load.record(&self.load, penalty, now);
        self.judge(limits, false, may_eject, now);
    }

    /// The endpoint is busy and says so (429): it gets less, and is not mistrusted.
    pub fn pushed_back(&mut self, limits: &BreakerLimits, at_least: Duration, now: Instant) {
        let penalty = self.load.failure_penalty.max(at_least.min(LONGEST_PUSHBACK));
        self.endpoint.state.load.record(&self.load, penalty, now);
        self.judge(limits, true, true, now);
    }

    /// A failure that came to light after the response had begun.
    pub fn failed_late(&mut self, limits: &BreakerLimits, may_eject: bool, now: Instant) {
        self.endpoint.state.load.record(&self.load, self.load.failure_penalty, now);
        self.judge(limits, false, may_eject, now);
    }

    fn judge(&mut self, limits: &BreakerLimits, success: bool, may_eject: bool, now: Instant) {
        self.judged = true;
        let state = &self.endpoint.state;
        let transition = state.breaker.lock().record(limits, now, success, may_eject, fastrand::f64());
        match transition {
            Some(Transition::Opened(_)) if !state.ejected.swap(true, Ordering::Relaxed) => {
                self.ejected.fetch_add(1, Ordering::Relaxed);
                tracing::info!("{}: ejected, it keeps failing", self.endpoint.workload.uid);
            }
            Some(Transition::Closed) if state.ejected.swap(false, Ordering::Relaxed) => {
                self.ejected.fetch_sub(1, Ordering::Relaxed);
                tracing::info!("{}: back, its probe succeeded", self.endpoint.workload.uid);
            }
            _ => {}
        }
    }
}

/// `Retry-After` beyond this is not believed.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(300);

impl Drop for InFlight {
    fn drop(&mut self) {
        let state = &self.endpoint.state;
        state.load.finish();
        if self.judged {
            return;
        }
        // The caller went away before an answer: how long it waited is a lower bound of the latency, and worth knowing
        // when it is longer than what is known. Otherwise an endpoint that never answers would look as good as new.
        let now = Instant::now();
        let waited = now.saturating_duration_since(self.began);
        if waited > state.load.latency(&self.load, now) {
            state.load.record(&self.load, waited, now);
        }
        if self.probe {
            state.breaker.lock().abandon_probe(now);
        }
    }
}
