//! Passthrough connections: counted, logged, listed, and closed when a policy change forbids them.
//!
//! Their bytes never enter this process; the kernel reports when one opens, fails and ends.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::connections;
use crate::counters::Counters;
use crate::view::ConnectionView;
use mesh::model::connection::{Direction, Facts, ResponseFlag};
use mesh::model::workload::Workload;
use mesh::policy::authorize::{self, Applying, Refusal};
use mesh::state::snapshot::Snapshot;
use mesh::state::store::Store;
use parking_lot::Mutex;
use process::telemetry::access_log::{AccessLog, AccessRecord, Outcome, reason};
use process::telemetry::labels::ConnectionLabels;
use process::telemetry::traffic::{ConnectionMeter, Traffic};
use tracing::{debug, warn};

use crate::capture::Event;
use crate::passthrough::destroy::destroy;
use crate::passthrough::sockets;
use crate::pod::workload::Pod;

/// Upper bound of listed connections. Beyond it, connections are still counted when they end. One pod may have at most
/// half of what the others leave.
const MOST_OPEN: usize = 65_536;

/// The passthrough connections that the kernel has reported.
pub(crate) struct Passthrough {
    store: Arc<Store>,
    traffic: Arc<Traffic>,
    log: AccessLog,
    counters: Arc<Counters>,
    known: Mutex<Known>,
    next: AtomicU64,
}

#[derive(Default)]
struct Known {
    pods: HashMap<u32, Weak<Pod>>,
    open: HashMap<Key, Open>,
    /// The number of listed connections per pod.
    counts: HashMap<u32, usize>,
    /// Pods with connections that are, or may be, missing in `open`.
    incomplete: HashSet<u32>,
    /// Lost kernel events, when last read.
    lost: u64,
}

impl Known {
    fn keep(&mut self, key: Key, open: Open) {
        let (all, own) = (self.open.len(), self.counts.get(&key.pod).copied().unwrap_or(0));
        if !has_room(all, own) {
            self.incomplete.insert(key.pod);
            return;
        }
        if self.open.insert(key, open).is_none() {
            *self.counts.entry(key.pod).or_default() += 1;
        }
    }

    fn take(&mut self, key: &Key) -> Option<Open> {
        let open = self.open.remove(key)?;
        if let Some(count) = self.counts.get_mut(&key.pod) {
            *count = count.saturating_sub(1);
        }
        Some(open)
    }
}

/// Whether a pod with `own` of `all` listed connections may have one more.
fn has_room(all: usize, own: usize) -> bool {
    own < MOST_OPEN.saturating_sub(all - own.min(all)) / 2
}

/// A connection of a pod, with both ends, since both may be pods of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    pod: u32,
    source: SocketAddr,
    destination: SocketAddr,
}

struct Open {
    id: u64,
    direction: Direction,
    probe: bool,
    since: Instant,
    meter: ConnectionMeter,
    labels: Arc<ConnectionLabels>,
    /// The refusal by a changed policy that closes it.
    refused: Option<Refusal>,
}

impl Passthrough {
    /// No connections yet.
    pub(crate) fn new(store: Arc<Store>, traffic: Arc<Traffic>, log: AccessLog, counters: Arc<Counters>) -> Self {
        Self { store, traffic, log, counters, known: Mutex::default(), next: AtomicU64::new(1 << 63) }
    }

    /// Registers a captured workload.
    pub(crate) fn know(&self, pod: &Arc<Pod>) {
        self.known.lock().pods.insert(pod.id, Arc::downgrade(pod));
    }

    /// Removes a workload that is no longer captured, and its connections.
    pub(crate) fn forget(&self, id: u32) {
        let mut known = self.known.lock();
        known.pods.remove(&id);
        known.open.retain(|key, _| key.pod != id);
        known.counts.remove(&id);
        known.incomplete.remove(&id);
    }

    /// Takes the total of lost kernel events. Nobody knows which pods they were about, so all become incomplete.
    pub(crate) fn lost(&self, total: u64) {
        let known = &mut *self.known.lock();
        if total > known.lost {
            known.lost = total;
            known.incomplete.extend(known.pods.keys());
        }
    }

    /// Handles one kernel event.
    pub(crate) fn tell(&self, event: &Event) {
        match *event {
            Event::Refused { pod, src, dst } => self.refused(pod, src, dst),
            Event::Opened { pod, direction, src, dst, probe } => {
                self.opened(Key { pod, source: src, destination: dst }, direction, probe);
            }
            Event::Closed { pod, direction, src, dst, sent, received, duration, probe } => {
                let key = Key { pod, source: src, destination: dst };
                self.closed(key, direction, probe, (sent, received), duration);
            }
            Event::Failed { pod, src, dst } => {
                let labels = self.labels(pod, Direction::Outbound, src, dst);
                self.traffic.failed(&labels, ResponseFlag::Connect);
                let outcome = Outcome::Failed("connection failed to open".to_owned());
                self.log.finished(&record(labels, (src, dst), (0, 0), Duration::ZERO), &outcome);
            }
        }
    }

