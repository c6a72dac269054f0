//! The last step inwards: dials the application on behalf of an admitted connection and copies.

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
    Ok(Tcp::new(stream).within(pod.quota.buffers()))
}
