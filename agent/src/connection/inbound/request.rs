//! One CONNECT, from head to access log.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::connections::{Entry, Tracked};
use http::StatusCode;
use mesh::model::connection::{Direction, Facts, Fault, OnBehalfOf, ResponseFlag};
use mesh::model::identity::Identity;
use mesh::model::service::ServiceKey;
use mesh::model::workload::Workload;
use mesh::policy::authorize::Refusal;
use mesh::policy::coverage::WaypointCoverage;
use mesh::state::snapshot::Snapshot;
use process::telemetry::access_log::HboneAddress;
use process::telemetry::labels::ConnectionLabels;
use transport::hbone::{Authority, Baggage, ConnectHead, Request, Stream};
use transport::net::tcp::Tcp;

use super::{forward, target};
use crate::connection::carry;
use crate::connection::failure::Failure;
use crate::connection::record::Record;
use crate::node::Node;
use crate::pod::workload::{Pod, SocketLease};

/// The client end of a tunnel.
pub(crate) struct From {
    /// Address of the peer: that of the calling workload, since agents dial from its namespace.
    pub(crate) peer: SocketAddr,
    /// The dialled address: the workload's, port 15008.
    pub(crate) dialled: SocketAddr,
    /// The peer's authenticated identity.
    pub(crate) identity: Identity,
}

/// Carries one CONNECT and writes the access log.
pub(crate) fn carry(
    node: Arc<Node>,
    pod: SocketLease,
    request: Request,
    from: From,
) -> impl Future<Output = ()> + Send {
    // Boxed, so that the state of opening is freed before the first byte is copied.
    let opening = Box::pin(open(node, pod, request, from));
    async move {
        let opened = opening.await;
        if let Some(opened) = opened {
            opened.carry().await;
        }
    }
}

/// An accepted CONNECT.
struct Opened {
    node: Arc<Node>,
    stream: Stream,
    application: Tcp,
    tracked: Tracked,
    record: Record,
    /// Keeps the pod and its socket lease.
    _pod: SocketLease,
}

async fn open(node: Arc<Node>, pod: SocketLease, request: Request, from: From) -> Option<Box<Opened>> {
    let workload = pod.workload(&node.store);
    let mut labels = ConnectionLabels::new(Direction::Inbound);
    labels.source = source_of(&node.store.snapshot(), &workload, &from);
    labels.source_identity = Some(from.identity.clone());
    labels.destination = Some(workload);
    labels.destination_identity = Some(pod.identity.clone());
    labels.mutual_tls = true;
    let mut record = Record::new(labels, from.peer, from.dialled);
    match admit(&node, &pod, request, from, &mut record).await {
        Ok((stream, application, tracked)) => {
            Some(Box::new(Opened { node, stream, application, tracked, record, _pod: pod }))
        }
        Err(failure) => {
            record.finish(&node, Err(failure));
            None
        }
    }
}

impl Opened {
    async fn carry(mut self: Box<Self>) {
        let Self { node, stream, application, tracked, record, .. } = &mut *self;
        let meter = tracked.open().count_by(node.traffic.open(&record.labels));
        record.opened(node);
        let outcome = carry::copy(node, application, stream, tracked, meter).await;
        self.record.bytes = self.tracked.open().bytes();
        self.record.finish(&self.node, outcome);
    }
}

/// Authorizes a CONNECT, dials the application and responds; 200 only when the application has accepted.
async fn admit(
    node: &Arc<Node>,
    pod: &Arc<Pod>,
    mut request: Request,
    from: From,
    record: &mut Record,
) -> Result<(Stream, Tcp, Tracked), Failure> {
    let head = match request.head() {
        Ok(head) => head.clone(),
        Err(error) => {
            let text = error.to_string();
            node.counters.refusals.peer_refused("connect_head");
            request.refuse(StatusCode::BAD_REQUEST);
            return Err(Failure { fault: Fault::Client, flag: ResponseFlag::Connect, text });
        }
    };
    let dialled = tokio::select! {
        dialled = dial(node, pod, &head, from, record) => dialled,
        () = request.cancelled() => {
            return Err(Failure { fault: Fault::Client, flag: ResponseFlag::Connect, text: "the peer gave up".to_owned() });
        }
    };
    match dialled {
        Ok((application, tracked)) => {
            let labels = Baggage::of(&pod.workload(&node.store));
            let stream = request
                .accept(Some(&labels))
                .map_err(|error| Failure::broken(Fault::Client, format!("answering the CONNECT: {error}")))?;
            Ok((stream, application, tracked))
        }
        Err(failure) => {
            request.refuse(failure.status());
            Err(failure)
        }
    }
}

