//! Forwards a request to its backend, and the response to the client.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version as HttpVersion};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use mesh::model::service::AppProtocol;

use super::exchange::{Connection, Decision};
use super::mirror::{self, Copied};
use super::reply::Reply;
use super::response::{ResponseBody, Streamed};
use super::{outgoing, upgrade};
use crate::auth::jwt::cookie;
use crate::balance::maglev;
use crate::identity;
use crate::rejection::{HttpFlag, Rejection};
use crate::request::hygiene::{self, Content, Head, Upgrade, hop};
use crate::request::query::Query;
use crate::resilience::deadline::{self, Allowed, Deadline};
use crate::route::{Backend, BackendTarget};
use crate::settings::{HashOn, Settings};
use crate::telemetry::span::Span;
use crate::telemetry::{Outcome, Record};
use crate::trace::{self, Context, SpanId};
use crate::upstream::connections::Version;
use crate::upstream::interim::Hearing;
use crate::upstream::send::{Outgoing, Teed, send};
use crate::upstream::{Allowance, Cluster, Failure, Interim, Replay, RequestBody, Sent};
use crate::world::World;

/// A request that is forwarded.
pub struct Going<'a> {
    /// The client's connection.
    pub connection: &'a Arc<Connection>,
    /// The configuration that it was decided with.
    pub world: &'a Arc<World>,
    /// What was decided.
    pub decision: Decision,
    /// How the request is framed, decided when its head was read.
    pub head: Head,
    /// The client's connection, when it has offered an upgrade.
    pub switch: Option<OnUpgrade>,
    /// Telemetry of the request.
    pub record: Box<Record>,
}

type Answered = Result<Response<ResponseBody>, (Box<Reply>, Box<Record>)>;

/// The request's place in its trace.
struct Traced {
    here: Context,
    /// The caller's span, when we make one of our own.
    own: Option<(SpanId, Option<SpanId>)>,
    began: SystemTime,
}

