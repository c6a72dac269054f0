//! The reconcile loop: makes the kernel capture what the store wants captured: enroll, release, retry, repair.
//!
//! ```text
//!  wanted ──▶ working ──▶ captured ──release──▶ leaving ──last connection ended──▶ forgotten
//!     ▲          │            └─ listener destroyed: closed until it is recreated
//!     └── failing ◀┘ (closed if it can prove ownership; retried, shown in `get captures`)
//! ```
//!
//! Jobs that a pod can block run on the workers; this task only receives their outcomes, so that no pod blocks it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::model::name::WorkloadUid;
use mesh::model::policy::PlaintextRules;
use mesh::model::workload::Workload;
use mesh::policy::authorize::Applying;
use mesh::policy::plaintext;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::changes::{Changes, Pending};
use super::listener_repair::ListenerRepair;
use super::namespaces::Namespaces;
use super::outcome::{Answer, Outcome};
use super::plan::{self, Place, Step};
use super::workers::{LATE, Workers};
use crate::capture::Listener;
use crate::connection::serve;
use crate::listen::steering::{Enrolled, Refused, Steering, Wanted};
use crate::node::Node;
use crate::pod::captures::Captures;
use crate::pod::workload::Pod;
use crate::ready::Ready;

/// Interval of checks for what nobody announces: failed enrollments, recreated namespaces, ended connections.
const TICK: Duration = Duration::from_secs(1);
/// Ticks within which every captured pod is checked once.
const ROUND: usize = 30;
/// The longest backoff of a failed enrollment.
const LONGEST: Duration = Duration::from_secs(15);
/// How long the first round waits for workloads that were refused in favour of an owner who has not shown up.
const SECOND_CHANCE: Duration = Duration::from_secs(1);

/// The task that owns all captures.
pub(crate) struct Reconciler {
    pub(super) node: Arc<Node>,
    pub(super) steering: Steering,
    changes: Arc<Changes>,
    pub(super) captures: Arc<Captures>,
    ready: Ready,
    pub(super) workers: Workers,
    namespaces: Namespaces,
    /// Outcomes of jobs, whose number per pod is bounded.
    pub(super) answers: UnboundedSender<Outcome>,
    outcomes: UnboundedReceiver<Outcome>,
    pub(super) pods: BTreeMap<WorkloadUid, Captured>,
    working: BTreeMap<WorkloadUid, Working>,
    failing: BTreeMap<WorkloadUid, Failing>,
    leaving: Vec<Arc<Pod>>,
    /// The next pod to check.
    pub(super) turn: usize,
}

pub(super) struct Captured {
    pub(super) place: Place,
    pub(super) pod: Arc<Pod>,
    pub(super) rules: PlaintextRules,
    pub(super) repair: ListenerRepair,
}

/// An enrollment in progress.
struct Working {
    place: Place,
    rules: PlaintextRules,
    since: Instant,
    told: bool,
}

struct Failing {
    place: Place,
    error: String,
    reason: &'static str,
    closed: Option<u64>,
    next: Instant,
    wait: Duration,
}