async fn dial(
    node: &Arc<Node>,
    pod: &Arc<Pod>,
    head: &ConnectHead,
    from: From,
    record: &mut Record,
) -> Result<(Tcp, Tracked), Failure> {
    let workload = pod.workload(&node.store);
    record.hbone = Some(match &head.authority {
        Authority::Address(address) => HboneAddress::Address(*address),
        Authority::Host(host, port) => HboneAddress::Name(format!("{host}:{port}").into()),
    });
    let mesh = node.store.snapshot();
    let target = target::find(&mesh, &workload, from.dialled, &head.authority)?;
    record.labels().service = target.service.or_else(|| service_of(&mesh, &workload, head));
    let said = head.on_behalf_of.clone().map(|identity| {
        Box::new(OnBehalfOf { identity, source: head.forwarded.as_ref().map(|forwarded| forwarded.source) })
    });
    let facts = Facts {
        source: from.peer,
        source_identity: Some(from.identity),
        destination: target.address,
        on_behalf_of: said,
    };
    let client = name_the_client(&mesh, &workload, &facts, record);
    drop(mesh);
    let entry = Entry { workload, facts, hop: Some(from.dialled), labels: Arc::clone(&record.labels) };
    enter(node, pod, entry, client).await
}

/// Authorizes the connection of an authenticated caller, and dials the application from the address of `client`.
pub(super) async fn enter(
    node: &Arc<Node>,
    pod: &Arc<Pod>,
    entry: Entry,
    client: SocketAddr,
) -> Result<(Tcp, Tracked), Failure> {
    let to = entry.facts.destination;
    let admitted = node.connections.admit(entry, || node.store.snapshot());
    match &admitted {
        Err(Refusal::Bypassed(_)) => _ = node.counters.bypassed_waypoint.inc(),
        Err(Refusal::OneOfTwo { refused, .. }) => node.counters.named_client_refused(refused.as_str()),
        Ok(_) | Err(_) => {}
    }
    let (tracked, permit) = admitted?;
    let application = forward::dial(node, pod, client, to, &permit).await?;
    Ok((application, tracked))
}

/// Behind a waypoint, log and metrics name the client on whose behalf it calls. Returns the address to dial the
/// application from.
fn name_the_client(mesh: &Snapshot, workload: &Workload, facts: &Facts, record: &mut Record) -> SocketAddr {
    if facts.on_behalf_of.is_none() {
        return facts.source;
    }
    let coverage = WaypointCoverage::of(mesh, workload);
    let client = coverage.effective_client(facts);
    let (Some(identity), Some(via)) = (client.identity, client.via) else { return facts.source };
    let known = client.source.and_then(|source| mesh.workload_at(&workload.network, source.ip()));
    record.labels().source = known.filter(|found| found.identity() == *identity).cloned();
    record.labels().source_identity = Some(identity.clone());
    record.labels().via = Some(via.clone());
    record.source = client.source.unwrap_or(facts.source);
    record.source
}

/// The calling workload, for log and metrics: only if the workload known at its address matches its identity. Behind a
/// waypoint or a gateway the address is another workload's.
fn source_of(mesh: &Snapshot, workload: &Workload, from: &From) -> Option<Arc<Workload>> {
    let found = mesh.workload_at(&workload.network, from.peer.ip())?;
    (found.identity() == from.identity).then(|| Arc::clone(found))
}

/// The service that the peer says was called: only a label, and only a service that this workload serves.
fn service_of(mesh: &Snapshot, workload: &Workload, head: &ConnectHead) -> Option<ServiceKey> {
    let host = head.forwarded.as_ref()?.host.as_ref()?;
    let entry = mesh.service_named(host, &workload.namespace)?;
    workload.services.iter().find(|s| s.service == entry.service.key).map(|s| s.service.clone())
}
