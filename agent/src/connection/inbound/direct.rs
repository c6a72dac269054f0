//! One connection from another captured workload of this node: authorized, counted and logged like any other, without a
//! tunnel.
//!
//! The caller's identity was established when its pod was captured: the connection comes out of the network namespace
//! that its manifest names. So there is nothing to authenticate, and one process would decrypt what it has encrypted
//! itself.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::connections::{Entry, Tracked};
use http::StatusCode;
use mesh::model::connection::{Direction, Facts, ResponseFlag};
use mesh::model::identity::Identity;
use mesh::model::service::ServiceKey;
use mesh::model::workload::Workload;
use process::telemetry::labels::ConnectionLabels;
use process::telemetry::traffic::ConnectionMeter;
use transport::net::copy::Count;
use transport::net::duplex::Duplex;
use transport::net::tcp::Tcp;

use super::{request, target};
use crate::connection::carry;
use crate::connection::failure::Failure;
use crate::connection::record::Record;
use crate::node::Node;
use crate::pod::workload::{Pod, SocketLease};

/// The calling side.
pub(crate) struct Caller {
    /// The calling workload.
    pub(crate) workload: Arc<Workload>,
    /// Its identity.
    pub(crate) identity: Identity,
    /// Socket address of the calling application.
    pub(crate) address: SocketAddr,
    /// The service that it called, if any.
    pub(crate) service: Option<ServiceKey>,
}

/// An authorized connection that the application has accepted.
pub(crate) struct Entered {
    application: Tcp,
    tracked: Tracked,
    record: Record,
    /// Keeps the pod and its socket lease.
    _pod: SocketLease,
}

/// Authorizes a connection to `to`, an address of `pod`, and dials the application. A refusal is logged and counted
/// here; the calling side learns the status, as it would through a tunnel.
pub(crate) async fn enter(
    node: &Arc<Node>,
    pod: Arc<Pod>,
    caller: Caller,
    to: SocketAddr,
) -> Result<Entered, StatusCode> {
    let workload = pod.workload(&node.store);
    let mut labels = ConnectionLabels::new(Direction::Inbound);
    labels.source = Some(caller.workload);
    labels.source_identity = Some(caller.identity.clone());
    labels.destination = Some(Arc::clone(&workload));
    labels.destination_identity = Some(pod.identity.clone());
    labels.service = caller.service.filter(|key| workload.services.iter().any(|s| s.service == *key));
    let record = Record::new(labels, caller.address, to);
    let facts =
        Facts { source: caller.address, source_identity: Some(caller.identity), destination: to, on_behalf_of: None };
    let lease = pod.lease(1).map_err(|full| {
        node.refused(&pod, full);
        Failure::upstream(ResponseFlag::Connect, full.to_string())
    });
    let judged = match lease {
        Ok(lease) => judge(node, &pod, Entry { workload, facts, hop: None, labels: Arc::clone(&record.labels) })
            .await
            .map(|judged| (judged, lease)),
        Err(failure) => Err(failure),
    };
    match judged {
        Ok(((application, tracked), lease)) => Ok(Entered { application, tracked, record, _pod: lease }),
        Err(failure) => {
            let status = failure.status();
            record.finish(node, Err(failure));
            Err(status)
        }
    }
}

async fn judge(node: &Arc<Node>, pod: &Arc<Pod>, entry: Entry) -> Result<(Tcp, Tracked), Failure> {
    target::reachable(&entry.workload, entry.facts.destination)?;
    let client = entry.facts.source;
    request::enter(node, pod, entry, client).await
}

impl Entered {
    /// Copies between the caller and the application, and writes this side's access log. `caller_tracked` and
    /// `caller_meter` are the calling side of the same bytes.
    pub(crate) async fn carry(
        &mut self,
        node: &Node,
        caller: &mut Tcp,
        caller_tracked: &Tracked,
        caller_meter: &ConnectionMeter,
    ) -> Result<(), Failure> {
        let Self { application, tracked, record, .. } = self;
        let meter = tracked.open().count_by(node.traffic.open(&record.labels));
        record.opened(node);
        let both = BothSides { caller: caller_meter, called: meter };
        let outcome = tokio::select! {
            outcome = carry::splice(node, caller, application, caller_tracked, &both) => outcome,
            closing = tracked.closed() => Err(closing.into()),
        };
        if outcome.is_err() {
            caller.reset();
            application.reset();
        }
        record.bytes = tracked.open().bytes();
        record.finish(node, outcome.clone());
        outcome
    }
}

/// Counts for both workloads: what one sends the other receives.
struct BothSides<'a> {
    caller: &'a ConnectionMeter,
    called: &'a ConnectionMeter,
}

impl Count for BothSides<'_> {
    fn sent(&self, bytes: u64) {
        self.caller.sent(bytes);
        self.called.received(bytes);
    }

    fn received(&self, bytes: u64) {
        self.caller.received(bytes);
        self.called.sent(bytes);
    }

    fn sum(&self) -> u64 {
        self.caller.sum()
    }
}
