//! The last inbound step: dials the application for an admitted connection.

use std::net::SocketAddr;
use std::time::Duration;

use mesh::model::connection::ResponseFlag;
use mesh::policy::authorize::Permit;
use transport::net::connect;
use transport::net::socket::{self, Liveness};
use transport::net::tcp::Tcp;

use crate::capture;
use crate::connection::failure::Failure;
use crate::node::Node;
use crate::pod::workload::Pod;

/// Connect timeout to the application, which is on this node.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to the application at `to` from the client's address. Takes the permit, so that no connection reaches an
/// application without authorization.
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
    Ok(Tcp::new(stream).within(pod.quota.buffers()))
}
