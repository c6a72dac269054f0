//! Whether the agent does its work yet, or still.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// What must still happen before the agent is ready.
#[derive(Clone)]
pub(crate) struct Ready(Arc<Mutex<BTreeSet<&'static str>>>);

impl Ready {
    /// Not ready before each of these is done.
    pub(crate) fn waiting_for(gates: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Arc::new(Mutex::new(gates.into_iter().collect())))
    }

    /// One of them is done.
    pub(crate) fn done(&self, gate: &'static str) {
        self.0.lock().remove(gate);
    }

    /// Not ready any more.
    pub(crate) fn draining(&self) {
        self.0.lock().insert("draining");
    }

    /// What is still to come; nothing when ready.
    pub(crate) fn pending(&self) -> Vec<String> {
        self.0.lock().iter().map(|gate| (*gate).to_owned()).collect()
    }
}
