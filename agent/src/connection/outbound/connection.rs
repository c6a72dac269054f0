//! One outbound connection, from accept to access log.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::connections::{Entry, Tracked};
use mesh::model::connection::{Direction, Facts, Fault, ResponseFlag};
use mesh::model::service::ServiceKey;
use mesh::state::endpoints::Busy;
use process::telemetry::labels::ConnectionLabels;
use tokio::net::TcpStream;
use transport::net::connect;
use transport::net::duplex::Duplex;
use transport::net::socket::{self, Liveness};
use transport::net::tcp::Tcp;

use super::dial::{self, Dialled, Stream};
use super::next_hop;
use crate::connection::carry;
use crate::connection::failure::Failure;
use crate::connection::record::Record;
use crate::node::Node;
use crate::pod::workload::{Pod, SocketLease};

/// Carries one connection of `pod` to `original_dst` and writes the access log.
pub(crate) fn carry(
    node: Arc<Node>,
    pod: SocketLease,
    stream: TcpStream,
    peer: SocketAddr,
    original_dst: SocketAddr,
) -> impl Future<Output = ()> + Send {
    // Boxed, so that the state of opening is freed before the first byte is copied.
    let opening = Box::pin(open(node, pod, stream, peer, original_dst));
    async move {
        let opened = opening.await;
        if let Some(opened) = opened {
            opened.carry().await;
        }
    }
}

/// A connection with an open upstream.
struct Opened {
    node: Arc<Node>,
    downstream: Tcp,
    upstream: Stream,
    tracked: Tracked,
    record: Record,
    /// Keeps the pod and its socket lease.
    _pod: SocketLease,
    _busy: Option<Busy>,
}

async fn open(
    node: Arc<Node>,
    mut pod: SocketLease,
    stream: TcpStream,
    peer: SocketAddr,
    original_dst: SocketAddr,
) -> Option<Box<Opened>> {
    let mut labels = ConnectionLabels::new(Direction::Outbound);
    labels.source = Some(pod.workload(&node.store));
    let mut record = Record::new(labels, peer, original_dst);
    let mut downstream = Tcp::new(stream).within(pod.quota.buffers());
    let dialled = resolve_and_dial(&node, &pod, &mut record).await.and_then(|dialled| {
        let tuned = socket::tune(downstream.stream(), &Liveness::default());
        tuned.map_err(|error| Failure::broken(Fault::Client, format!("downstream: {error}")))?;
        Ok(dialled)
    });
    let dialled = match dialled {
        Ok(dialled) => dialled,
        Err(failure) => {
            // The application's connect has succeeded already: only a reset can report the failure.
            downstream.reset();
            record.finish(&node, Err(failure));
            return None;
        }
    };
    let facts = Facts::plaintext(record.source, record.destination);
    let workload = record.labels.source.clone().unwrap_or_else(|| pod.workload(&node.store));
    let entry = Entry { workload, facts, hop: Some(dialled.address), labels: Arc::clone(&record.labels) };
    let tracked = node.connections.track(entry);
    record.destination = dialled.address;
    let (upstream, _busy) = (dialled.stream, dialled.busy);
    if let Stream::Plain(_) = upstream {
        pod.extend(1);
    }
    Some(Box::new(Opened { node, downstream, upstream, tracked, record, _pod: pod, _busy }))
}

impl Opened {
    async fn carry(mut self: Box<Self>) {
        let Self { node, downstream, upstream, tracked, record, .. } = &mut *self;
        let meter = tracked.open().count_by(node.traffic.open(&record.labels));
        record.opened(node);
        // Only the tunnel path is inline; the rarer ones are boxed to keep the future small.
        let outcome = match upstream {
            Stream::Tunnel(upstream) => carry::copy(node, downstream, upstream, tracked, meter).await,
            Stream::Plain(upstream) => Box::pin(carry::splice(node, downstream, upstream, tracked, meter)).await,
            Stream::Direct(there) => Box::pin(there.carry(node, downstream, tracked, meter)).await,
        };
        self.record.bytes = self.tracked.open().bytes();
        self.record.finish(&self.node, outcome);
    }
}

/// Resolves the original destination and dials it; the record is completed on the way, even when nothing answers.
async fn resolve_and_dial(node: &Arc<Node>, pod: &Arc<Pod>, record: &mut Record) -> Result<Dialled, Failure> {
    let source = record.labels.source.clone().ok_or_else(|| Failure {
        fault: Fault::ControlPlane,
        flag: ResponseFlag::Connect,
        text: format!("unknown source: {}", pod.uid),
    })?;
    // Decided on one snapshot, which is dropped before the first await.
    let mesh = node.store.snapshot();
    let destination = next_hop::resolve(&mesh, &source, record.destination)?;
    drop(mesh);
    record.labels().service = service_of(&destination);
    let Some(_permit) = pod.quota.dial_permit(connect::TIMEOUT).await else {
        let text = format!("too many connections of {} are being dialled", pod.uid);
        node.counters.refusals.limit_refused("pod_dials");
        return Err(Failure { fault: Fault::Client, flag: ResponseFlag::Connect, text });
    };
    let dialled = dial::dial(node, pod, &source, destination, record).await?;
    record.labels().destination_identity = dialled.peer.clone();
    Ok(dialled)
}

fn service_of(destination: &next_hop::Destination) -> Option<ServiceKey> {
    match destination {
        next_hop::Destination::Service(entry, _) => Some(entry.service.key.clone()),
        next_hop::Destination::Waypoint(to) => to.service.clone(),
        next_hop::Destination::Outside(_) | next_hop::Destination::Workload(..) => None,
    }
}
