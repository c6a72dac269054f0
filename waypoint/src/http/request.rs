//! One request, step by step: refuse what is malformed, find its rule, let it in, answer it or send it on.

use std::convert::Infallible;
use std::sync::Arc;

use http::header::ORIGIN;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;

use super::exchange::{Connection, Decision, answer, begin};
use super::reply::Reply;
use super::response::ResponseBody;
use super::{admit, forward, upgrade};
use crate::authorize;
use crate::config::Routing;
use crate::config::plan::ServicePlan;
use crate::filter::Asked;
use crate::jwt::Claims;
use crate::path::{self, Normalization, Readings};
use crate::query::Query;
use crate::route::{Action, BackendTarget, TableKind};
use crate::telemetry::Record;
use crate::world::World;
use crate::{hygiene, identity};

/// Answers one request.
pub async fn handle(
    connection: Arc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let world = connection.shared.worlds.load();
    let upgrade = upgrade::wanted(&mut request);
    let (mut parts, body) = request.into_parts();
    let mut record = begin(&connection, &parts);
    let decided = decide(&connection, &world, &mut parts, &mut record, upgrade.is_some());
    let is_grpc = record.grpc;
    let answered = match decided {
        Ok(decision) => {
            let going = forward::Going { connection: &connection, world: &world, decision, upgrade, record };
            Box::pin(forward::forward(going, parts, body)).await
        }
        Err(reply) => Err((Box::new(reply), record)),
    };
    Ok(answered.unwrap_or_else(|(reply, record)| answer(*reply, record, is_grpc)))
}

/// Everything that is decided without waiting.
fn decide(
    connection: &Connection,
    world: &World,
    parts: &mut Parts,
    record: &mut Record,
    upgrades: bool,
) -> Result<Decision, Reply> {
    let bad = |error: &dyn std::fmt::Display| Reply::error(400, "bad_request", "DPE", error.to_string());
    if let Some(why) = parts.headers.get(hygiene::REFUSED) {
        let why = String::from_utf8_lossy(why.as_bytes());
        let status = if why == "large" { 431 } else { 400 };
        return Err(Reply::error(status, "bad_request", "DPE", format!("malformed head: {why}")));
    }
    let host = hygiene::check(parts).map_err(|error| bad(&error))?;
    record.host = String::from_utf8_lossy(host.as_bytes()).into_owned();
    if parts.method == Method::CONNECT && !upgrades {
        return Err(Reply::error(405, "method", "-", "CONNECT without a protocol is not supported"));
    }
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
    let address = super::outgoing::address(&rule, backend, &host, &path, query_text.as_deref(), &found.fits.path)?;
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