/// Forwards a request and returns the response.
pub async fn forward(going: Going<'_>, mut parts: Parts, body: Incoming) -> Answered {
    let Going { connection, world, decision, head, switch, mut record } = going;
    let (shared, client_version) = (&connection.shared, parts.version);
    let Some(backend) = decision.rule.backend(decision.backend) else {
        return Err((Box::new(Reply::rejected(Rejection::NoBackend, "the rule has no such backend")), record));
    };
    let BackendTarget::Service(service, port) = &backend.target else {
        return Err((Box::new(Reply::rejected(Rejection::BackendInvalid, "the backend does not resolve")), record));
    };
    let rule = &*decision.rule.settings;
    let client = &connection.client.identity.namespace;
    let settings = world.plan.settings_for(service, client);
    let cluster = shared.clusters.get((service, *port), client, world, &shared.here);
    let version = version_of(&cluster, &parts, record.grpc);
    let deadline = deadline_of(&parts, rule, record.began);
    let hash = hash_of(settings, &parts, connection);
    let traced =
        prepare(connection, &decision, backend, &mut parts, &mut record, (rule.sampling, world.plan.otlp.is_some()));
    let mirrors = mirror::chosen(decision.rule.mirrors.iter().chain(&backend.mirrors));
    let replay = upload(body, &head, (&parts, rule, &record), version, &shared.replays);
    let teed = tee(connection, world, &mirrors, &decision, (&parts, replay.as_ref(), &record), (version, &head));
    // A WebSocket's request is shaped for HTTP/1; an endpoint that takes it over HTTP/2 gets it translated.
    let shape = if head.upgrade.is_some() { Version::H1 } else { version };
    let upgrade = head.upgrade.as_ref();
    if let Err(reply) = outgoing::shape(&mut parts, &decision.address, shape, head.content, upgrade) {
        return Err((Box::new(reply), record));
    }
    if head.waits && version == Version::H1 {
        parts.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    let interim = (shape == Version::H1).then(|| hearing(connection, client_version, head.waits));
    let sending = Outgoing {
        parts,
        body: replay.as_ref(),
        teed,
        version,
        upgrade: head.upgrade.is_some(),
        grpc: record.grpc,
        rule,
        service: settings,
        everybody: world.plan.settings_of(service),
        deadline,
        interim: interim.clone(),
        tell_deadline: rule.deadline_propagate,
        hash,
        client: &connection.client,
    };
    let sent = send(&shared.connector, &cluster, sending).await;
    if let Some(replay) = &replay {
        replay.let_go();
    }
    if let Some(interim) = interim.filter(|_| client_version < HttpVersion::HTTP_2) {
        interim.written().await;
    }
    report_span(connection, &traced, &record, sent.as_ref().err(), sent.as_ref().ok());
    match sent {
        Ok(sent) => {
            arrived(&mut record, &sent);
            let finishing = Finishing { connection, decision: &decision, backend, rule, settings, deadline };
            let client = Waiting { upgrade: head.upgrade, version: client_version, switch, upload: replay };
            Ok(finishing.respond(sent, client, record))
        }
        Err(failure) => {
            connection.not_taken(client_version, switch);
            failed(&mut record, &failure);
            Err((Box::new(Reply::failed(&failure)), record))
        }
    }
}

/// The replayable body that attempts send one after the other, if there is one.
fn upload(
    body: Incoming,
    head: &Head,
    (parts, rule, record): (&Parts, &Settings, &Record),
    version: Version,
    allowance: &Arc<Allowance>,
) -> Option<Replay> {
    if head.content == Content::None || head.upgrade.is_some() {
        return None;
    }
    let keyed = parts.headers.contains_key("idempotency-key");
    let keep = rule.retry().may_retry(&parts.method, keyed, record.grpc);
    let most = if keep { rule.retry_body } else { 0 };
    let replay = Replay::new(body, most, Arc::clone(&record.received), Arc::clone(allowance));
    // HTTP/2 backends cannot be heard to want it: they get the content at once, and the client its 100 (Continue).
    if head.waits && version == Version::H1 {
        replay.hold();
    }
    Some(replay)
}

/// The sink of interim responses.
fn hearing(connection: &Connection, version: HttpVersion, waits: bool) -> Hearing {
    if version >= HttpVersion::HTTP_2 {
        // hyper cannot send any to clients of HTTP/2.
        return Arc::<Interim>::default().begin(false, false);
    }
    connection.interim.begin(version == HttpVersion::HTTP_11, waits)
}

/// The HTTP version towards the backend: the one that it declares, else the caller's. gRPC is always HTTP/2.
fn version_of(cluster: &Cluster, parts: &Parts, grpc: bool) -> Version {
    let two = parts.version >= HttpVersion::HTTP_2;
    match cluster.endpoints().protocol {
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
    record.request_id = outgoing::request_id(&mut parts.headers);
    let here = trace::forward(&mut parts.headers, &incoming, span, &fresh);
    record.trace = Some(here);
    let asked = !decision.rule.request_headers.is_empty() || !backend.request_headers.is_empty();
    if asked && !decision.changed {
        outgoing::change(&mut parts.headers, &decision.rule, backend);
    }
    identity::settle(&mut parts.headers, &connection.told, &decision.reserved, &decision.caller.headers);
    Traced { here, own: span.map(|span| (span, incoming.context.map(|came| came.span))), began: SystemTime::now() }
}

/// The body of the first attempt, copied to the mirrors.
fn tee(
    connection: &Arc<Connection>,
    world: &Arc<World>,
    mirrors: &[&crate::route::Mirror],
    decision: &Decision,
    (parts, replay, record): (&Parts, Option<&Replay>, &Record),
    (version, head): (Version, &Head),
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
        let content = if body.is_some() { head.content } else { Content::None };
        let copied = Copied {
            parts: parts.clone(),
            address: decision.address.clone(),
            body,
            content,
            grpc: record.grpc,
            client: connection.client.clone(),
            record: Box::new(record.copy()),
        };
        let Some(copied) = mirror::judged(connection, world, mirror, decision, head, copied) else { continue };
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
    record.outcome = Outcome { status, flag: HttpFlag::None, grpc: sent.answer.grpc, error: None, headers_after };
}

fn failed(record: &mut Record, failure: &Failure) {
    record.retries = failure.retries;
    if let Some(endpoint) = &failure.endpoint {
        record.destination = Some(Arc::clone(&endpoint.workload));
        record.destination_address = Some(endpoint.target.address);
        record.mutual_tls = endpoint.target.tunnel.is_some();
    }
}

/// What the response path depends on.
struct Finishing<'a> {
    connection: &'a Connection,
    decision: &'a Decision,
    backend: &'a Backend,
    rule: &'a Settings,
    settings: &'a Settings,
    deadline: Deadline,
}

/// The client's side of it.
struct Waiting {
    upgrade: Option<Upgrade>,
    version: HttpVersion,
    switch: Option<OnUpgrade>,
    upload: Option<Replay>,
}

impl Finishing<'_> {
    fn respond(&self, sent: Sent, client: Waiting, record: Box<Record>) -> Response<ResponseBody> {
        let Sent { answer, flight, pass, .. } = sent;
        let Waiting { upgrade, version, switch, upload } = client;
        match (answer.switched, upgrade, switch) {
            (true, Some(upgrade), Some(client)) => {
                return self.switch((upgrade, client), answer.response, (flight, pass, answer.lease), record);
            }
            (_, _, switch) => self.connection.not_taken(version, switch),
        }
        let (mut parts, body) = answer.response.into_parts();
        let dubious = hygiene::answer::may_be_followed(&record.method, parts.status, &parts.headers);
        hop::strip(&mut parts.headers);
        self.decorate(&mut parts.headers);
        if version < HttpVersion::HTTP_2 && upload.as_ref().is_some_and(Replay::is_held) {
            // The content was not asked for and is not read (RFC 9110, 10.1.1).
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut streamed = Box::new(Streamed {
            ended: false,
            body,
            peeked: answer.peeked,
            lease: Some(answer.lease),
            upload,
            two: parts.version >= HttpVersion::HTTP_2,
            dubious,
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
        let (first, second) = (&self.backend.response_headers, &self.decision.rule.response_headers);
        if !(first.is_empty() && second.is_empty()) {
            // A route cannot change how the response is framed.
            let length = headers.get(CONTENT_LENGTH).cloned();
            first.apply(headers);
            second.apply(headers);
            hop::strip(headers);
            match length {
                Some(length) => headers.insert(CONTENT_LENGTH, length),
                None => headers.remove(CONTENT_LENGTH),
            };
        }
        if let (Some(cors), Some(origin)) = (&self.decision.rule.cors, &self.decision.origin) {
            cors.decorate(origin, headers);
        }
        identity::settle_answer(headers);
    }

    fn switch<T: Send + 'static>(
        &self,
        (upgrade, client): (Upgrade, OnUpgrade),
        response: Response<Incoming>,
        kept: T,
        mut record: Box<Record>,
    ) -> Response<ResponseBody> {
        let mut headers = response.headers().clone();
        hop::strip(&mut headers);
        self.decorate(&mut headers);
        let status = hygiene::upgrade::agree(&upgrade, &mut headers);
        record.outcome.status = status.as_u16();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.connection.switched.store(true, Ordering::Relaxed);
        }
        tokio::spawn(upgrade::carry(
            client,
            response,
            self.rule.idle,
            (kept, record),
            |(kept, mut record), to_backend, to_client| {
                record.received.fetch_add(to_backend, Ordering::Relaxed);
                record.sent = to_client;
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
    let status = sent.map(|sent| sent.answer.response.status()).or(failure.map(|failure| failure.rejection.status()));
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
