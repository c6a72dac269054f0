//! What must still happen before a program is ready.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// Gates that must all be opened. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// Not ready before each of `gates` is done.
    pub fn waiting_for(gates: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Arc::new(Mutex::new(gates.into_iter().collect())))
    }

    /// One of the gates is done.
    pub fn done(&self, gate: &'static str) {
        self.0.lock().remove(gate);
    }

    /// Not ready any more: the program is about to end.
    pub fn draining(&self) {
        self.0.lock().insert("draining");
    }

    /// The gates that are still closed, in order of their names; none when ready.
    pub fn pending(&self) -> Vec<String> {
        self.0.lock().iter().map(|gate| (*gate).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_from_the_last_gate_until_it_drains() {
        let ready = Readiness::waiting_for(["manifests", "captures"]);
        assert_eq!(ready.pending(), ["captures", "manifests"]);
        ready.done("manifests");
        assert_eq!(ready.pending(), ["captures"]);
        let shared = ready.clone();
        shared.done("captures");
        assert_eq!(ready.pending(), Vec::<String>::new());
        ready.draining();
        assert_eq!(ready.pending(), ["draining"]);
    }
}
