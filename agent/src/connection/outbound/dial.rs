//! Dials a destination, plain TCP or a tunnel, trying endpoints until one answers.
//!
//! No application byte is read before that, so retries lose and repeat nothing.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{self, Request};
use mesh::model::connection::{Fault, ResponseFlag};
use mesh::model::identity::Identity;
use mesh::model::name::{Hostname, WorkloadUid};
use mesh::model::service::LoadBalancing;
use mesh::model::workload::Workload;
use mesh::policy::instances::Instances;
use mesh::state::endpoints::{Busy, Endpoint};
use mesh::state::snapshot::ServiceEntry;
use process::telemetry::access_log::HboneAddress;
use tracing::debug;
use transport::fair_queue::Work;
use transport::hbone::{self, Authority, Baggage, ConnectHead, Forwarded, Traceparent, TunnelError, TunnelKey};
use transport::net::buffers::Buffers;
use transport::net::connect;
use transport::net::tcp::Tcp;

use super::next_hop::{self, Destination, Hop, ToWaypoint, Tunnel, Via};
use crate::capture;
use crate::connection::failure::Failure;
use crate::connection::inbound::direct::{self, Entered};
use crate::connection::record::Record;
use crate::node::Node;
use crate::pod::workload::Pod;

/// Endpoints of a service tried for one connection.
const ENDPOINTS: usize = 3;
/// Connect timeout of one endpoint while there are others to try.
const PATIENCE: Duration = Duration::from_secs(3);

/// A stream to the next hop, and what is known about it.
pub(crate) struct Dialled {
    /// The stream.
    pub(crate) stream: Stream,
    /// Socket address of the next hop.
    pub(crate) address: SocketAddr,
    /// The peer's authenticated identity.
    pub(crate) peer: Option<Identity>,
    /// Counts the connection for load balancing, until dropped.
    pub(crate) busy: Option<Busy>,
}

/// The transport of a stream.
pub(crate) enum Stream {
    /// Plain TCP.
    Plain(Tcp),
    /// A stream in an HBONE tunnel.
    Tunnel(hbone::Stream),
    /// Directly to the application of another workload of this node, which has authorized the connection.
    Direct(Box<Entered>),
}

/// Dials the destination. The record names the workload that was tried last, even when none answers.
pub(crate) async fn dial(
    node: &Arc<Node>,
    pod: &Arc<Pod>,
    source: &Arc<Workload>,
    destination: Destination,
    record: &mut Record,
) -> Result<Dialled, Failure> {
    let caller = Caller { node, pod, source, from: record.source };
    match destination {
        Destination::Outside(to) => {
            let stream = caller.plain(to, connect::TIMEOUT).await.map_err(|error| refused(&Broken::Connect(error)))?;
            Ok(Dialled { stream, address: to, peer: None, busy: None })
        }
        Destination::Workload(workload, to) => {
            let hop = next_hop::to_workload(source, &workload, to, &[]);
            caller.hop(hop, None, connect::TIMEOUT, record).await.map_err(|error| refused(&error))
        }
        Destination::Service(entry, port) => {
            let ipv6 = record.destination.is_ipv6();
            let host = entry.service.key.hostname.clone();
            let mesh = node.store.snapshot();
            let hop_to = |endpoint: &Arc<Endpoint>| next_hop::to_endpoint(&mesh, source, &entry, endpoint, port, ipv6);
            let choice = Choice { entry: &entry, port, balancing: &entry.service.load_balancing };
            caller.any(choice, &hop_to, Some(host), record).await
        }
        Destination::Waypoint(to) => waypoint(&caller, &to, record).await,
    }
}

async fn waypoint(caller: &Caller<'_>, to: &ToWaypoint, record: &mut Record) -> Result<Dialled, Failure> {
    let host = to.service.as_ref().map(|key| key.hostname.clone());
    match &to.instances {
        Instances::Service(entry) => {
            let hop_to = |endpoint: &Arc<Endpoint>| next_hop::to_instance(to, &endpoint.workload);
            // A waypoint's service need not list the HBONE port: any port of its endpoints will do.
            let port = entry.service.ports.first().map_or(to.hbone_port, |port| port.service_port);
            let choice = Choice { entry, port, balancing: &entry.service.load_balancing };
            caller.any(choice, &hop_to, host, record).await
        }
        Instances::Workload(workload) => {
            let hop = next_hop::to_instance(to, workload)
                .ok_or_else(|| Failure::upstream(ResponseFlag::Connect, "the waypoint has no address"))?;
            caller.hop(hop, host, connect::TIMEOUT, record).await.map_err(|error| refused(&error))
        }
    }
}

