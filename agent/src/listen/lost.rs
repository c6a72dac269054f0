//! Destroyed listeners of captured workloads, queued for the reconciler.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::capture::Listener;

/// The queue between the accept loops and the reconciler. It has each listener of a pod at most once.
#[derive(Default)]
pub(crate) struct Lost {
    listeners: Mutex<Vec<(u32, Listener)>>,
    some: Notify,
}

impl Lost {
    /// Queues a dead listener of the pod with this id.
    pub(crate) fn tell(&self, pod: u32, listener: Listener) {
        let mut listeners = self.listeners.lock();
        if !listeners.contains(&(pod, listener)) {
            listeners.push((pod, listener));
        }
        drop(listeners);
        self.some.notify_one();
    }

    /// Waits until the queue is not empty, then takes everything. Cancel-safe.
    pub(crate) async fn take(&self) -> Vec<(u32, Listener)> {
        self.some.notified().await;
        std::mem::take(&mut *self.listeners.lock())
    }
}
