//! One request, step by step: refuse what is malformed, find its rule, let it in, answer it or send it on.

use std::convert::Infallible;
use std::sync::Arc;

use http::header::{CONNECTION, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::exchange::{Connection, Decision, answer, begin};
use super::reply::Reply;
use super::response::ResponseBody;
use super::{admit, forward};
use crate::authorize;
use crate::config::Routing;
use crate::config::plan::ServicePlan;
use crate::door::{self, Content, Head};
use crate::filter::Asked;
use crate::identity;
use crate::jwt::Claims;
use crate::path::{self, Normalization, Readings};
use crate::query::Query;
use crate::route::{Action, BackendTarget, TableKind};
use crate::telemetry::Record;
use crate::world::World;

/// Answers one request.
pub async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let world = connection.shared.worlds.load();
    let (mut parts, body) = request.into_parts();
    let (version, content) = (parts.version, content(&body));
    let switch = parts.extensions.remove::<OnUpgrade>();
    let read = door::decide(&mut parts, content, &connection.service.hostname);
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
        let unread = version < Version::HTTP_2 && is_unread(content, record.received());
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
fn is_unread(content: Content, received: u64) -> bool {
    match content {
        Content::None => false,
        Content::Length(length) => length > SMALL && received < length,
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
    let caller = admit::authenticate(&connection.shared, service, &mut parts.headers, &query)?;
    judge(connection, service, parts, (&record.host, &path), caller.claims.as_ref())?;
    admit::last_hop(parts)?;
    let Some(found) = found else {
        let what = if table.kind == TableKind::Grpc { "no GRPCRoute matches" } else { "no route matches" };
        return Err(Reply::error(404, "no_route", "NR", what));
    };
    let rule = Arc::clone(found.rule);
    record.route = Some(Arc::clone(&rule.label));
    admit::limit(&connection.shared, service, &rule)?;
    let asked = Asked { host: &record.host, port: connection.port, path: &path, query: query_text.as_deref() };
    let backend = match &rule.action {
        Action::Fail(status, why) => return Err(Reply::error(*status, "route_invalid", "-", why.to_string())),
        Action::Redirect(redirect) => {
            return Err(Reply::redirect(redirect.status, &redirect.location(&asked, &found.fits.path)));
        }
        Action::Forward(_) => rule.choose(fastrand::f64()),
    };
    let Some((index, backend)) = backend else {
        return Err(Reply::error(500, "no_backend", "-", "all backends of the rule have weight 0"));
    };
    if let BackendTarget::Invalid(why) = &backend.target {
        return Err(Reply::error(500, "backend_invalid", "-", why.to_string()));
    }
    if let Some(redirect) = &backend.redirect {
        return Err(Reply::redirect(redirect.status, &redirect.location(&asked, &found.fits.path)));
    }
    let address = super::outgoing::address(&rule, backend, &head.host, &path, query_text.as_deref(), &found.fits.path)?;
    let origin = rule.cors.as_ref().and_then(|_| parts.headers.get(ORIGIN).cloned());
    let reserved = Arc::clone(&service.security.reserved);
    Ok(Decision { backend: index, address, origin, rule, reserved, claims: caller.headers })
}

/// Judges a request by the policies, in every reading of its path; one that hides another place goes nowhere anyway.
fn judge(
    connection: &Connection,
    service: &ServicePlan,
    parts: &Parts,
    (host, path): (&str, &str),
    claims: Option<&Claims>,
) -> Result<(), Reply> {
    let path = Readings::of(path);
    let http = authorize::Http { method: &parts.method, host, path: &path, headers: &parts.headers };
    let judged = authorize::Request {
        source: Some(&connection.client.identity),
        source_ip: connection.client.address.ip(),
        destination: connection.destination,
        http: Some(http),
        claims,
    };
    admit::authorize(service, &judged)?;
    path.check().map_err(|error| Reply::error(400, "bad_request", "DPE", error.to_string()))
}

fn normal(parts: &Parts, how: Normalization) -> Result<String, path::PathError> {
    match parts.uri.path() {
        // `OPTIONS *` asks about the server.
        "*" | "" if parts.method == Method::OPTIONS => Ok("*".to_owned()),
        "" => Ok("/".to_owned()),
        path => path::normalize(path.as_bytes(), how).map(|normal| normal.into_owned()),
    }
}
