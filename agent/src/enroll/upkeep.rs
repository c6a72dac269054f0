//! What was captured is looked after: listeners that somebody destroyed are made anew, and what was changed in a pod is put right.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use tracing::{error, info, warn};

use super::done::Done;
use super::reconcile::{LostListeners, Reconciler};
use crate::capture::Listener;
use crate::connection::serve;
use crate::listen::listeners::Original;

impl Reconciler {
    /// Listeners are gone. Their pods are closed until all are back.
    pub(super) async fn lost(&mut self, lost: LostListeners) {
        let (steering, captures) = (self.steering.clone(), Arc::clone(&self.captures));
        for (id, which) in lost {
            let Some((uid, captured)) = self.by_id(id) else { continue };
            if !captured.mending.lost(which, Instant::now()) {
                continue;
            }
            let told = format!("somebody in its network namespace has destroyed its {}", captured.mending.told());
            warn!("{uid}: {told}; no new connection goes into it or out of it before they are made anew");
            captures.note(uid, Some(&told), true);
            if let Err(error) = steering.without_listener(id, true).await {
                error!("closing {uid}: {error:#}");
            }
        }
        self.mend();
    }

    /// Begins to make what is due.
    pub(super) fn mend(&mut self) {
        let now = Instant::now();
        for captured in self.pods.values_mut() {
            for which in captured.mending.begin(now) {
                let (steering, answers) = (self.steering.clone(), self.answers.clone());
                let (id, netns) = (captured.pod.id, Arc::clone(&captured.pod.netns));
                self.crew.start(captured.pod.namespace(), move || {
                    let result = steering.listen_again(id, &netns, which).map_err(|error| format!("{error:#}"));
                    let _gone = answers.send(Done::Listening { pod: id, which, result });
                });
            }
        }
    }

    /// A listener was made anew, or could not be.
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
                if captured.mending.made(which) {
                    if let Err(error) = steering.without_listener(id, false).await {
                        error!("opening {uid} again: {error:#}");
                    }
                    captures.note(uid, None, false);
                    info!("{uid}: all its listeners are there again");
                }
            }
            Err(error) => {
                warn!("{uid}: making its {which} anew: {error}; trying again");
                captured.mending.failed(which, Instant::now());
            }
        }
    }

    /// Looks after some of the pods, and after the programs of the node; in a few ticks after all.
    pub(super) async fn look_after(&mut self) {
        match self.steering.look_after_node().await {
            Ok(gone) => self.lost(gone).await,
            Err(error) => error!("looking after the programs of the node: {error:#}"),
        }
        self.node.passthrough.lost(self.steering.counters().events_lost);
        for (pod, namespace) in self.next_turn() {
            let steering = self.steering.clone();
            self.crew.start(&namespace, move || {
                if let Err(error) = steering.look_after(pod) {
                    warn!("looking after a captured pod: {error}");
                }
            });
        }
        for status in self.steering.status().into_iter().filter(|status| !status.released) {
            let captures = Arc::clone(&self.captures);
            if let Some((uid, captured)) = self.by_id(status.id)
                && captured.mending.told().is_empty()
            {
                captures.note(uid, status.note.as_deref(), status.closed);
            }
        }
    }
}
