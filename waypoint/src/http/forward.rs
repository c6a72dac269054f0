//! A request to its backend, and the response back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use http::request::Parts;
use http::{Response, StatusCode, Version as HttpVersion};
use http_body::Body as _;
use hyper::body::Incoming;
use mesh::model::service::AppProtocol;

use super::exchange::{self, Connection, Decision};
use super::mirror::{self, Copied};
use super::reply::Reply;
use super::response::{ResponseBody, Streamed};
use super::{outgoing, upgrade};
use crate::balance::maglev;
use crate::deadline::{self, Allowed, Deadline};
use crate::hygiene::strip_hop_by_hop;
use crate::identity;
use crate::jwt::cookie;
use crate::query::Query;
use crate::route::{Backend, BackendTarget};
use crate::settings::{HashOn, Settings};
use crate::span::Span;
use crate::telemetry::{Outcome, Record};
use crate::trace::{self, Context, SpanId};
use crate::upstream::connections::Version;
use crate::upstream::send::{Outgoing, Teed, send};
use crate::upstream::{Cluster, Failure, Replay, RequestBody, Sent};
use crate::world::World;

/// A request that is sent on.
pub struct Going<'a> {
    /// The connection that it came on.
    pub connection: &'a Arc<Connection>,
    /// What it is decided on.
    pub world: &'a Arc<World>,
    /// What was decided.
    pub decision: Decision,
    /// What the connection is to become.
    pub upgrade: Option<upgrade::Wanted>,
    /// What is told of it.
    pub record: Box<Record>,
}

type Answered = Result<Response<ResponseBody>, (Box<Reply>, Box<Record>)>;

/// Where the request stands in its trace.
struct Traced {
    here: Context,
    /// The caller's span, when we make one of our own.
    own: Option<(SpanId, Option<SpanId>)>,
    began: SystemTime,
}

/// Sends a request on and gives the response.
pub async fn forward(going: Going<'_>, mut parts: Parts, body: Incoming) -> Answered {
    let Going { connection, world, decision, upgrade, mut record } = going;
    let shared = &connection.shared;
    let Some(backend) = decision.rule.backend(decision.backend) else {
        return Err((Box::new(Reply::error(500, "no_backend", "-", "the rule has no such backend")), record));
    };
    let BackendTarget::Service(service, port) = &backend.target else {
        return Err((Box::new(Reply::error(500, "backend_invalid", "-", "the backend does not resolve")), record));
    };
    let rule = &*decision.rule.settings;
    let settings = world.plan.settings_of(service);
    let cluster = shared.clusters.get(service, *port, world, &shared.here);
    let version = version_of(&cluster, &parts, record.grpc, upgrade.is_some());
    let deadline = deadline_of(&parts, rule, record.began);
    let hash = hash_of(settings, &parts, connection);
    if let Some(wanted) = &upgrade {
        upgrade::prepare(&mut parts, wanted);
    }
    let traced =
        prepare(connection, &decision, backend, &mut parts, &mut record, (rule.sampling, world.plan.otlp.is_some()));
    let mirrors = mirror::chosen(decision.rule.mirrors.iter().chain(&backend.mirrors));
    let replay = (!body.is_end_stream() && upgrade.is_none()).then(|| {
        let keyed = parts.headers.contains_key("idempotency-key");
        let keep = rule.retry().may_retry(&parts.method, keyed, record.grpc);
        let most = if keep { rule.retry_body } else { 0 };
        Replay::new(body, most, Arc::clone(&record.received), Arc::clone(&shared.replays))
    });
    let teed = tee(connection, world, &mirrors, &decision, (&parts, replay.as_ref(), &record), version);
    if let Err(reply) = outgoing::shape(&mut parts, &decision.address, version, upgrade.as_ref().map(|u| &u.protocol)) {
        return Err((Box::new(reply), record));
    }
    let sending = Outgoing {
        parts,
        body: replay.as_ref(),
        teed,
        version,
        grpc: record.grpc,
        rule,
        service: settings,
        deadline,
        tell_deadline: rule.deadline_propagate,
        hash,
        client: &connection.client,
    };
    let sent = send(&shared.connector, &cluster, sending).await;
    if let Some(replay) = &replay {
        replay.let_go();
    }
    report_span(connection, &traced, &record, sent.as_ref().err(), sent.as_ref().ok());
    match sent {
        Ok(sent) => {
            arrived(&mut record, &sent);
            let finishing = Finishing { connection, decision: &decision, backend, rule, settings, deadline };
            Ok(finishing.respond(sent, upgrade, record))
        }
        Err(failure) => {
            failed(&mut record, &failure);
            Err((Box::new(Reply::failed(&failure)), record))
        }
    }
}