impl Reconciler {
    /// No captures yet.
    pub(crate) fn new(
        node: Arc<Node>,
        steering: Steering,
        changes: Arc<Changes>,
        (captures, ready): (Arc<Captures>, Ready),
    ) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded: a workload and a listener have one job in progress each"
        )]
        let (answers, outcomes) = unbounded_channel();
        Self {
            node,
            steering,
            changes,
            captures,
            ready,
            workers: Workers::default(),
            namespaces: Namespaces::default(),
            answers,
            outcomes,
            pods: BTreeMap::new(),
            working: BTreeMap::new(),
            failing: BTreeMap::new(),
            leaving: Vec::new(),
            turn: 0,
        }
    }

    /// Captures what is in the store, removes stale captures of an earlier agent, then follows changes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.begin()).await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let lost = Arc::clone(&self.node.lost);
        let changes = Arc::clone(&self.changes);
        loop {
            let due = self.pods.values().filter_map(|captured| captured.repair.due()).min();
            // Biased: a stream of changes must not starve a stop or a lost listener.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => self.on_tick().await,
                listeners = lost.take() => self.lost(listeners).await,
                Some(outcome) = self.outcomes.recv() => self.on_outcome(outcome).await,
                () = at(due) => self.mend(),
                pending = changes.take() => self.apply(pending).await,
            }
        }
        for captured in self.pods.values() {
            captured.pod.released.cancel();
        }
    }

    /// The first round: a workload that was captured before keeps its namespace; after that it is up for claims.
    async fn begin(&mut self) {
        let mut first = self.changes.take().await;
        let (all, _) = (std::mem::take(&mut first.mesh_added), std::mem::take(&mut first.mesh_removed));
        if let Err(error) = self.steering.replace_mesh(all.into_iter().collect()).await {
            error!("updating the mesh addresses in the kernel: {error:#}");
        }
        self.apply(Pending { local: true, ..first }).await;
        self.wait_for_outcomes(LATE).await;
        self.steering.settle();
        let claimed = self.failing.values_mut().filter(|failing| failing.reason == "claimed");
        claimed.for_each(|failing| failing.next = Instant::now());
        self.reconcile().await;
        self.wait_for_outcomes(SECOND_CHANCE).await;
        // An unresponsive pod is left to finish in its own time.
        let _late = tokio::time::timeout(LATE, self.retain()).await;
        self.ready.round();
        self.ready.done("captures");
    }

    /// Handles outcomes until no enrollment is in progress, or `patience` is over.
    async fn wait_for_outcomes(&mut self, patience: Duration) {
        let until = tokio::time::Instant::now() + patience;
        while !self.working.is_empty() {
            match tokio::time::timeout_at(until, self.outcomes.recv()).await {
                Ok(Some(outcome)) => self.on_outcome(outcome).await,
                _ => return,
            }
        }
    }

    /// Removes stale captures of an earlier agent, except those of pods that are being enrolled or cannot be reached.
    fn retain(&self) -> oneshot::Receiver<()> {
        let late = self.working.values().map(|working| working.place.netns.clone());
        let failing = self.failing.values().map(|failing| failing.place.netns.clone());
        let mut live = self.steering.left_at(&late.chain(failing).collect::<Vec<PathBuf>>());
        live.extend(self.pods.values().map(|captured| captured.pod.netns.cookie()));
        live.extend(self.failing.values().filter_map(|failing| failing.closed));
        let steering = self.steering.clone();
        let (tell, done) = oneshot::channel();
        self.workers.start("", move || {
            if let Err(error) = steering.retain(&live) {
                error!("removing stale captures of an earlier agent: {error:#}");
            }
            let _gone = tell.send(());
        });
        done
    }

    async fn apply(&mut self, pending: Pending) {
        if !pending.mesh_added.is_empty() || !pending.mesh_removed.is_empty() {
            let (added, removed) =
                (pending.mesh_added.into_iter().collect(), pending.mesh_removed.into_iter().collect());
            if let Err(error) = self.steering.update_mesh(added, removed).await {
                // Without its address in the map a destination would bypass the mesh: log it as an error.
                error!("updating the mesh addresses in the kernel: {error:#}");
            }
        }
        // Rules first: a new connection must not slip in between.
        if pending.policies || pending.local {
            self.update_rules(None).await;
        }
        if pending.local {
            self.reconcile().await;
        }
        if pending.policies || pending.local {
            let closed = self.node.connections.judge_again(&self.node.store.snapshot());
            let destroyed = self.node.passthrough.judge_again(&self.node.store.snapshot());
            if closed + destroyed > 0 {
                info!("a policy change ended {} open connections", closed + destroyed);
            }
        }
    }

    async fn on_tick(&mut self) {
        self.workers.more();
        let captured = self.pods.values().map(|captured| captured.place.netns.clone());
        let failing = self.failing.values().map(|failing| failing.place.netns.clone());
        self.namespaces.look(captured.chain(failing).collect());
        self.forget_ended().await;
        self.reconcile().await;
        self.report_late();
        self.repair().await;
        self.count();
        self.ready.round();
    }

    async fn reconcile(&mut self) {
        let wanted = plan::wanted(self.node.store.snapshot().local(), |path| self.namespaces.at(path));
        let captured: BTreeMap<_, _> =
            self.pods.iter().map(|(uid, captured)| (uid.clone(), captured.place.clone())).collect();
        let gone: Vec<_> = self.failing.keys().filter(|uid| !wanted.contains_key(*uid)).cloned().collect();
        for uid in gone {
            if let Some(cookie) = self.failing.remove(&uid).and_then(|failing| failing.closed) {
                self.reopen(&uid, cookie);
            }
            self.captures.remove(&uid);
        }
        for step in plan::steps(&wanted, &captured) {
            match step {
                Step::Release(uid) => self.release(&uid).await,
                Step::Enroll(uid, place) => self.enroll(uid, place),
            }
        }
        self.node.counters.captures_wanted.set(number(wanted.len()));
        self.count();
    }

    /// Starts to enroll a workload, unless that is in progress or has just failed.
    fn enroll(&mut self, uid: WorkloadUid, place: Place) {
        let too_early = |failing: &Failing| failing.place.is(&place) && failing.next > Instant::now();
        if self.working.contains_key(&uid) || self.failing.get(&uid).is_some_and(too_early) {
            return;
        }
        let snapshot = self.node.store.snapshot();
        let Some(workload) = snapshot.workload(&uid) else { return };
        let rules = plaintext::compile(&Applying::to(&snapshot, workload));
        if !self.failing.contains_key(&uid) {
            self.captures.pending(workload, &place.netns, "its enrollment has begun");
        }
        let (netns, addresses) = (place.netns.clone(), place.addresses.clone());
        let wanted = Wanted { uid: uid.clone(), netns, addresses, rules: rules.clone() };
        let answer = Answer::new(self.answers.clone(), uid.clone());
        let steering = self.steering.clone();
        self.workers.start(&workload.namespace, move || answer.give(steering.enroll(wanted)));
        self.working.insert(uid, Working { place, rules, since: Instant::now(), told: false });
    }

    /// Handles the outcome of a job.
    async fn on_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Enrolled { uid, result } => self.enrolled(uid, result).await,
            Outcome::Listening { pod, which, result } => self.listening(pod, which, result).await,
        }
    }

    async fn enrolled(&mut self, uid: WorkloadUid, result: Result<Enrolled, Refused>) {
        let Some(Working { mut place, rules, .. }) = self.working.remove(&uid) else { return };
        let about = uid.clone();
        let snapshot = self.node.store.snapshot();
        let workload = snapshot.workload(&uid).cloned();
        let wanted = workload.as_ref().and_then(|workload| plan::place_of(workload, |path| self.namespaces.at(path)));
        let still = wanted.is_some_and(|wanted| wanted.is(&place));
        match (result, workload) {
            (Ok(Enrolled { id, netns, listeners }), Some(workload)) => {
                place.namespace = plan::Namespace::Is(netns.device(), netns.inode());
                self.namespaces.found(&place.netns, place.namespace);
                let before = self.failing.remove(&uid).and_then(|failing| failing.closed);
                if let Some(other) = before.filter(|cookie| *cookie != netns.cookie()) {
                    self.reopen(&uid, other);
                }
                let pod = Pod::new(id, netns, Arc::clone(&workload), self.node.quotas.quota());
                self.node.keyring.want(pod.identity.clone());
                self.node.passthrough.know(&pod);
                self.node.pods.add(&pod);
                serve::start(&self.node, &pod, listeners);
                info!("enrolled {uid} as {} in {}", pod.identity, place.netns.display());
                self.captures.captured(&pod, &workload, &place.netns, &rules);
                self.node.counters.proxies_started.inc();
                self.pods.insert(uid, Captured { place, pod, rules, repair: ListenerRepair::default() });
            }
            (Ok(Enrolled { id, netns, .. }), None) => self.undo(&uid, id, netns.cookie()).await,
            (Err(refused), Some(workload)) => self.fail(&workload, place, refused),
            (Err(refused), None) => {
                if let Some(cookie) = refused.closed {
                    self.reopen(&uid, cookie);
                }
                self.captures.remove(&uid);
            }
        }
        // Apply what changed during the enrollment.
        self.update_rules(Some(&about)).await;
        if !still {
            self.reconcile().await;
        }
    }

    /// Undoes an enrollment that is no longer wanted.
    async fn undo(&mut self, uid: &WorkloadUid, id: u32, cookie: u64) {
        if let Err(error) = self.steering.release(id).await {
            error!("releasing {uid}: {error:#}");
        }
        self.captures.remove(uid);
        self.reopen(uid, cookie);
    }

    fn fail(&mut self, workload: &Workload, place: Place, refused: Refused) {
        let uid = &workload.uid;
        let Refused { error, reason, closed } = refused;
        let before = self.failing.remove(uid);
        let same = before.as_ref().filter(|failing| failing.place.is(&place));
        if same.is_none_or(|failing| failing.error != error) {
            let state =
                if closed.is_some() { "closed until then" } else { "and left open, for nothing shows whose it is" };
            warn!("enrolling {uid} in {}: {error}; retrying, {state}", place.netns.display());
        }
        let wait = same.map_or(TICK, |failing| (failing.wait * 2).min(LONGEST));
        // A closed pod stays closed while its namespace cannot be reached.
        let earlier = before.and_then(|failing| failing.closed);
        if let Some(other) = earlier.filter(|cookie| closed.is_some_and(|now| now != *cookie)) {
            self.reopen(uid, other);
        }
        let closed = closed.or(earlier);
        self.captures.failed(workload, &place.netns, &error, closed.is_some());
        let next = Instant::now() + wait;
        self.failing.insert(uid.clone(), Failing { place, error, reason, closed, next, wait });
    }

    /// Reopens a closed namespace, unless it is closed for another workload by now.
    fn reopen(&self, uid: &WorkloadUid, cookie: u64) {
        let others = self.failing.iter().filter(|(other, _)| *other != uid);
        let captured = self.pods.values().any(|captured| captured.pod.netns.cookie() == cookie);
        if captured || others.into_iter().any(|(_, failing)| failing.closed == Some(cookie)) {
            return;
        }
        let (steering, uid) = (self.steering.clone(), uid.clone());
        self.workers.start("", move || {
            if let Err(error) = steering.reopen(cookie) {
                warn!("reopening the network namespace of {uid}: {error}");
            }
        });
    }

    /// Logs enrollments that take too long.
    fn report_late(&mut self) {
        let snapshot = self.node.store.snapshot();
        for (uid, working) in &mut self.working {
            if working.told || working.since.elapsed() < LATE {
                continue;
            }
            working.told = true;
            let path = working.place.netns.display();
            warn!("enrolling {uid} in {path} takes longer than {LATE:?}: something blocks it there");
            if let Some(workload) = snapshot.workload(uid) {
                let why = format!("its enrollment in {path} takes longer than {LATE:?}");
                self.captures.pending(workload, &working.place.netns, &why);
            }
        }
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
        self.forget_ended().await;
    }

    /// Removes rule, route and the rest of released pods whose last connection has ended; earlier would reset it.
    async fn forget_ended(&mut self) {
        let (ended, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leaving).into_iter().partition(|pod| Arc::strong_count(pod) == 1);
        self.leaving = open;
        for pod in ended {
            // If it was enrolled again, the entry belongs to the new capture.
            if !self.pods.contains_key(&pod.uid) {
                self.node.pool.close_workload(&pod.uid);
                if !self.failing.contains_key(&pod.uid) && !self.working.contains_key(&pod.uid) {
                    self.captures.remove(&pod.uid);
                }
            }
            // A namespace that was captured again keeps its id: what is left belongs to the newer capture.
            let same_id = |other: &Arc<Pod>| other.id == pod.id;
            if self.leaving.iter().any(same_id) || self.pods.values().any(|captured| same_id(&captured.pod)) {
                continue;
            }
            // Likewise one that is about to be captured again, or was closed when it could not be.
            let closed = self.failing.values().any(|failing| failing.closed == Some(pod.netns.cookie()));
            let wanted = self.working.values().any(|working| working.place.netns == pod.netns.path());
            if closed || wanted {
                self.leaving.push(pod);
                continue;
            }
            self.node.passthrough.forget(pod.id);
            let steering = self.steering.clone();
            self.workers.start("", move || {
                if let Err(error) = steering.forget(pod.id) {
                    warn!("removing the routes of {}: {error}", pod.uid);
                }
            });
        }
    }

    async fn update_rules(&mut self, only: Option<&WorkloadUid>) {
        let snapshot = self.node.store.snapshot();
        for (uid, captured) in self.pods.iter_mut().filter(|(uid, _)| only.is_none_or(|only| only == *uid)) {
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
                Err(error) => error!("updating the plaintext rules of {uid} in the kernel: {error:#}"),
            }
        }
    }

    /// Updates the metrics of captured and failed workloads.
    fn count(&self) {
        let counters = &self.node.counters;
        counters.active_proxies.set(number(self.pods.len()));
        counters.pending_proxies.set(number(self.failing.len() + self.working.len()));
        let (mut closed, mut failed) = (BTreeMap::new(), BTreeMap::new());
        for failing in self.failing.values() {
            let counts = if failing.closed.is_some() { &mut closed } else { &mut failed };
            *counts.entry(failing.reason).or_insert(0_i64) += 1;
        }
        for _late in self.working.values().filter(|working| working.told) {
            *failed.entry("late").or_insert(0) += 1;
        }
        let without = self.pods.values().filter(|captured| !captured.repair.description().is_empty()).count();
        if without > 0 {
            closed.insert("listener", number(without));
        }
        let listed = |counts: BTreeMap<&'static str, i64>| counts.into_iter().collect::<Vec<_>>();
        counters.captures_unserved(&listed(closed), &listed(failed));
    }

    /// The captured workload with this id.
    pub(super) fn by_id(&mut self, id: u32) -> Option<(&WorkloadUid, &mut Captured)> {
        self.pods.iter_mut().find(|(_, captured)| captured.pod.id == id)
    }

    /// The pods to check in this tick.
    pub(super) fn next_turn(&mut self) -> Vec<(u32, String)> {
        let count = self.pods.len().div_ceil(ROUND);
        let all = || self.pods.values().map(|captured| (captured.pod.id, captured.pod.namespace().to_owned()));
        let turn = all().chain(all()).skip(self.turn).take(count).collect();
        self.turn = (self.turn + count).checked_rem(self.pods.len()).unwrap_or(0);
        turn
    }
}

pub(super) fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Sleeps until `moment`; for ever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Lost listeners with the ids of their pods.
pub(super) type LostListeners = Vec<(u32, Listener)>;
