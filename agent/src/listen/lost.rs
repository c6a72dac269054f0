//! Listeners of captured workloads that somebody has destroyed, until the reconciler hears of them.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::capture::Listener;

/// The mailbox between the accept loops and the reconciler. It holds each listener of a pod once.
#[derive(Default)]
pub(crate) struct Lost {
    listeners: Mutex<Vec<(u32, Listener)>>,
    some: Notify,
}

impl Lost {
    /// A listener of the pod with this id is dead.
    pub(crate) fn tell(&self, pod: u32, listener: Listener) {
        let mut listeners = self.listeners.lock();
        if !listeners.contains(&(pod, listener)) {
            listeners.push((pod, listener));
        }
        drop(listeners);
        self.some.notify_one();
    }

    /// Waits for some, then takes all there are. Cancel-safe.
    pub(crate) async fn take(&self) -> Vec<(u32, Listener)> {
        self.some.notified().await;
        std::mem::take(&mut *self.listeners.lock())
    }
}
