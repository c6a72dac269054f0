//! An opaque TCP connection: chooses an endpoint and copies bytes in both directions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::model::name::WorkloadUid;
use mesh::model::service::ServiceKey;
use thiserror::Error;
use transport::net::copy::{Timeouts, both_ways};
use transport::net::duplex::Duplex;
use transport::net::tcp::Tcp;

use crate::balance::maglev;
use crate::resilience::breaker::Sign;
use crate::route::{BackendTarget, Rule};
use crate::shared::Shared;
use crate::telemetry::tcp::TcpRecord;
use crate::upstream::Client;
use crate::upstream::cluster::{NoEndpoint, Wanted};
use crate::upstream::connect::Io;
use crate::world::World;

/// Why a connection was not carried.
#[derive(Debug, Error)]
pub enum OpaqueError {
    /// The rule has no backend.
    #[error("the route has no backend for connections")]
    NoBackend,
    /// No endpoint is ready, or none that is ready answers.
    #[error("no healthy upstream: {0}")]
    NoEndpoint(ServiceKey),
    /// The service has as many connections as it may have.
    #[error("too many connections to the service")]
    Overflow,
}

/// Most endpoints that are tried.
const TRIES: usize = 3;

/// The service and port of a backend of the rule.
pub fn choose(rule: &Rule) -> Result<(&ServiceKey, u16), OpaqueError> {
    match rule.choose(fastrand::f64()).map(|(_, backend)| &backend.target) {
        Some(BackendTarget::Service(service, port)) => Ok((service, *port)),
        Some(BackendTarget::Invalid(_)) | None => Err(OpaqueError::NoBackend),
    }
}

/// Proxies one connection of a client to a service.
pub async fn carry<S: Duplex>(
    shared: &Arc<Shared>,
    world: &Arc<World>,
    (service, port): (&ServiceKey, u16),
    client: &Client,
    stream: &mut S,
    record: &mut TcpRecord,
) -> Result<(), OpaqueError> {
    let home = &client.identity.namespace;
    let settings = world.plan.settings_for(service, home);
    let cluster = shared.clusters.get((service, port), home, world, &shared.here);
    let entering = cluster.enter(settings, world.plan.settings_of(service), settings.max_wait);
    let _pass = entering.await.map_err(|_| OpaqueError::Overflow)?;
    let mut tried: Vec<WorkloadUid> = vec![];
    let limits = settings.breaker();
    loop {
        let hash = maglev::hash(client.address.ip().to_string().as_bytes());
        let wanted = Wanted { tried: &tried, hash, expendable: true };
        let no_endpoint = |_: NoEndpoint| OpaqueError::NoEndpoint(service.clone());
        let mut flight = cluster.choose(settings, &wanted, Instant::now()).map_err(no_endpoint)?;
        let endpoint = Arc::clone(&flight.endpoint);
        let host = Some(service.hostname.clone());
        let connecting = shared.connector.exclusive(&endpoint.target, client, host, settings.connect_timeout);
        let connected = connecting.await;
        let now = Instant::now();
        match connected {
            Ok(io) => {
                flight.succeeded(&limits, now);
                record.opened(&endpoint);
                let timeouts = Timeouts { idle: None, ..Timeouts::default() };
                copy(stream, io, &timeouts, record).await;
                return Ok(());
            }
            Err(error) => {
                tracing::debug!("{}: {error}", endpoint.workload.uid);
                if error.is_brief() {
                    flight.timed_out(&limits, flight.can_be_spared(settings.max_ejected), true, now);
                } else if error.is_of_endpoint() {
                    flight.failed(&limits, Sign::Unreachable, Duration::ZERO, now);
                }
                tried.push(endpoint.workload.uid.clone());
                if tried.len() >= TRIES.min(cluster.endpoints().endpoints.len()) {
                    return Err(OpaqueError::NoEndpoint(service.clone()));
                }
            }
        }
    }
}

async fn copy<S: Duplex>(stream: &mut S, io: Io, timeouts: &Timeouts, record: &mut TcpRecord) {
    let copied = match io {
        Io::Plain(tcp) => both_ways(stream, &mut Tcp::new(tcp), record, timeouts).await,
        Io::Tunnel(mut tunnel) => both_ways(stream, &mut tunnel, record, timeouts).await,
    };
    record.closed(copied.err().map(|error| error.to_string()));
}
