//! Makes the kernel capture what the store wants captured, again and again: enroll, release, retry, repair.
//!
//! ```text
//!  wanted ──enroll──▶ captured ──release──▶ leaving ──last connection ended──▶ forgotten
//!     ▲                   │
//!     └── failing ◀───────┘ (namespace missing, kernel refuses: tried again, shown in `get captures`)
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::model::name::WorkloadUid;
use mesh::model::policy::PlaintextRules;
use mesh::model::workload::Workload;
use mesh::policy::authorize::Applying;
use mesh::policy::plaintext;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::changes::{Changes, Pending};
use super::plan::{self, Place, Step};
use crate::captures::Captures;
use crate::node::Node;
use crate::pod::Pod;
use crate::serve;
use crate::steering::{Enrolled, Steering};

/// How often what is not announced is looked for: failed enrolments, namespaces made anew, ended connections.
const TICK: Duration = Duration::from_secs(1);

/// The task that owns every capture.
pub(crate) struct Reconciler {
    node: Arc<Node>,
    steering: Steering,
    changes: Arc<Changes>,
    captures: Arc<Captures>,
    pods: BTreeMap<WorkloadUid, Captured>,
    failing: BTreeMap<WorkloadUid, Failing>,
    leaving: Vec<Arc<Pod>>,
}

struct Captured {
    place: Place,
    pod: Arc<Pod>,
    rules: PlaintextRules,
}

struct Failing {
    place: Place,
    error: String,
    next: Instant,
    wait: Duration,
}

impl Reconciler {
    /// Nothing captured yet.
    pub(crate) fn new(node: Arc<Node>, steering: Steering, changes: Arc<Changes>, captures: Arc<Captures>) -> Self {
        Self { node, steering, changes, captures, pods: BTreeMap::new(), failing: BTreeMap::new(), leaving: Vec::new() }
    }

