//! One connection in a tunnel: finds its service and its protocol, and proxies it as HTTP or as opaque TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh::model::connection::ResponseFlag;
use mesh::model::identity::Identity;
use mesh::model::name::Network;
use mesh::model::service::{AppProtocol, ServiceKey, Vip};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tracing::debug;
use transport::hbone::{self, Authority};

use super::guard::Guard;
use super::opaque;
use super::rewind::Rewind;
use super::sniff::{Spoken, could_be_http, sniff};
use crate::auth::authorize::judge;
use crate::config::plan::ServicePlan;
use crate::config::{Routing, workload_key};
use crate::http::admit;
use crate::http::exchange::Connection;
use crate::http::judge::address_of;
use crate::http::request::handle;
use crate::identity::Told;
use crate::rejection::TunnelRejection;
use crate::request::hygiene::{MAX_HEAD, MAX_HEADERS};
use crate::shared::Shared;
use crate::telemetry::tcp::TcpRecord;
use crate::upstream::Client;
use crate::world::World;

/// How long an undeclared protocol may take to show itself; then it is one in which the server speaks first.
const SNIFF: Duration = Duration::from_millis(200);
/// How long a client of a declared protocol may take to send its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(300);
/// Timeout of a request head once its first byte was received.
const HEAD: Duration = Duration::from_secs(30);
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const STREAMS: u32 = 250;

type Stream = Rewind<hbone::Stream>;

/// Proxies one connection.
pub async fn carry(shared: Arc<Shared>, request: hbone::Request, peer: SocketAddr, identity: Identity) {
    let world = shared.worlds.load();
    let head = match request.head() {
        Ok(head) => head,
        Err(error) => {
            debug!("{peer}: {error}");
            return request.refuse(TunnelRejection::Malformed.status());
        }
    };
    let Some((service, destination)) = find(&world, &shared.network, &head.authority, &identity) else {
        debug!("{peer}: {} is not a service behind this waypoint", head.authority);
        return request.refuse(TunnelRejection::Unknown.status());
    };
    let Ok(_room) = Arc::clone(&shared.connections).try_acquire_owned() else {
        debug!("{peer}: refused, too many connections");
        return request.refuse(TunnelRejection::TooMany.status());
    };
    let workload = world.snapshot.workload_at(&shared.network, peer.ip());
    let workload = workload.filter(|workload| workload.identity() == identity).cloned();
    // The address in `forwarded` is the application's socket; its host must be the peer's own, or it is only a claim.
    let forwarded = head.forwarded.as_ref().map(|forwarded| forwarded.source).filter(|from| from.ip() == peer.ip());
    let client = Client { address: forwarded.unwrap_or(peer), identity, workload };
    let told = Told::new(shared.connector.identity(), &client.identity, client.address.ip());
    let connection = Connection {
        shared,
        client,
        service,
        port: destination.port(),
        destination,
        told,
        switched: Arc::default(),
        untaken: Mutex::default(),
        interim: Arc::default(),
    };
    match request.accept(None) {
        Ok(stream) => serve(connection, &world, Rewind::new(stream)).await,
        Err(error) => debug!("{peer}: {error}"),
    }
}

/// The service that was asked for, or the workload, and its address.
fn find(
    world: &World,
    network: &Network,
    authority: &Authority,
    client: &Identity,
) -> Option<(ServiceKey, SocketAddr)> {
    let (entry, address) = match authority {
        Authority::Address(address) => match world.snapshot.service_at(network, address.ip(), &client.namespace) {
            Some(entry) => (entry, Some(*address)),
            None => {
                let workload = world.workload_at(address.ip())?;
                return Some((workload_key(&workload.namespace, address.ip()), *address));
            }
        },
        Authority::Host(host, _) => (world.snapshot.service_named(host, &client.namespace)?, None),
    };
    let service = &entry.service;
    let plan = world.plan.services.get(&service.key)?;
    plan.ports.get(&authority.port())?;
    let vip = service.vips.iter().find_map(Vip::address);
    let unspecified = std::net::IpAddr::from([0, 0, 0, 0]);
    let address = address.unwrap_or_else(|| SocketAddr::new(vip.unwrap_or(unspecified), authority.port()));
    Some((service.key.clone(), address))
}

async fn serve(connection: Connection, world: &Arc<World>, mut stream: Stream) {
    let Some(plan) = world.service(&connection.service, connection.port) else { return };
    let Some(port) = plan.ports.get(&connection.port) else { return };
    let routing = Arc::clone(port.routing(Some(&connection.client.identity.namespace)));
    if let Routing::Tcp(rule) = &*routing {
        return carry_opaque(&connection, world, rule, stream).await;
    }
    let declared = !matches!(port.protocol, AppProtocol::Unknown);
    match spoken(&connection, &mut stream, declared).await {
        Some(Spoken::Http1) => one(connection, stream).await,
        Some(Spoken::Http2) => two(connection, stream).await,
        Some(Spoken::Opaque) => {
            // Routes of HTTP say nothing about other protocols: the connection goes to the service itself.
            let world = connection.shared.worlds.load();
            if let Some(rule) = fallback(&world, &connection) {
                carry_opaque(&connection, &world, &rule, stream).await;
            }
        }
        None => {}
    }
}

