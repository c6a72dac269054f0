//! The open connections: listed for the admin server, and closed when a policy change forbids them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, info};

use mesh::model::connection::{Direction, Facts};
use mesh::model::workload::Workload;
use mesh::policy::authorize::{self, Applying, Permit, Refusal};
use mesh::state::snapshot::Snapshot;
use process::telemetry::labels::ConnectionLabels;
use process::telemetry::traffic::ConnectionMeter;

const SHARDS: usize = 16;

/// Every open connection of the process.
pub(crate) struct Connections {
    shards: [Mutex<HashMap<u64, Arc<Open>>>; SHARDS],
    next: AtomicU64,
}

/// One open connection. Its byte counters can be read while it runs.
pub(crate) struct Open {
    /// Unique in the process.
    pub(crate) id: u64,
    /// The workload of this node.
    pub(crate) workload: Arc<Workload>,
    /// What authorization policies see of the connection.
    pub(crate) facts: Facts,
    /// Socket address of the next hop, once known.
    pub(crate) hop: Option<SocketAddr>,
    /// The two workloads, and which of them is on this node.
    pub(crate) labels: Arc<ConnectionLabels>,
    /// When it was accepted.
    pub(crate) since: Instant,
    meter: OnceLock<ConnectionMeter>,
    close: Mutex<Option<Closing>>,
    closed: Notify,
}

/// Why the agent closes a connection that its ends would have kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closing {
    /// A policy change forbids it.
    #[error("connection closed due to policy change: {0}")]
    Policy(Refusal),
    /// The workload was released, or the drain deadline is over.
    #[error("connection closed due to connection drain")]
    Drain,
}

/// A connection's entry in the list, removed on drop.
pub(crate) struct Tracked {
    open: Arc<Open>,
    list: Arc<Connections>,
}

/// The fields of a new connection.
pub(crate) struct Entry {
    /// The workload of this node.
    pub(crate) workload: Arc<Workload>,
    /// What authorization policies see of the connection.
    pub(crate) facts: Facts,
    /// Socket address of the next hop, if known.
    pub(crate) hop: Option<SocketAddr>,
    /// The two workloads, and which of them is on this node.
    pub(crate) labels: Arc<ConnectionLabels>,
}

impl Connections {
    /// An empty list.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { shards: Default::default(), next: AtomicU64::new(1) })
    }

    /// Adds a connection.
    pub(crate) fn track(self: &Arc<Self>, entry: Entry) -> Tracked {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Arc::new(Open {
            id,
            workload: entry.workload,
            facts: entry.facts,
            hop: entry.hop,
            labels: entry.labels,
            since: Instant::now(),
            meter: OnceLock::new(),
            close: Mutex::new(None),
            closed: Notify::new(),
        });
        self.shard(id).lock().insert(id, Arc::clone(&open));
        Tracked { open, list: Arc::clone(self) }
    }

    /// Adds an inbound connection, then authorizes it. In this order: a policy change in between finds it listed.
    pub(crate) fn admit(
        self: &Arc<Self>,
        entry: Entry,
        snapshot: impl FnOnce() -> Arc<Snapshot>,
    ) -> Result<(Tracked, Permit), Refusal> {
        let tracked = self.track(entry);
        let snapshot = snapshot();
        let workload = &tracked.open.workload;
        let current = snapshot.workload(&workload.uid).unwrap_or(workload);
        let applying = Applying::to(&snapshot, current);
        report_dry_run(&applying, &tracked.open.facts);
        let facts = &tracked.open.facts;
        let permit = authorize::authorize(&applying, facts).inspect_err(|_| report_why(&applying, facts))?;
        Ok((tracked, permit))
    }

    /// Authorizes every inbound connection again and closes those that are now forbidden. Returns how many.
    pub(crate) fn judge_again(&self, snapshot: &Snapshot) -> usize {
        let mut known = HashMap::new();
        let mut closed = 0;
        for open in self.list().into_iter().filter(|open| open.labels.direction == Direction::Inbound) {
            let uid = &open.workload.uid;
            let applying = known.entry(uid.clone()).or_insert_with(|| {
                let current = snapshot.workload(uid).unwrap_or(&open.workload);
                Applying::to(snapshot, current)
            });
            if let Err(refusal) = authorize::authorize(applying, &open.facts) {
                open.close(Closing::Policy(refusal));
                closed += 1;
            }
        }
        closed
    }

    /// Closes every connection that `which` selects.
    pub(crate) fn close_all(&self, which: impl Fn(&Open) -> bool) {
        for open in self.list().into_iter().filter(|open| which(open)) {
            open.close(Closing::Drain);
        }
    }

    /// Every open connection, unordered.
    pub(crate) fn list(&self) -> Vec<Arc<Open>> {
        self.shards.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// The number of open connections.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether no connection is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until no connection is open.
    pub(crate) async fn drained(&self) {
        while !self.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Open>>> {
        // Ids count up, so the low bits spread them evenly.
        &self.shards[id as usize % SHARDS]
    }
}

/// Logs what dry-run policies would have denied.
pub(crate) fn report_dry_run(applying: &Applying, facts: &Facts) {
    if let Some(Err(refusal)) = authorize::dry_run(applying, facts) {
        let identity = applying
            .coverage
            .effective_client(facts)
            .identity
            .map_or_else(|| "no identity".to_owned(), ToString::to_string);
        info!("dry-run: {} ({identity}) -> {} would be refused: {refusal}", facts.source, facts.destination);
    }
}

/// Says of every policy why it matches a connection that is refused, or does not.
fn report_why(applying: &Applying, facts: &Facts) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for policy in &applying.policies {
        for rule in authorize::trace(policy, &applying.coverage, facts) {
            debug!("{} -> {}: {} {}: {rule}", facts.source, facts.destination, policy.action.as_str(), policy.key);
        }
    }
}

