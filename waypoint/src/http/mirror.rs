//! Mirrors: copies of requests for other backends. Nothing waits for them, and their outcome never reaches the caller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::admit;
use super::exchange::{Connection, Decision};
use super::judge::{self, Form};
use super::outgoing::{self, Address};
use crate::identity;
use crate::rejection::HttpFlag;
use crate::request::hygiene::{Content, Head};
use crate::request::query::Query;
use crate::resilience::deadline::{Allowed, Deadline};
use crate::route::Mirror;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::telemetry::{Outcome, Record};
use crate::upstream::attempt::Answer;
use crate::upstream::connections::Version;
use crate::upstream::send::{Outgoing, Teed, send};
use crate::upstream::{Client, Interim, RequestBody};
use crate::world::World;

/// A copy on its way.
pub struct Copied {
    /// The head.
    pub parts: Parts,
    /// Host and path.
    pub address: Address,
    /// The body.
    pub body: Option<RequestBody>,
    /// How the body is framed.
    pub content: Content,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// The client on whose behalf it is sent.
    pub client: Client,
    /// Telemetry of the copy.
    pub record: Box<Record>,
}

/// Timeout of a copy.
const LIMIT: Duration = Duration::from_secs(15);

/// Which of the mirrors get a copy of this request.
pub fn chosen<'a>(mirrors: impl Iterator<Item = &'a Mirror>) -> Vec<&'a Mirror> {
    mirrors.filter(|mirror| fastrand::f64() < mirror.fraction).collect()
}

/// The copy, if whoever it is for admits it: a service behind this waypoint is no more open to copies than to requests.
pub fn judged(
    connection: &Connection,
    world: &World,
    mirror: &Mirror,
    decision: &Decision,
    head: &Head,
    mut copied: Copied,
) -> Option<Copied> {
    if mirror.service == connection.service && !decision.rule.foreign {
        return Some(copied);
    }
    let Some(service) = world.plan.services.get(&mirror.service) else { return Some(copied) };
    let method = copied.parts.method.clone();
    copied.address.normalise(service.settings.normalization).ok()?;
    let host = String::from_utf8_lossy(copied.address.host.as_bytes()).into_owned();
    let (path, query) = (copied.address.path.path().to_owned(), copied.address.path.query().map(str::to_owned));
    let form = Form {
        head,
        method: &method,
        host: &host,
        path: &path,
        query: &Query::new(query.as_deref().unwrap_or_default()),
        destination: SocketAddr::new(judge::address_of(service), mirror.port),
    };
    identity::enter(&mut copied.parts.headers, &service.security.reserved);
    let admitted = judge::admit(connection, service, &form, &mut copied.parts.headers, Some(&decision.caller));
    let admitted = admitted.and_then(|caller| copied.address.take_off(&caller.params));
    match admitted.and_then(|()| admit::limit_service(&connection.shared, service)) {
        Ok(()) => Some(copied),
        Err(reply) => {
            tracing::debug!("a copy for {} is not sent: {}", mirror.service, reply.detail);
            None
        }
    }
}

/// Sends a copy, unless too many are under way.
pub fn send_off(shared: &Arc<Shared>, world: &Arc<World>, mirror: &Mirror, version: Version, copied: Copied) {
    let Ok(permit) = Arc::clone(&shared.mirrors).try_acquire_owned() else { return };
    let (shared, world) = (Arc::clone(shared), Arc::clone(world));
    let (service, port) = (mirror.service.clone(), mirror.port);
    tokio::spawn(async move {
        let _permit = permit;
        let Copied { mut parts, address, body, content, grpc, client, mut record } = copied;
        let home = client.identity.namespace.clone();
        let cluster = shared.clusters.get((&service, port), &home, &world, &shared.here);
        if outgoing::shape(&mut parts, &address, version, content, None).is_err() {
            return;
        }
        let settings = world.plan.settings_for(&service, &home);
        // A copy is sent once: the caller's own request is what matters.
        let rule = Settings { retry_attempts: 0, ..(**settings).clone() };
        let began = Instant::now();
        let deadline = Deadline::new(began, Allowed { default: Some(LIMIT), ..Allowed::default() });
        let sending = Outgoing {
            parts,
            body: None,
            teed: body.map_or(Teed::None, Teed::Ready),
            version,
            upgrade: false,
            grpc,
            rule: &rule,
            service: settings,
            everybody: world.plan.settings_of(&service),
            deadline,
            interim: (version == Version::H1).then(|| Arc::<Interim>::default().begin(false, false)),
            tell_deadline: false,
            hash: crate::balance::maglev::any_hash(),
            client: &client,
        };
        record.service = service;
        match Box::pin(send(&shared.connector, &cluster, sending)).await {
            Ok(sent) => {
                record.destination = Some(Arc::clone(&sent.flight.endpoint.workload));
                record.outcome = Outcome {
                    status: sent.answer.response.status().as_u16(),
                    flag: HttpFlag::None,
                    ..Outcome::default()
                };
                let Answer { response, lease, .. } = sent.answer;
                if drain(response.into_body()).await {
                    lease.release();
                }
            }
            Err(failure) => {
                record.outcome = Outcome {
                    status: failure.rejection.status().as_u16(),
                    flag: failure.rejection.flag(),
                    ..Outcome::default()
                };
            }
        }
    });
}

/// Reads a body to its end and discards it.
async fn drain(mut body: Incoming) -> bool {
    let draining = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(LIMIT, draining).await.unwrap_or(false)
}