/// What is spoken; `None` when the client has gone without a word. Where something looks at requests the bytes decide,
/// whenever they come; elsewhere silence means a protocol in which the server speaks first.
async fn spoken(connection: &Connection, stream: &mut Stream, declared: bool) -> Option<Spoken> {
    loop {
        let judged = declared || is_judged(connection);
        let limit = if judged { FIRST_BYTE } else { SNIFF };
        let looked = timeout(limit, stream.look(sniff)).await;
        let spoken = match looked {
            Ok(Ok(Some(spoken))) => spoken,
            Ok(Ok(None)) if stream.seen().is_empty() => return None,
            Ok(Err(error)) => {
                debug!("{}: {error}", connection.client.address);
                return None;
            }
            Ok(Ok(None)) => Spoken::Opaque,
            // Silent. A policy or route that looks at requests may have been added in the meantime.
            Err(_) if stream.seen().is_empty() && !judged => {
                if is_judged(connection) {
                    continue;
                }
                Spoken::Opaque
            }
            // Slow in the middle of what may yet be a request line.
            Err(_) => Spoken::Http1,
        };
        // What is declared to be HTTP and is not gets HTTP's own answer to that, and so does what a lenient server
        // could take for HTTP where that would pass by what looks at requests.
        let refused = declared || is_judged(connection) && could_be_http(stream.seen());
        return Some(if spoken == Spoken::Opaque && refused { Spoken::Http1 } else { spoken });
    }
}

/// Whether something looks at the requests of this connection, now.
fn is_judged(connection: &Connection) -> bool {
    let world = connection.shared.worlds.load();
    let Some(plan) = world.service(&connection.service, connection.port) else { return true };
    let Some(port) = plan.ports.get(&connection.port) else { return true };
    plan.judges_requests(port, Some(&connection.client.identity.namespace))
}

fn fallback(world: &World, connection: &Connection) -> Option<Arc<crate::route::Rule>> {
    let plan = world.service(&connection.service, connection.port)?;
    match &*plan.ports.get(&connection.port)?.implicit {
        Routing::Tcp(rule) => Some(Arc::clone(rule)),
        Routing::Http(table) => table.entries().next().map(|found| Arc::clone(found.rule)),
    }
}

async fn one(connection: Connection, stream: Stream) {
    let draining = connection.shared.draining.clone();
    let connection = Arc::new(connection);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).half_close(true);
    // A little more than what passes the guard, which has something to add.
    builder.max_buf_size(MAX_HEAD + 1024).max_headers(MAX_HEADERS + 4);
    let stream = Guard::new(stream, Arc::clone(&connection.switched), Arc::clone(&connection.interim));
    let served = Arc::clone(&connection);
    let service = service_fn(move |request| handle(Arc::clone(&served), request));
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = draining.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        return debug!("downstream connection: {error}");
    }
    // Where an upgrade was offered the connection comes back at its end, still open.
    let untaken = connection.untaken.lock().take();
    if let Some(untaken) = untaken
        && let Ok(stream) = untaken.await
    {
        let _ = TokioIo::new(stream).shutdown().await;
    }
}

async fn two(connection: Connection, stream: Stream) {
    let draining = connection.shared.draining.clone();
    let connection = Arc::new(connection);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(STREAMS)
        .enable_connect_protocol();
    let service = service_fn(move |request| handle(Arc::clone(&connection), request));
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = draining.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        debug!("downstream connection: {error}");
    }
}

async fn carry_opaque(connection: &Connection, world: &Arc<World>, rule: &crate::route::Rule, mut stream: Stream) {
    let Connection { shared, client, service, destination, .. } = connection;
    let (traffic, log) = (Arc::clone(&shared.traffic), shared.tcp_log.clone());
    let mut record = TcpRecord::new(traffic, log, client, service, *destination);
    let target = match opaque::choose(rule) {
        Ok(target) => target,
        Err(error) => {
            transport::net::duplex::Duplex::reset(&mut stream);
            return record.failed(ResponseFlag::Connect, error.to_string());
        }
    };
    if let Some(refusal) = refused(world, connection, target) {
        transport::net::duplex::Duplex::reset(&mut stream);
        return record.failed(ResponseFlag::Deny, refusal);
    }
    if let Err(error) = opaque::carry(shared, world, target, client, &mut stream, &mut record).await {
        transport::net::duplex::Duplex::reset(&mut stream);
        record.failed(ResponseFlag::Connect, error.to_string());
    }
}

/// Why the service that was called, or the one behind this waypoint that the route leads to, refuses the client.
fn refused(world: &World, connection: &Connection, (target, port): (&ServiceKey, u16)) -> Option<String> {
    let refusal = |plan: &ServicePlan, destination| {
        let request = connection.client.subject(destination, None);
        let judgement = judge(plan.security.policies.iter().map(|policy| &**policy), &request);
        judgement.refusal.map(|refusal| {
            admit::report_why(plan, &request);
            process::telemetry::access_log::reason::rejected(refusal)
        })
    };
    let called = world.service(&connection.service, connection.port)?;
    let other = world.plan.services.get(target).filter(|_| *target != connection.service);
    let of_other = || other.and_then(|other| refusal(other, SocketAddr::new(address_of(other), port)));
    refusal(&called, connection.destination).or_else(of_other)
}