/// The calling side.
struct Caller<'a> {
    node: &'a Arc<Node>,
    pod: &'a Arc<Pod>,
    source: &'a Arc<Workload>,
    /// Socket address of the application.
    from: SocketAddr,
}

/// The candidates of a service.
struct Choice<'a> {
    entry: &'a ServiceEntry,
    port: u16,
    balancing: &'a LoadBalancing,
}

/// Why one endpoint failed.
enum Broken {
    Connect(std::io::Error),
    Tunnel(TunnelError),
}

impl Caller<'_> {
    /// Tries endpoints until one answers.
    async fn any(
        &self,
        choice: Choice<'_>,
        hop_to: &(dyn Fn(&Arc<Endpoint>) -> Option<Hop> + Sync),
        host: Option<Hostname>,
        record: &mut Record,
    ) -> Result<Dialled, Failure> {
        let mut tried: Vec<WorkloadUid> = Vec::new();
        let mut last: Option<Failure> = None;
        let limit = if choice.entry.endpoints.len() > 1 { PATIENCE } else { connect::TIMEOUT };
        while tried.len() < ENDPOINTS {
            let request = Request {
                source: self.source,
                balancing: choice.balancing,
                service_port: choice.port,
                tried: &tried,
                now: self.node.now(),
            };
            let Some(endpoint) = balance::pick(&choice.entry.endpoints, &request, &mut |n| fastrand::usize(0..n))
            else {
                break;
            };
            tried.push(endpoint.workload.uid.clone());
            let Some(hop) = hop_to(endpoint) else { continue };
            let busy = endpoint.load.start();
            match self.hop(hop, host.clone(), limit, record).await {
                Ok(dialled) => {
                    endpoint.load.succeeded();
                    return Ok(Dialled { busy: Some(busy), ..dialled });
                }
                Err(error) => {
                    let failure = refused(&error);
                    if !error.is_endpoints_own() {
                        return Err(failure);
                    }
                    endpoint.load.failed(self.node.now());
                    debug!("{}: {}; trying another endpoint", endpoint.workload.uid, failure.text);
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| next_hop::Refused::NoEndpoint(choice.entry.service.key.clone()).into()))
    }

    /// Dials one hop. The tunnel is recorded before it is dialled, so that refusals are logged with it.
    async fn hop(
        &self,
        hop: Hop,
        host: Option<Hostname>,
        limit: Duration,
        record: &mut Record,
    ) -> Result<Dialled, Broken> {
        record.labels().destination = Some(Arc::clone(&hop.workload));
        match &hop.via {
            Via::Plain(to) => {
                let to = *to;
                let stream = self.plain(to, limit).await.map_err(Broken::Connect)?;
                Ok(Dialled { stream, address: to, peer: None, busy: None })
            }
            Via::Tunnel(tunnel) => {
                if let Some(there) = self.near(&hop.workload, tunnel) {
                    return self.direct(there, tunnel.target, record).await;
                }
                let (key, head) = (self.key(tunnel), self.head(tunnel, host));
                record.labels().mutual_tls = true;
                record.labels().source_identity = Some(self.pod.identity.clone());
                record.hbone = Some(HboneAddress::Address(tunnel.target));
                let opened = match tokio::time::timeout(limit, self.node.pool.connect(&key, &head)).await {
                    Ok(opened) => opened.map_err(Broken::Tunnel)?,
                    Err(_) => {
                        let text = format!("no answer from {} in {} s", key.destination, limit.as_secs());
                        return Err(Broken::Connect(std::io::Error::new(std::io::ErrorKind::TimedOut, text)));
                    }
                };
                let address = key.destination;
                let peer = Some(opened.peer);
                Ok(Dialled { stream: Stream::Tunnel(opened.stream), address, peer, busy: None })
            }
        }
    }

    /// The destination pod of a hop, if it is captured on this node with one of the expected identities.
    fn near(&self, workload: &Workload, tunnel: &Tunnel) -> Option<Arc<Pod>> {
        // If the authority is another address than the dialled one, the connection does not end at this workload.
        let ends_there = tunnel.target.ip() == tunnel.via.ip();
        let there = self.node.pods.captured(&workload.uid).filter(|_| self.node.direct && ends_there)?;
        tunnel.expect.contains(&there.identity).then_some(there)
    }

    async fn direct(&self, there: Arc<Pod>, to: SocketAddr, record: &mut Record) -> Result<Dialled, Broken> {
        record.labels().source_identity = Some(self.pod.identity.clone());
        let peer = Some(there.identity.clone());
        let caller = direct::Caller {
            workload: Arc::clone(self.source),
            identity: self.pod.identity.clone(),
            address: self.from,
            service: record.labels.service.clone(),
        };
        let entered = direct::enter(self.node, there, caller, to).await;
        let entered = entered.map_err(|status| Broken::Tunnel(TunnelError::Refused(status)))?;
        Ok(Dialled { stream: Stream::Direct(Box::new(entered)), address: to, peer, busy: None })
    }

    async fn plain(&self, to: SocketAddr, limit: Duration) -> std::io::Result<Stream> {
        let socket = capture::upstream_socket(&self.pod.netns, to)?;
        let stream = connect::connect(socket, to, limit).await?;
        transport::net::socket::tune(&stream, &transport::net::socket::Liveness::default())?;
        Ok(Stream::Plain(Tcp::new(stream)))
    }

    fn key(&self, tunnel: &Tunnel) -> TunnelKey {
        TunnelKey {
            workload: self.pod.uid.clone(),
            source: self.pod.identity.clone(),
            destination: tunnel.via,
            expected: tunnel.expect.clone().into(),
        }
    }

    fn head(&self, tunnel: &Tunnel, host: Option<Hostname>) -> ConnectHead {
        let mut head = ConnectHead::new(Authority::Address(tunnel.target));
        head.baggage = Some(Baggage::of(self.source));
        head.forwarded = Some(Forwarded { source: self.from, host });
        head.traceparent = Some(Traceparent::new(fastrand::u128(1..), fastrand::u64(1..)));
        head
    }
}

