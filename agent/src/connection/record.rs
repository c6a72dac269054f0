//! The record of one connection: exactly one access log line and one count when it is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mesh::model::connection::ResponseFlag;
use process::telemetry::access_log::{AccessRecord, HboneAddress, Outcome};
use process::telemetry::labels::ConnectionLabels;

use crate::connection::failure::Failure;
use crate::node::Node;

/// What is known about a connection so far.
pub(crate) struct Record {
    /// The two workloads.
    pub(crate) labels: Arc<ConnectionLabels>,
    /// The client's socket address.
    pub(crate) source: SocketAddr,
    /// The destination: first the original one, then the one that was dialled.
    pub(crate) destination: SocketAddr,
    /// The authority of the CONNECT.
    pub(crate) hbone: Option<HboneAddress>,
    /// Bytes that the workload sent and received.
    pub(crate) bytes: (u64, u64),
    started: Instant,
}

impl Record {
    /// A connection that was just accepted.
    pub(crate) fn new(labels: ConnectionLabels, source: SocketAddr, destination: SocketAddr) -> Self {
        Self { labels: Arc::new(labels), source, destination, hbone: None, bytes: (0, 0), started: Instant::now() }
    }

    /// The labels, to be completed. Copies nothing until the connection is listed.
    pub(crate) fn labels(&mut self) -> &mut ConnectionLabels {
        Arc::make_mut(&mut self.labels)
    }

    /// Logs that bytes begin to flow (debug level).
    pub(crate) fn opened(&self, node: &Node) {
        if tracing::enabled!(target: "access", tracing::Level::DEBUG) {
            node.log.opened(&self.line());
        }
    }

    /// Writes the access log and counts the connection.
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
