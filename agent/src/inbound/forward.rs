//! The last step inwards: dials the application on behalf of an admitted connection and copies.

use std::net::SocketAddr;
use std::time::Duration;

use mesh::connections::Tracked;
use mesh::model::connection::ResponseFlag;
use mesh::net::connect;
use mesh::net::duplex::Duplex;
use mesh::net::socket::{self, Liveness};
use mesh::net::tcp::Tcp;
use mesh::policy::authorize::Permit;

use crate::capture;
use crate::carry;
use crate::failure::Failure;
use crate::node::Node;
use crate::pod::Pod;
use crate::record::Record;

/// How long the application may take to accept: it is on this node.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to the application at `to`, with the address of the client. It takes the permit so that nothing can reach an
/// application without having been judged.
pub(crate) async fn dial(
    node: &Node,
    pod: &Pod,
    client: SocketAddr,
    to: SocketAddr,
    _permit: &Permit,
) -> Result<Tcp, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::upstream(ResponseFlag::Connect, format!("the application at {to}: {error}"))
    };
    let own = &pod.workload(&node.store).addresses;
    let socket = capture::app_socket(&pod.netns, client.ip(), to, own).map_err(|error| failed(&error))?;
    let stream = connect::connect(socket, to, PATIENCE).await.map_err(|error| failed(&error))?;
    socket::tune(&stream, &Liveness::default()).map_err(|error| failed(&error))?;
    Ok(Tcp::new(stream))
}

/// Copies between the application and whoever called it, until both are done, one breaks, or the connection is to end.
pub(crate) async fn carry<D: Duplex>(
    node: &Node,
    application: &mut Tcp,
    caller: &mut D,
    tracked: &Tracked,
    record: &mut Record,
) -> Result<(), Failure> {
    let meter = tracked.open().count_by(node.traffic.open(&record.labels));
    record.opened(node);
    let outcome = carry::copy(node, application, caller, tracked, meter).await;
    record.bytes = tracked.open().bytes();
    outcome
}