/// Which HTTP the backend is spoken to: what it declares, else what the caller speaks. gRPC is HTTP/2 always.
fn version_of(cluster: &Cluster, parts: &Parts, grpc: bool, upgrades: bool) -> Version {
    let two = parts.version >= HttpVersion::HTTP_2;
    match cluster.endpoints().protocol {
        _ if upgrades => Version::H1,
        Some(AppProtocol::Http2 | AppProtocol::Grpc) => Version::H2,
        Some(AppProtocol::Http1) if !(grpc && two) => Version::H1,
        _ if two => Version::H2,
        _ => Version::H1,
    }
}

fn deadline_of(parts: &Parts, rule: &Settings, began: Instant) -> Deadline {
    let caller = if rule.deadline_propagate { deadline::caller(&parts.headers) } else { None };
    Deadline::new(began, Allowed { default: rule.deadline_default, request: rule.deadline_request, caller })
}

fn hash_of(settings: &Settings, parts: &Parts, connection: &Connection) -> u64 {
    let text = match &settings.hash_on {
        None => return 0,
        Some(HashOn::SourceIp) => Some(connection.client.address.ip().to_string()),
        Some(HashOn::Header(name)) => {
            parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
        Some(HashOn::Cookie(name)) => cookie(&parts.headers, name),
        Some(HashOn::Query(name)) => Query::new(parts.uri.query().unwrap_or_default()).get(name).map(str::to_owned),
    };
    text.map_or_else(maglev::any_hash, |text| maglev::hash(text.as_bytes()))
}

/// The head as the backend gets it, but for host, path and deadline.
fn prepare(
    connection: &Connection,
    decision: &Decision,
    backend: &Backend,
    parts: &mut Parts,
    record: &mut Record,
    (sampling, collected): (f64, bool),
) -> Traced {
    let incoming = trace::Incoming::read(&parts.headers, fastrand::f64() < sampling);
    let sampled = incoming.decided.unwrap_or_else(|| fastrand::f64() < sampling);
    let mut random = fastrand::Rng::new();
    let fresh = Context::random(&mut random, sampled);
    let recorded = incoming.context.map_or(sampled, |context| context.sampled);
    let span = (recorded && collected).then(|| SpanId::random(&mut random));
    outgoing::sanitise(&mut parts.headers);
    record.request_id = outgoing::request_id(&mut parts.headers);
    let here = trace::forward(&mut parts.headers, &incoming, span, &fresh);
    record.trace = Some(here);
    decision.rule.request_headers.apply(&mut parts.headers);
    backend.request_headers.apply(&mut parts.headers);
    identity::settle(&mut parts.headers, &connection.told, &decision.reserved, &decision.claims);
    Traced { here, own: span.map(|span| (span, incoming.context.map(|came| came.span))), began: SystemTime::now() }
}

/// The body of the first attempt, copied to the mirrors.
fn tee(
    connection: &Arc<Connection>,
    world: &Arc<World>,
    mirrors: &[&crate::route::Mirror],
    decision: &Decision,
    (parts, replay, record): (&Parts, Option<&Replay>, &Record),
    version: Version,
) -> Teed {
    if mirrors.is_empty() {
        return Teed::None;
    }
    let (teed, copies) = match replay {
        Some(replay) => {
            let (teed, copies) = RequestBody::teed(replay.body(), mirrors.len());
            (Teed::Ready(teed), copies.into_iter().map(Some).collect())
        }
        None => (Teed::None, mirrors.iter().map(|_| None).collect::<Vec<_>>()),
    };
    for (mirror, body) in mirrors.iter().zip(copies) {
        let copied = Copied {
            parts: parts.clone(),
            address: decision.address.clone(),
            body,
            grpc: record.grpc,
            client: connection.client.clone(),
            record: Box::new(record.copy()),
        };
        mirror::send_off(&connection.shared, world, mirror, version, copied);
    }
    teed
}

fn arrived(record: &mut Record, sent: &Sent) {
    let endpoint = &sent.flight.endpoint;
    record.destination = Some(Arc::clone(&endpoint.workload));
    record.destination_address = Some(endpoint.target.address);
    record.mutual_tls = endpoint.target.tunnel.is_some();
    record.retries = sent.retries;
    let status = sent.answer.response.status().as_u16();
    let headers_after = Some(record.began.elapsed());
    record.outcome = Outcome { status, flag: "-", grpc: sent.answer.grpc, error: None, headers_after };
}

fn failed(record: &mut Record, failure: &Failure) {
    record.retries = failure.retries;
    if let Some(endpoint) = &failure.endpoint {
        record.destination = Some(Arc::clone(&endpoint.workload));
        record.destination_address = Some(endpoint.target.address);
        record.mutual_tls = endpoint.target.tunnel.is_some();
    }
}

/// What the way back depends on.
struct Finishing<'a> {
    connection: &'a Connection,
    decision: &'a Decision,
    backend: &'a Backend,
    rule: &'a Settings,
    settings: &'a Settings,
    deadline: Deadline,
}

