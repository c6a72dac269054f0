//! One request, step by step: refuse what is malformed, find its rule, let it in, answer it or send it on.

use std::convert::Infallible;
use std::sync::Arc;

use http::header::{CONNECTION, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use mesh::model::service::ServiceKey;

use super::admit::Caller;
use super::exchange::{Connection, Decision, answer, begin};
use super::judge::{Form, Passing};
use super::reply::Reply;
use super::response::ResponseBody;
use super::{admit, forward, judge};
use crate::config::Routing;
use crate::config::plan::ServicePlan;
use crate::filter::Asked;
use crate::identity;
use crate::matcher::PathMatch;
use crate::request::hygiene::{self, Content, Head};
use crate::request::query::Query;
use crate::route::{Action, Backend, BackendTarget, Rule, TableKind};
use crate::telemetry::Record;
use crate::world::World;
use mesh::policy::path::{self, Normalization};

/// Answers one request.
pub async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let world = connection.shared.worlds.load();
    let (mut parts, body) = request.into_parts();
    let (version, content) = (parts.version, content(&body));
    let switch = parts.extensions.remove::<OnUpgrade>();
    let read = hygiene::decide(&mut parts, content, &connection.service.hostname);
    // A client that waits is never asked for its content by an answer of our own.
    let waits = read.as_ref().is_ok_and(|head| head.waits);
    let mut record = begin(&connection, &parts);
    let is_grpc = record.grpc;
    let decided = read.map_err(Reply::bad).and_then(|head| {
        let decision = decide(&connection, &world, &mut parts, &head, &mut record)?;
        Ok((head, decision))
    });
    let answered = match decided {
        Ok((head, decision)) => {
            let going = forward::Going { connection: &connection, world: &world, decision, head, switch, record };
            Box::pin(forward::forward(going, parts, body)).await
        }
        Err(reply) => {
            connection.not_taken(version, switch);
            Err((Box::new(reply), record))
        }
    };
    Ok(answered.unwrap_or_else(|(reply, record)| {
        let unread = version < Version::HTTP_2 && is_unread(content, record.received(), waits);
        let mut response = answer(*reply, record, is_grpc);
        if unread {
            // We will not read the rest (RFC 9112, 9.6).
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }))
}

/// What follows the head.
fn content(body: &Incoming) -> Content {
    match (body.is_end_stream(), body.size_hint().exact()) {
        (true, _) => Content::None,
        (false, Some(length)) => Content::Length(length),
        (false, None) => Content::Unknown,
    }
}

/// Contents up to this length are read with the head, mostly: the connection can go on.
const SMALL: u64 = 8 << 10;

/// Whether an answer of our own leaves content unread that is worth a connection.
fn is_unread(content: Content, received: u64, waits: bool) -> bool {
    match content {
        Content::None => false,
        Content::Length(length) => (length > SMALL || waits) && received < length,
        Content::Unknown => true,
    }
}

/// Everything that is decided without waiting.
fn decide(
    connection: &Connection,
    world: &World,
    parts: &mut Parts,
    head: &Head,
    record: &mut Record,
) -> Result<Decision, Reply> {
    let bad = |error: &dyn std::fmt::Display| Reply::error(400, "bad_request", "DPE", error.to_string());
    record.host = String::from_utf8_lossy(head.host.as_bytes()).into_owned();
    let gone = || Reply::error(503, "no_service", "NR", "the service is not behind this waypoint any more");
    let service = world.service(&connection.service, connection.port).ok_or_else(gone)?;
    let service: &ServicePlan = &service;
    let port = service.ports.get(&connection.port).ok_or_else(gone)?;
    identity::enter(&mut parts.headers, &service.security.reserved);
    let path = normal(parts, service.settings.normalization).map_err(|error| bad(&error))?;
    let query_text = parts.uri.query().map(str::to_owned);
    let query = Query::new(query_text.as_deref().unwrap_or_default());
    let routing = port.routing(Some(&connection.client.identity.namespace));
    let Routing::Http(table) = &**routing else {
        return Err(Reply::error(503, "not_http", "NR", "the service takes connections, not requests, on this port"));
    };
    let found = table.find(&parts.method, &path, &parts.headers, &query);
    if let Some(cors) = found.and_then(|found| found.rule.cors.as_ref())
        && let Some(headers) = cors.preflight(&parts.method, &parts.headers)
    {
        return Err(Reply::preflight(headers));
    }
    // What somebody else's route sends on is judged as it is sent; what it does not send on, as it came.
    let is_sent = |rule: &Rule| matches!(rule.action, Action::Forward(_));
    let waits = found.is_some_and(|found| found.rule.foreign && is_sent(found.rule));
    let method = parts.method.clone();
    let destination = connection.destination;
    let came = Form { method: &method, host: &record.host, path: &path, query: &query, destination };
    let mut caller = match waits {
        true => Caller::default(),
        false => judge::admit(connection, service, &came, &mut parts.headers, None)?,
    };
    admit::last_hop(parts)?;
    let Some(found) = found else {
        let what = if table.kind == TableKind::Grpc { "no GRPCRoute matches" } else { "no route matches" };
        return Err(Reply::error(404, "no_route", "NR", what));
    };
    let rule = Arc::clone(found.rule);
    record.route = Some(Arc::clone(&rule.label));
    admit::limit(&connection.shared, service, &rule)?;
    let asked = Asked { host: &record.host, port: connection.port, path: &path, query: query_text.as_deref() };
    let (index, backend, target) = choose(&rule, &asked, &found.fits.path)?;
    let mut address =
        super::outgoing::address(&rule, backend, &head.host, &path, query_text.as_deref(), &found.fits.path)?;
    let origin = rule.cors.as_ref().and_then(|_| parts.headers.get(ORIGIN).cloned());
    let passing = Passing { rule: &rule, backend, target, method: &method, query: &query };
    let changed = passing.is_judged_as_sent(connection);
    let mut reserved = Arc::clone(&service.security.reserved);
    if changed {
        let judged = passing.settle(connection, world, service, (&mut address, &mut parts.headers), &caller)?;
        if let Some((known, by)) = judged {
            (caller, reserved) = (known, by);
        }
    }
    Ok(Decision { backend: index, address, origin, changed, caller, reserved, rule })
}

/// The backend of a rule that a request goes to, and its service and port; or the rule's own answer.
fn choose<'a>(
    rule: &'a Rule,
    asked: &Asked<'_>,
    matched: &PathMatch,
) -> Result<(usize, &'a Backend, (&'a ServiceKey, u16)), Reply> {
    let backend = match &rule.action {
        Action::Fail(status, why) => return Err(Reply::error(*status, "route_invalid", "-", why.to_string())),
        Action::Redirect(redirect) => return Err(Reply::redirect(redirect.status, &redirect.location(asked, matched))),
        Action::Forward(_) => rule.choose(fastrand::f64()),
    };
    let Some((index, backend)) = backend else {
        return Err(Reply::error(500, "no_backend", "-", "all backends of the rule have weight 0"));
    };
    let target = match &backend.target {
        BackendTarget::Service(service, port) => (service, *port),
        BackendTarget::Invalid(why) => return Err(Reply::error(500, "backend_invalid", "-", why.to_string())),
    };
    match &backend.redirect {
        Some(redirect) => Err(Reply::redirect(redirect.status, &redirect.location(asked, matched))),
        None => Ok((index, backend, target)),
    }
}

fn normal(parts: &Parts, how: Normalization) -> Result<String, path::PathError> {
    match parts.uri.path() {
        // `OPTIONS *` asks about the server.
        "*" | "" if parts.method == Method::OPTIONS => Ok("*".to_owned()),
        "" => Ok("/".to_owned()),
        path => path::normalize(path.as_bytes(), how).map(|normal| normal.into_owned()),
    }
}