    /// Captures what the store knows by now, drops what an earlier agent captured and nobody wants any more, and then
    /// follows the changes until `stop`. `ready` is called after the first round.
    pub(crate) async fn run(mut self, stop: CancellationToken, ready: impl FnOnce()) {
        let mut first = self.changes.take().await;
        let (all, _) = (std::mem::take(&mut first.mesh_added), std::mem::take(&mut first.mesh_removed));
        if let Err(error) = self.steering.replace_mesh(all.into_iter().collect()).await {
            error!("telling the kernel which addresses are the mesh's: {error:#}");
        }
        self.apply(Pending { local: true, ..first }).await;
        let live: Vec<u64> = self.pods.values().map(|captured| captured.pod.netns.cookie()).collect();
        if let Err(error) = self.steering.retain(live).await {
            error!("dropping what an earlier agent captured: {error:#}");
        }
        ready();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Biased: a stop is not to be outrun by a stream of changes.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                pending = self.changes.take() => self.apply(pending).await,
                _ = tick.tick() => self.look_again().await,
            }
        }
        for captured in self.pods.values() {
            captured.pod.released.cancel();
        }
    }

    async fn apply(&mut self, pending: Pending) {
        if !pending.mesh_added.is_empty() || !pending.mesh_removed.is_empty() {
            let (added, removed) =
                (pending.mesh_added.into_iter().collect(), pending.mesh_removed.into_iter().collect());
            if let Err(error) = self.steering.update_mesh(added, removed).await {
                // Without its address in the map a destination would be reached past the mesh: say so loudly.
                error!("telling the kernel which addresses are the mesh's: {error:#}");
            }
        }
        // Rules before connections: a new connection must not slip in between.
        if pending.policies || pending.local {
            self.update_rules().await;
        }
        if pending.local {
            self.reconcile().await;
        }
        if pending.policies || pending.local {
            let closed = self.node.connections.judge_again(&self.node.store.snapshot());
            let destroyed = self.node.passed.judge_again(&self.node.store.snapshot());
            if closed + destroyed > 0 {
                info!("a policy change ended {} open connections", closed + destroyed);
            }
        }
    }

    async fn look_again(&mut self) {
        self.forget_the_left().await;
        self.reconcile().await;
    }

    async fn reconcile(&mut self) {
        let wanted = plan::wanted(self.node.store.snapshot().local(), namespace_of);
        let captured: BTreeMap<_, _> =
            self.pods.iter().map(|(uid, captured)| (uid.clone(), captured.place.clone())).collect();
        let gone: Vec<_> = self.failing.keys().filter(|uid| !wanted.contains_key(*uid)).cloned().collect();
        for uid in gone {
            self.failing.remove(&uid);
            self.captures.remove(&uid);
        }
        for step in plan::steps(&wanted, &captured) {
            match step {
                Step::Release(uid) => self.release(&uid).await,
                Step::Enroll(uid, place) => self.enroll(uid, place).await,
            }
        }
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.node.counters.active_proxies.set(count(self.pods.len()));
        self.node.counters.pending_proxies.set(count(self.failing.len()));
    }

    async fn enroll(&mut self, uid: WorkloadUid, place: Place) {
        if let Some(failing) = self.failing.get(&uid)
            && failing.place == place
            && failing.next > Instant::now()
        {
            return;
        }
        let snapshot = self.node.store.snapshot();
        let Some(workload) = snapshot.workload(&uid).cloned() else { return };
        let rules = plaintext::compile(&Applying::to(&snapshot, &workload));
        drop(snapshot);
        match self.steering.enroll(place.netns.clone(), place.addresses.clone(), rules.clone()).await {
            Ok(Enrolled { id, netns, listeners }) => {
                let pod = Pod::new(id, netns, Arc::clone(&workload), self.node.shares.share());
                self.node.keyring.want(pod.identity.clone());
                self.node.passed.know(&pod);
                self.node.pods.add(&pod);
                serve::start(&self.node, &pod, listeners);
                info!("enrolled {uid} as {} in {}", pod.identity, place.netns.display());
                self.captures.captured(&pod, &workload, &place.netns, &rules);
                self.node.counters.proxies_started.inc();
                self.failing.remove(&uid);
                self.pods.insert(uid, Captured { place, pod, rules });
            }
            Err(error) => self.fail(&workload, place, format!("{error:#}")),
        }
    }

    fn fail(&mut self, workload: &Workload, place: Place, error: String) {
        let uid = &workload.uid;
        let before = self.failing.get(uid).filter(|failing| failing.place == place);
        if before.is_none_or(|failing| failing.error != error) {
            warn!("enrolling {uid} in {}: {error}; trying again", place.netns.display());
        }
        let wait = before.map_or(TICK, |failing| (failing.wait * 2).min(Duration::from_secs(15)));
        self.captures.failed(workload, &place.netns, &error);
        self.failing.insert(uid.clone(), Failing { place, error, next: Instant::now() + wait, wait });
    }

    async fn release(&mut self, uid: &WorkloadUid) {
        let Some(captured) = self.pods.remove(uid) else { return };
        if let Err(error) = self.steering.release(captured.pod.id).await {
            error!("releasing {uid}: {error:#}");
        }
        captured.pod.released.cancel();
        self.node.keyring.forget(&captured.pod.identity);
        self.captures.releasing(uid);
        self.node.counters.proxies_stopped.inc();
        info!(
            "released {uid}: new connections are its own, {} captured ones go on",
            Arc::strong_count(&captured.pod) - 1
        );
        self.leaving.push(captured.pod);
        self.forget_the_left().await;
    }

    /// Takes back rule, route and the rest of those whose last connection has ended. Earlier would reset it.
    async fn forget_the_left(&mut self) {
        let (ended, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leaving).into_iter().partition(|pod| Arc::strong_count(pod) == 1);
        self.leaving = open;
        for pod in ended {
            // Enrolled anew meanwhile? Then the entry is the new capture's.
            if !self.pods.contains_key(&pod.uid) {
                self.node.pool.close_workload(&pod.uid);
                if !self.failing.contains_key(&pod.uid) {
                    self.captures.remove(&pod.uid);
                }
            }
            // A namespace that was captured again keeps its number: what is left belongs to the newer capture.
            let shares = |other: &Arc<Pod>| other.id == pod.id;
            if self.leaving.iter().any(shares) || self.pods.values().any(|captured| shares(&captured.pod)) {
                continue;
            }
            self.node.passed.forget(pod.id);
            if let Err(error) = self.steering.forget(pod.id).await {
                warn!("taking back the routes of {}: {error}", pod.uid);
            }
        }
    }

    async fn update_rules(&mut self) {
        let snapshot = self.node.store.snapshot();
        for (uid, captured) in &mut self.pods {
            let Some(workload) = snapshot.workload(uid) else { continue };
            let rules = plaintext::compile(&Applying::to(&snapshot, workload));
            if rules == captured.rules {
                continue;
            }
            match self.steering.set_plaintext(captured.pod.id, rules.clone()).await {
                Ok(()) => {
                    self.captures.captured(&captured.pod, workload, &captured.place.netns, &rules);
                    captured.rules = rules;
                }
                Err(error) => error!("telling the kernel the plaintext rules of {uid}: {error:#}"),
            }
        }
    }
}

/// Device and inode of the namespace behind a path.
fn namespace_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
