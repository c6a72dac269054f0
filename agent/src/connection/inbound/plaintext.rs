//! One plaintext connection that the kernel could not decide alone: authorized, then forwarded.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::connections::Entry;
use mesh::model::connection::{Direction, Facts};
use process::telemetry::labels::ConnectionLabels;
use tokio::net::TcpStream;
use transport::net::duplex::Duplex;
use transport::net::socket::{self, Liveness};
use transport::net::tcp::Tcp;

use super::forward;
use super::target;
use crate::connection::carry;
use crate::connection::failure::Failure;
use crate::connection::record::Record;
use crate::node::Node;
use crate::pod::workload::{Pod, SocketLease};

/// Carries one plaintext connection of `peer` to `original_dst`, an address of `pod`, and writes the access log.
pub(crate) async fn carry(
    node: Arc<Node>,
    pod: SocketLease,
    stream: TcpStream,
    peer: SocketAddr,
    original_dst: SocketAddr,
) {
    let workload = pod.workload(&node.store);
    let mut labels = ConnectionLabels::new(Direction::Inbound);
    labels.source = node.store.snapshot().workload_at(&workload.network, peer.ip()).cloned();
    labels.destination = Some(workload);
    let mut record = Record::new(labels, peer, original_dst);
    let mut caller = Tcp::new(stream);
    let outcome = try_carry(&node, &pod, &mut caller, &mut record).await;
    if outcome.is_err() {
        caller.reset();
    }
    record.finish(&node, outcome);
}

async fn try_carry(node: &Arc<Node>, pod: &Arc<Pod>, caller: &mut Tcp, record: &mut Record) -> Result<(), Failure> {
    let (source, destination) = (record.source, record.destination);
    let workload = pod.workload(&node.store);
    target::reachable(&workload, destination)?;
    let entry =
        Entry { workload, facts: Facts::plaintext(source, destination), hop: None, labels: record.labels.clone() };
    let (tracked, permit) = node.connections.admit(entry, || node.store.snapshot())?;
    let mut application = Box::pin(forward::dial(node, pod, source, destination, &permit)).await?;
    socket::tune(caller.stream(), &Liveness::default())
        .map_err(|error| Failure::broken(mesh::model::connection::Fault::Client, format!("downstream: {error}")))?;
    let meter = tracked.open().count_by(node.traffic.open(&record.labels));
    record.opened(node);
    let outcome = Box::pin(carry::splice(node, &mut application, caller, &tracked, meter)).await;
    record.bytes = tracked.open().bytes();
    outcome
}