impl Finishing<'_> {
    fn respond(&self, sent: Sent, upgrade: Option<upgrade::Wanted>, record: Box<Record>) -> Response<ResponseBody> {
        let Sent { answer, flight, pass, .. } = sent;
        if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return match upgrade {
                Some(wanted) => self.switch(wanted, answer.response, (flight, pass, answer.lease), record),
                None => {
                    let reply = Reply::error(502, "upgrade", "UPE", "the backend upgraded a connection unasked");
                    exchange::answer(reply, record, false)
                }
            };
        }
        let (mut parts, body) = answer.response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        self.decorate(&mut parts.headers);
        let mut streamed = Box::new(Streamed {
            ended: false,
            body,
            peeked: answer.peeked,
            lease: Some(answer.lease),
            flight,
            pass,
            breaker: self.settings.breaker(),
            record,
            deadline: self.deadline.whole,
            idle: self.rule.idle,
            last: Instant::now(),
            received: 0,
            timer: None,
        });
        if streamed.peeked.is_none() && streamed.body.is_end_stream() {
            streamed.end();
        }
        let mut response = Response::new(ResponseBody::Stream(streamed));
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        response
    }

    fn decorate(&self, headers: &mut http::HeaderMap) {
        self.backend.response_headers.apply(headers);
        self.decision.rule.response_headers.apply(headers);
        if let (Some(cors), Some(origin)) = (&self.decision.rule.cors, &self.decision.origin) {
            cors.decorate(origin, headers);
        }
        identity::settle_answer(headers);
    }

    fn switch<T: Send + 'static>(
        &self,
        wanted: upgrade::Wanted,
        response: Response<Incoming>,
        kept: T,
        mut record: Box<Record>,
    ) -> Response<ResponseBody> {
        let (status, mut headers) = upgrade::agreed(&wanted, response.headers());
        self.decorate(&mut headers);
        record.outcome.status = status.as_u16();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.connection.switched.store(true, Ordering::Relaxed);
        }
        tokio::spawn(upgrade::carry(
            wanted,
            response,
            self.rule.idle,
            (kept, record),
            |(kept, mut record), forth, back| {
                record.received.fetch_add(forth, Ordering::Relaxed);
                record.sent = back;
                drop(kept);
            },
        ));
        let mut response = Response::new(ResponseBody::Switched);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

fn report_span(
    connection: &Connection,
    traced: &Traced,
    record: &Record,
    failure: Option<&Failure>,
    sent: Option<&Sent>,
) {
    let Some((id, parent)) = traced.own else { return };
    let status = sent.map(|sent| sent.answer.response.status()).or(failure.map(|failure| failure.status));
    let status = status.map_or(0, |status| status.as_u16());
    let route = record.route.as_deref().unwrap_or_default();
    let mut attributes = vec![
        ("http.request.method", record.method.to_string()),
        ("http.response.status_code", status.to_string()),
        ("url.path", record.path.split('?').next().unwrap_or_default().to_owned()),
        ("server.address", record.host.clone()),
        ("http.route", route.to_owned()),
        ("culvert.service", record.service.to_string()),
        ("culvert.source", record.source_identity.to_string()),
    ];
    if let Some(sent) = sent {
        attributes.push(("culvert.destination", sent.flight.endpoint.workload.uid.to_string()));
    }
    connection.shared.spans.push(Span {
        trace: traced.here.trace,
        id,
        parent,
        name: format!("{} {route}", record.method),
        start: traced.began,
        end: SystemTime::now(),
        failed: status >= 500,
        attributes,
    });
}
