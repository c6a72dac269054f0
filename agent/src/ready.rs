//! Readiness of the agent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use process::readiness::Readiness;

/// A reconciler that has finished no round for this long is stuck. A round begins every second.
const STILL: Duration = Duration::from_secs(15);

/// The conditions that the agent still waits for, and whether its reconciler is stuck.
#[derive(Clone)]
pub(crate) struct Ready {
    gates: Readiness,
    /// When the last reconcile round ended; `None` before the first, for which there is a gate.
    round: Arc<Mutex<Option<Instant>>>,
}

impl Ready {
    /// Not ready before all of `gates` are done.
    pub(crate) fn waiting_for(gates: impl IntoIterator<Item = &'static str>) -> Self {
        Self { gates: Readiness::waiting_for(gates), round: Arc::default() }
    }

    /// Marks a gate as done.
    pub(crate) fn done(&self, gate: &'static str) {
        self.gates.done(gate);
    }

    /// Marks the agent as draining, hence not ready.
    pub(crate) fn draining(&self) {
        self.gates.draining();
        *self.round.lock() = None;
    }

    /// Records the end of a reconcile round.
    pub(crate) fn round(&self) {
        *self.round.lock() = Some(Instant::now());
    }

    /// Time since the last reconcile round; `None` before the first.
    pub(crate) fn since_round(&self) -> Option<Duration> {
        self.round.lock().map(|round| round.elapsed())
    }

    /// The conditions that are not met; empty when ready.
    pub(crate) fn pending(&self) -> Vec<String> {
        let mut pending = self.gates.pending();
        pending.extend(self.since_round().and_then(stands_still));
        pending
    }
}

fn stands_still(since: Duration) -> Option<String> {
    (since > STILL).then(|| format!("captures (nothing was reconciled for {} s)", since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconciler_that_stands_still_is_told_of() {
        assert_eq!(stands_still(Duration::from_secs(14)), None);
        assert_eq!(stands_still(Duration::from_secs(40)).unwrap(), "captures (nothing was reconciled for 40 s)");
    }

    #[test]
    fn what_is_waited_for_comes_first() {
        let ready = Ready::waiting_for(["manifests", "captures"]);
        assert_eq!(ready.pending(), ["captures", "manifests"]);
        ready.done("manifests");
        ready.done("captures");
        ready.round();
        assert_eq!(ready.pending(), Vec::<String>::new());
        ready.draining();
        assert_eq!(ready.pending(), ["draining"]);
    }
}
