//! Repairs captures: destroyed listeners are recreated, and what was changed in a pod is restored.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use tracing::{error, info, warn};

use super::outcome::Outcome;
use super::reconcile::{LostListeners, Reconciler};
use crate::capture::Listener;
use crate::connection::serve;
use crate::listen::listeners::Original;

impl Reconciler {
    /// Handles lost listeners: their pods are closed until all are back.
    pub(super) async fn lost(&mut self, lost: LostListeners) {
        let (steering, captures) = (self.steering.clone(), Arc::clone(&self.captures));
        for (id, which) in lost {
            let Some((uid, captured)) = self.by_id(id) else { continue };
            if !captured.repair.lost(which, Instant::now()) {
                continue;
            }
            let told = format!("somebody in its network namespace has destroyed its {}", captured.repair.description());
            warn!("{uid}: {told}; it neither accepts nor opens new connections until they are recreated");
            captures.note(uid, Some(&told), true);
            if let Err(error) = steering.without_listener(id, true).await {
                error!("closing {uid}: {error:#}");
            }
        }
        self.mend();
    }

    /// Starts to recreate the listeners that are due.
    pub(super) fn mend(&mut self) {
        let now = Instant::now();
        for captured in self.pods.values_mut() {
            for which in captured.repair.begin(now) {
                let (steering, answers) = (self.steering.clone(), self.answers.clone());
                let (id, netns) = (captured.pod.id, Arc::clone(&captured.pod.netns));
                self.workers.start(captured.pod.namespace(), move || {
                    let result = steering.listen_again(id, &netns, which).map_err(|error| format!("{error:#}"));
                    let _gone = answers.send(Outcome::Listening { pod: id, which, result });
                });
            }
        }
    }

    /// Handles the outcome of recreating a listener.
    pub(super) async fn listening(
        &mut self,
        id: u32,
        which: Listener,
        result: Result<(TcpListener, Original), String>,
    ) {
        let (node, steering, captures) = (Arc::clone(&self.node), self.steering.clone(), Arc::clone(&self.captures));
        let Some((uid, captured)) = self.by_id(id) else { return };
        match result {
            Ok((listener, original)) => {
                serve::one(&node, &captured.pod, (which, listener), original);
                if captured.repair.made(which) {
                    if let Err(error) = steering.without_listener(id, false).await {
                        error!("reopening {uid}: {error:#}");
                    }
                    captures.note(uid, None, false);
                    info!("{uid}: all its listeners are back");
                }
            }
            Err(error) => {
                warn!("{uid}: recreating its {which}: {error}; retrying");
                captured.repair.failed(which, Instant::now());
            }
        }
    }

    /// Checks the programs of the node and some of the pods; all of them within a number of ticks.
    pub(super) async fn repair(&mut self) {
        match self.steering.repair_node().await {
            Ok(gone) => self.lost(gone).await,
            Err(error) => error!("repairing the programs of the node: {error:#}"),
        }
        self.node.passthrough.lost(self.steering.counters().events_lost);
        for (pod, namespace) in self.next_turn() {
            let steering = self.steering.clone();
            self.workers.start(&namespace, move || {
                if let Err(error) = steering.repair(pod) {
                    warn!("repairing a captured pod: {error}");
                }
            });
        }
        for status in self.steering.status().into_iter().filter(|status| !status.released) {
            let captures = Arc::clone(&self.captures);
            if let Some((uid, captured)) = self.by_id(status.id)
                && captured.repair.description().is_empty()
            {
                captures.note(uid, status.note.as_deref(), status.closed);
            }
        }
    }
}
