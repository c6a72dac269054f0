//! What is said of one connection when it is over: exactly one line, exactly one count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mesh::model::connection::ResponseFlag;
use process::telemetry::access_log::{AccessRecord, HboneAddress, Outcome};
use process::telemetry::labels::ConnectionLabels;

use crate::connection::failure::Failure;
use crate::node::Node;

/// What is known of a connection so far.
pub(crate) struct Record {
    /// Who takes part.
    pub(crate) labels: Arc<ConnectionLabels>,
    /// Who connected.
    pub(crate) source: SocketAddr,
    /// The destination: first the original one, then the one that was dialled.
    pub(crate) destination: SocketAddr,
    /// What the tunnel was asked for.
    pub(crate) hbone: Option<HboneAddress>,
    /// Bytes that the workload sent and received.
    pub(crate) bytes: (u64, u64),
    started: Instant,
}

impl Record {
    /// A connection that has just come.
    pub(crate) fn new(labels: ConnectionLabels, source: SocketAddr, destination: SocketAddr) -> Self {
        Self { labels: Arc::new(labels), source, destination, hbone: None, bytes: (0, 0), started: Instant::now() }
    }

    /// Who takes part, to be told what was learned. Free of cost until the connection is listed.
    pub(crate) fn labels(&mut self) -> &mut ConnectionLabels {
        Arc::make_mut(&mut self.labels)
    }

    /// Says that it begins to carry bytes (debug only).
    pub(crate) fn opened(&self, node: &Node) {
        if tracing::enabled!(target: "access", tracing::Level::DEBUG) {
            node.log.opened(&self.line());
        }
    }

    /// Says how it ended.
    pub(crate) fn finish(&self, node: &Node, outcome: Result<(), Failure>) {
        let outcome = match outcome {
            Ok(()) => Outcome::Complete,
            Err(failure) => {
                if failure.flag != ResponseFlag::None {
                    node.traffic.failed(&self.labels, failure.flag);
                }
                Outcome::Failed(failure.text)
            }
        };
        node.log.finished(&self.line(), &outcome);
    }

    fn line(&self) -> AccessRecord {
        AccessRecord {
            labels: Arc::clone(&self.labels),
            source: self.source,
            destination: self.destination,
            hbone: self.hbone.clone(),
            bytes_sent: self.bytes.0,
            bytes_received: self.bytes.1,
            duration: self.started.elapsed(),
        }
    }
}
