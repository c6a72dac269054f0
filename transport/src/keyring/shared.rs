//! State shared by the ring and its worker: the identities and the schedule, under one lock that is never held across
//! an await.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::entry::{Keys, Known};
use super::schedule::Schedule;
use mesh::model::identity::Identity;

/// One registered identity.
#[derive(Default)]
pub(crate) struct Entry {
    /// The number of workloads that use it.
    pub(crate) wanted: usize,
    /// Its certificate; waiting connections subscribe to it.
    pub(crate) known: watch::Sender<Known>,
}

/// The identities and their schedule, always changed together.
#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) entries: HashMap<Identity, Entry>,
    pub(crate) schedule: Schedule,
}

/// State shared by ring and worker.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) inner: Mutex<Inner>,
    pub(crate) changed: Notify,
}

impl Shared {
    pub(crate) fn with_schedule<T>(&self, f: impl FnOnce(&mut Schedule) -> T) -> T {
        f(&mut self.inner.lock().schedule)
    }

    /// Resolves when something was added to the schedule.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Stores the result of a request, unless the identity was forgotten meanwhile.
    pub(crate) fn store(&self, identity: &Identity, result: Result<Keys, Arc<str>>) {
        let inner = self.inner.lock();
        let Some(entry) = inner.entries.get(identity) else { return };
        entry.known.send_modify(|known| match result {
            Ok(keys) => *known = Known { keys: Some(Arc::new(keys)), failure: None },
            Err(why) => known.failure = Some(why),
        });
    }
}
