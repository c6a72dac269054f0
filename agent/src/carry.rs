//! Carries the bytes of one connection, either direction, until it ends or is to end.

use mesh::connections::Tracked;
use mesh::model::connection::Fault;
use mesh::net::copy::{self, CopyError, Count};
use mesh::net::duplex::Duplex;
use mesh::net::splice;
use mesh::net::tcp::Tcp;

use crate::failure::Failure;
use crate::node::Node;

/// Copies until both ends are done, one breaks, or the connection is to end.
pub(crate) async fn copy<D: Duplex>(
    node: &Node,
    workload: &mut Tcp,
    other: &mut D,
    tracked: &Tracked,
    meter: &impl Count,
) -> Result<(), Failure> {
    let outcome = tokio::select! {
        copied = copy::both_ways(workload, other, meter, &node.timeouts) => copied.map_err(broken),
        closing = tracked.closed() => Err(closing.into()),
    };
    if outcome.is_err() {
        workload.reset();
        other.reset();
    }
    outcome
}

/// As [`copy()`], between two sockets: streams stay inside the kernel.
pub(crate) async fn splice(
    node: &Node,
    workload: &mut Tcp,
    other: &mut Tcp,
    tracked: &Tracked,
    meter: &impl Count,
) -> Result<(), Failure> {
    let outcome = tokio::select! {
        copied = splice::both_ways(workload, other, meter, &node.timeouts) => copied.map_err(broken),
        closing = tracked.closed() => Err(closing.into()),
    };
    if outcome.is_err() {
        workload.reset();
        other.reset();
    }
    outcome
}

fn broken(error: CopyError) -> Failure {
    Failure::broken(Fault::Upstream, error.to_string())
}
