//! One outbound connection, from accept to access log.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh::connections::Entry;
use mesh::model::connection::{Direction, Facts, Fault, ResponseFlag};
use mesh::model::service::ServiceKey;
use mesh::net::duplex::Duplex;
use mesh::net::socket::{self, Liveness};
use mesh::net::tcp::Tcp;
use mesh::telemetry::labels::ConnectionLabels;
use tokio::net::TcpStream;

use super::dial::{self, Dialled, Stream};
use super::next_hop;
use crate::carry;
use crate::failure::Failure;
use crate::node::Node;
use crate::pod::Pod;
use crate::record::Record;

/// Carries one connection that `pod` made to `meant`, and says once how it went.
pub(crate) async fn carry(node: Arc<Node>, pod: Arc<Pod>, stream: TcpStream, peer: SocketAddr, meant: SocketAddr) {
    let source = pod.workload(&node.store);
    let mut labels = ConnectionLabels::new(Direction::Outbound);
    labels.source = Some(source);
    let mut record = Record::new(labels, peer, meant);
    let outcome = try_carry(&node, &pod, stream, &mut record).await;
    record.finish(&node, outcome);
}

async fn try_carry(node: &Arc<Node>, pod: &Arc<Pod>, stream: TcpStream, record: &mut Record) -> Result<(), Failure> {
    let mut downstream = Tcp::new(stream);
    let dialled = match Box::pin(dial_meant(node, pod, record)).await {
        Ok(dialled) => dialled,
        Err(failure) => {
            // The application's connect has succeeded already: a reset is the only way to say that it did not.
            downstream.reset();
            return Err(failure);
        }
    };
    let facts = Facts::plaintext(record.source, record.destination);
    let workload = record.labels.source.clone().unwrap_or_else(|| pod.workload(&node.store));
    let entry = Entry { workload, facts, hop: Some(dialled.address), labels: record.labels.clone() };
    let tracked = node.connections.track(entry);
    let meter = tracked.open().count_by(node.traffic.open(&record.labels));
    record.destination = dialled.address;
    record.opened(node);
    if let Err(error) = socket::tune(downstream.stream(), &Liveness::default()) {
        downstream.reset();
        return Err(Failure::broken(Fault::Client, format!("downstream: {error}")));
    }
    let _busy = dialled.busy;
    let outcome = match dialled.stream {
        Stream::Plain(mut upstream) => carry::copy(node, &mut downstream, &mut upstream, &tracked, meter).await,
        Stream::Tunnel(mut upstream) => carry::copy(node, &mut downstream, &mut upstream, &tracked, meter).await,
        Stream::Direct(there) => there.carry(node, &mut downstream, &tracked, meter).await,
    };
    record.bytes = tracked.open().bytes();
    outcome
}

/// Finds out what was meant and dials it; the record learns what was found on the way, also when nothing answers.
async fn dial_meant(node: &Arc<Node>, pod: &Arc<Pod>, record: &mut Record) -> Result<Dialled, Failure> {
    let source = record.labels.source.clone().ok_or_else(|| Failure {
        fault: Fault::ControlPlane,
        flag: ResponseFlag::Connect,
        text: format!("unknown source: {}", pod.uid),
    })?;
    // Decided on one snapshot, which is let go before anything is waited for.
    let mesh = node.store.snapshot();
    let destination = next_hop::resolve(&mesh, &source, record.destination)?;
    drop(mesh);
    record.labels.service = service_of(&destination);
    let dialled = dial::dial(node, pod, &source, destination, record).await?;
    record.labels.destination_identity = dialled.peer.clone();
    Ok(dialled)
}

fn service_of(destination: &next_hop::Destination) -> Option<ServiceKey> {
    match destination {
        next_hop::Destination::Service(entry, _) => Some(entry.service.key.clone()),
        next_hop::Destination::Waypoint(to) => to.service.clone(),
        next_hop::Destination::Outside(_) | next_hop::Destination::Workload(..) => None,
    }
}