impl Open {
    /// Starts counting its bytes. The first meter wins.
    pub(crate) fn count_by(&self, meter: ConnectionMeter) -> &ConnectionMeter {
        self.meter.get_or_init(|| meter)
    }

    /// Bytes that the workload has sent and received so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.meter.get().map_or((0, 0), |meter| (meter.bytes_sent(), meter.bytes_received()))
    }

    /// Asks the connection's task to close it. The first reason wins.
    pub(crate) fn close(&self, why: Closing) {
        self.close.lock().get_or_insert(why);
        self.closed.notify_one();
    }
}

impl Tracked {
    /// The connection.
    pub(crate) fn open(&self) -> &Arc<Open> {
        &self.open
    }

    /// Resolves with the reason when the connection is to be closed. Cancel-safe.
    pub(crate) async fn closed(&self) -> Closing {
        loop {
            if let Some(why) = self.open.close.lock().clone() {
                return why;
            }
            // `notify_one` leaves a permit when nobody waits, so no close between the check and the wait is missed.
            self.open.closed.notified().await;
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let mut shard = self.list.shard(self.open.id).lock();
        shard.remove(&self.open.id);
        if shard.capacity() > 64 && shard.len() * 4 < shard.capacity() {
            shard.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::policy::{Action, Authorization, PolicyKey, Scope};
    use mesh::model::rule::Rule;
    use mesh::model::update::Update;
    use mesh::state::store::Store;

    fn entry(direction: Direction) -> Entry {
        Entry {
            workload: Arc::new(Workload::sample("shop", "default", &["10.0.0.1".parse().unwrap()])),
            facts: Facts::plaintext("10.0.0.2:40000".parse().unwrap(), "10.0.0.1:80".parse().unwrap()),
            hop: None,
            labels: Arc::new(ConnectionLabels::new(direction)),
        }
    }

    fn deny_all(store: &Store) {
        store.apply([Update::Authorization(Box::new(Authorization {
            key: PolicyKey { namespace: "default".into(), name: "no".into() },
            scope: Scope::Namespace,
            action: Action::Deny,
            rules: [Rule::default()].into(),
            dry_run: false,
        }))]);
    }

    #[tokio::test]
    async fn a_policy_change_closes_what_it_forbids_and_only_inbound() {
        let (connections, store) = (Connections::new(), Store::new(None));
        let Ok((inbound, _)) = connections.admit(entry(Direction::Inbound), || store.snapshot()) else {
            panic!("no policy yet")
        };
        let outbound = connections.track(entry(Direction::Outbound));
        assert_eq!(connections.judge_again(&store.snapshot()), 0);
        deny_all(&store);
        assert_eq!(connections.judge_again(&store.snapshot()), 1);
        assert!(matches!(inbound.closed().await, Closing::Policy(Refusal::Denied(_))));
        assert!(outbound.open().close.lock().is_none());
        assert!(connections.admit(entry(Direction::Inbound), || store.snapshot()).is_err());
        assert_eq!(connections.len(), 2, "a refused connection leaves no trace");
    }

    #[tokio::test]
    async fn draining_ends_when_the_last_connection_does() {
        let connections = Connections::new();
        let tracked = connections.track(entry(Direction::Outbound));
        let soon = tokio::time::timeout(Duration::from_millis(30), connections.drained());
        assert!(soon.await.is_err(), "a connection is open");
        connections.close_all(|_| true);
        assert_eq!(tracked.closed().await, Closing::Drain);
        drop(tracked);
        connections.drained().await;
    }
}