    /// The open connections, for the admin server. Their ids have the highest bit set, so as not to clash with those of
    /// carried connections.
    pub(crate) fn list(&self) -> Vec<ConnectionView> {
        let known = self.known.lock();
        let uid =
            |pod: u32| known.pods.get(&pod).and_then(Weak::upgrade).map(|p| p.uid.to_string()).unwrap_or_default();
        let name = |w: &Option<Arc<Workload>>| w.as_ref().map(|w| w.name.to_string());
        let namespace = |w: &Option<Arc<Workload>>| w.as_ref().map(|w| w.namespace.to_string());
        let listed = |(key, open): (&Key, &Open)| ConnectionView {
            id: open.id,
            direction: open.direction,
            workload_uid: uid(key.pod),
            source: key.source,
            source_workload: name(&open.labels.source),
            source_namespace: namespace(&open.labels.source),
            source_identity: None,
            source_via: None,
            original_destination: key.destination,
            actual_destination: None,
            destination_workload: name(&open.labels.destination),
            destination_namespace: namespace(&open.labels.destination),
            destination_identity: None,
            service: None,
            protocol: if open.probe { "TCP (probe)" } else { "TCP" }.to_owned(),
            // The kernel reports byte counts only at the end.
            bytes_sent: 0,
            bytes_received: 0,
            age_ms: u64::try_from(open.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        known.open.iter().map(listed).collect()
    }

    /// Authorizes the inbound connections again and closes those that are now forbidden. Returns how many.
    pub(crate) fn judge_again(&self, mesh: &Snapshot) -> usize {
        let mut ended = self.judge_unknown(mesh);
        let mut known = self.known.lock();
        let Known { pods, open, .. } = &mut *known;
        for (key, connection) in open.iter_mut() {
            // Probes of the kubelet are exempt from policy, as they were when they were accepted.
            if connection.direction != Direction::Inbound || connection.probe || connection.refused.is_some() {
                continue;
            }
            let Some(pod) = pods.get(&key.pod).and_then(Weak::upgrade) else { continue };
            let Some(workload) = mesh.workload(&pod.uid) else { continue };
            let facts = Facts::plaintext(key.source, key.destination);
            let Err(refusal) = authorize::authorize(&Applying::to(mesh, workload), &facts) else { continue };
            match destroy(&pod.netns, key.destination, key.source) {
                Ok(()) => {
                    connection.refused = Some(refusal);
                    ended += 1;
                }
                Err(error) => warn!("ending {} -> {}, now refused: {error}", key.source, key.destination),
            }
        }
        ended
    }

    /// The same for connections that are not listed: the kernel is asked for them.
    fn judge_unknown(&self, mesh: &Snapshot) -> usize {
        let asked: Vec<Arc<Pod>> = {
            let known = self.known.lock();
            known.incomplete.iter().filter_map(|id| known.pods.get(id)?.upgrade()).collect()
        };
        let mut ended = 0;
        for pod in asked {
            let Some(workload) = mesh.workload(&pod.uid) else { continue };
            let accepted = sockets::accepted(&pod.netns).unwrap_or_else(|error| {
                warn!("{}: listing its connections: {error}", pod.uid);
                Vec::new()
            });
            for (source, destination) in accepted {
                let key = Key { pod: pod.id, source, destination };
                let foreign =
                    workload.addresses.contains(&destination.ip()) && !workload.addresses.contains(&source.ip());
                if !foreign || self.known.lock().open.contains_key(&key) {
                    continue;
                }
                let facts = Facts::plaintext(source, destination);
                let Err(refusal) = authorize::authorize(&Applying::to(mesh, workload), &facts) else { continue };
                match destroy(&pod.netns, destination, source) {
                    Ok(()) => ended += 1,
                    Err(error) => warn!("ending {source} -> {destination}, now refused ({refusal}): {error}"),
                }
            }
        }
        ended
    }

    fn opened(&self, key: Key, direction: Direction, probe: bool) {
        if direction == Direction::Inbound && !probe {
            self.report_dry_run(key);
        }
        let labels = self.labels(key.pod, direction, key.source, key.destination);
        self.log.opened(&record(labels.clone(), (key.source, key.destination), (0, 0), Duration::ZERO));
        let open = self.open(labels, direction, probe);
        self.known.lock().keep(key, open);
    }

    fn report_dry_run(&self, key: Key) {
        let mesh = self.store.snapshot();
        let pod = self.known.lock().pods.get(&key.pod).and_then(Weak::upgrade);
        if let Some(workload) = pod.as_ref().and_then(|pod| mesh.workload(&pod.uid)) {
            let facts = Facts::plaintext(key.source, key.destination);
            connections::report_dry_run(&Applying::to(&mesh, workload), &facts);
        }
    }

    fn closed(&self, key: Key, direction: Direction, probe: bool, (sent, received): (u64, u64), duration: Duration) {
        // It is not listed after a restart of the agent, or when the list was full.
        let known = self.known.lock().take(&key);
        let open = known.unwrap_or_else(|| {
            self.open(self.labels(key.pod, direction, key.source, key.destination), direction, probe)
        });
        open.meter.sent(sent);
        open.meter.received(received);
        let outcome = match &open.refused {
            Some(refusal) => Outcome::Failed(format!("{}: {refusal}", reason::POLICY_CHANGE)),
            None => Outcome::Complete,
        };
        let ends = (key.source, key.destination);
        self.log.finished(&record(open.labels, ends, (sent, received), duration), &outcome);
    }

    fn open(&self, labels: Arc<ConnectionLabels>, direction: Direction, probe: bool) -> Open {
        self.counters.capture_passed(direction, 1);
        if probe {
            self.counters.capture_probe.inc();
        }
        let meter = self.traffic.open(&labels);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Open { id, direction, probe, since: Instant::now(), meter, labels, refused: None }
    }

    /// Handles a refusal by the kernel, which does not report the policy: the decision is repeated here to name it.
    fn refused(&self, pod: u32, source: SocketAddr, destination: SocketAddr) {
        self.counters.capture_refused.inc();
        let labels = self.labels(pod, Direction::Inbound, source, destination);
        self.traffic.failed(&labels, ResponseFlag::Deny);
        let mesh = self.store.snapshot();
        let facts = Facts::plaintext(source, destination);
        let judged = labels.destination.as_ref().map(|w| authorize::authorize(&Applying::to(&mesh, w), &facts));
        if matches!(judged, Some(Err(Refusal::Bypassed(_)))) {
            self.counters.bypassed_waypoint.inc();
        }
        let why = match judged {
            Some(Err(refusal)) => reason::rejected(refusal),
            // The policy has changed since, or the workload is gone: it was refused all the same.
            Some(Ok(_)) | None => reason::POLICY_CHANGE.to_owned(),
        };
        debug!("the kernel refused {source} -> {destination}: {why}");
        self.log.finished(&record(labels, (source, destination), (0, 0), Duration::ZERO), &Outcome::Failed(why));
    }

    fn labels(
        &self,
        pod: u32,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Arc<ConnectionLabels> {
        let mesh = self.store.snapshot();
        let ours = self.known.lock().pods.get(&pod).and_then(Weak::upgrade).map(|pod| pod.workload(&self.store));
        let network = ours.as_ref().map(|w| w.network.clone()).unwrap_or_default();
        let other =
            |address: SocketAddr| -> Option<Arc<Workload>> { mesh.workload_at(&network, address.ip()).cloned() };
        let mut labels = ConnectionLabels::new(direction);
        match direction {
            Direction::Inbound => (labels.source, labels.destination) = (other(source), ours),
            Direction::Outbound => (labels.source, labels.destination) = (ours, other(destination)),
        }
        Arc::new(labels)
    }
}

fn record(
    labels: Arc<ConnectionLabels>,
    (source, destination): (SocketAddr, SocketAddr),
    (bytes_sent, bytes_received): (u64, u64),
    duration: Duration,
) -> AccessRecord {
    AccessRecord { labels, source, destination, hbone: None, bytes_sent, bytes_received, duration }
}

#[cfg(test)]
mod tests {
    use super::{MOST_OPEN, has_room};

    #[test]
    fn one_pod_has_at_most_half_of_what_the_others_leave() {
        assert!(has_room(0, 0) && has_room(MOST_OPEN / 2 - 1, MOST_OPEN / 2 - 1));
        assert!(!has_room(MOST_OPEN / 2, MOST_OPEN / 2));
        // Of two pods that want everything, the second gets a quarter.
        assert!(has_room(MOST_OPEN / 2, 0) && !has_room(MOST_OPEN / 4 * 3, MOST_OPEN / 4));
        assert!(!has_room(MOST_OPEN, 0));
    }
}