impl Broken {
    /// Whether another endpoint may succeed: not after a refusal by the mesh, nor without a certificate.
    fn is_endpoints_own(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Tunnel(error) => error.fault() == Fault::Upstream,
        }
    }
}

fn refused(error: &Broken) -> Failure {
    use process::telemetry::access_log::reason;
    match error {
        Broken::Connect(error) => Failure::upstream(ResponseFlag::Connect, format!("connect: {error}")),
        Broken::Tunnel(TunnelError::Refused(status)) => {
            Failure { fault: Fault::Upstream, flag: ResponseFlag::Connect, text: format!("http status: {status}") }
        }
        Broken::Tunnel(error) => {
            let text = match error.flag() {
                ResponseFlag::NetworkPolicy => reason::hbone_timeout(error),
                ResponseFlag::IdentityError => format!("identity error: {error}"),
                _ => error.to_string(),
            };
            Failure { fault: error.fault(), flag: error.flag(), text }
        }
    }
}

/// Dials the pool's tunnels from the network namespace of their workload.
pub(crate) struct FromNetns {
    /// The captured workloads.
    pub(crate) pods: Arc<crate::pod::workload::Pods>,
}

impl hbone::Dial for FromNetns {
    fn dial<'a>(
        &'a self,
        key: &'a TunnelKey,
    ) -> Pin<Box<dyn Future<Output = std::io::Result<tokio::net::TcpStream>> + Send + 'a>> {
        Box::pin(async move {
            let gone =
                || std::io::Error::new(std::io::ErrorKind::NotFound, format!("{} is no longer captured", key.workload));
            let netns = self.pods.netns(&key.workload).ok_or_else(gone)?;
            let socket = capture::upstream_socket(&netns, key.destination)?;
            let stream = connect::connect(socket, key.destination, connect::TIMEOUT).await?;
            // Nagle's algorithm would delay a request behind a WINDOW_UPDATE until the peer's delayed ACK.
            transport::net::socket::tune(&stream, &transport::net::socket::Liveness::default())?;
            Ok(stream)
        })
    }

    fn buffers(&self, key: &TunnelKey) -> Arc<Buffers> {
        self.pods.buffers(&key.workload).unwrap_or_default()
    }

    fn spawn(&self, key: &TunnelKey, work: Work) {
        match self.pods.fair_queue(&key.workload) {
            Some(fair_queue) => fair_queue.spawn_boxed(work),
            // The workload was just released: the dial will fail.
            None => drop(tokio::spawn(work)),
        }
    }
}
