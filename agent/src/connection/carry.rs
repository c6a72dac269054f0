//! Copies the bytes of one connection until it ends or is closed.

use crate::connections::{Closing, Tracked};
use mesh::model::connection::{Direction, Fault};
use transport::net::copy::{self, CopyError, Count};
use transport::net::duplex::Duplex;
use transport::net::splice;
use transport::net::tcp::Tcp;

use crate::connection::failure::Failure;
use crate::node::Node;

/// Copies until both directions have ended, one end fails, or the connection is closed.
pub(crate) async fn copy<D: Duplex>(
    node: &Node,
    workload: &mut Tcp,
    other: &mut D,
    tracked: &Tracked,
    meter: &impl Count,
) -> Result<(), Failure> {
    let outcome = tokio::select! {
        copied = copy::both_ways(workload, other, meter, &node.timeouts) => Ok(copied),
        closing = tracked.closed() => Err(closing),
    };
    end(outcome, workload, other, tracked)
}

/// Like [`copy()`], between two sockets: bulk stays inside the kernel.
pub(crate) async fn splice(
    node: &Node,
    workload: &mut Tcp,
    other: &mut Tcp,
    tracked: &Tracked,
    meter: &impl Count,
) -> Result<(), Failure> {
    let outcome = tokio::select! {
        copied = splice::both_ways(workload, other, meter, &node.timeouts) => Ok(copied),
        closing = tracked.closed() => Err(closing),
    };
    end(outcome, workload, other, tracked)
}

/// A copy that has ended has reset its ends where necessary; one that was interrupted has not.
fn end(
    outcome: Result<Result<(), CopyError>, Closing>,
    workload: &mut Tcp,
    other: &mut impl Duplex,
    tracked: &Tracked,
) -> Result<(), Failure> {
    match outcome {
        Ok(copied) => copied.map_err(|error| broken(tracked.open().labels.direction, error)),
        Err(closing) => {
            workload.reset();
            other.reset();
            Err(closing.into())
        }
    }
}

/// The failure of a copy. Downstream is the side that connected and upstream the side that was connected to: the
/// workload is downstream when it calls, upstream when it is called.
fn broken(direction: Direction, error: CopyError) -> Failure {
    let error = match direction {
        Direction::Outbound => error,
        Direction::Inbound => error.reversed(),
    };
    Failure::broken(Fault::Upstream, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use transport::net::copy::End;

    use super::*;

    #[test]
    fn downstream_is_who_has_connected_whichever_side_tells_it() {
        for (direction, end, text) in [
            (Direction::Outbound, End::First, "downstream: connection reset"),
            (Direction::Outbound, End::Second, "upstream: connection reset"),
            (Direction::Inbound, End::First, "upstream: connection reset"),
            (Direction::Inbound, End::Second, "downstream: connection reset"),
        ] {
            let error = CopyError::Broken { end, error: ErrorKind::ConnectionReset.into() };
            assert_eq!(broken(direction, error).text, text);
        }
        assert_eq!(broken(Direction::Inbound, CopyError::Idle).text, "idle timeout");
    }
}
