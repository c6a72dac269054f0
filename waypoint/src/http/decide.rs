//! What becomes of a request, decided without waiting, in four steps: refuse what cannot be read or is for nobody
//! here, find its rule, let it in, choose its backend. Each hands on what the next one cannot do without.

use std::sync::Arc;

use http::Method;
use http::header::ORIGIN;
use http::request::Parts;
use mesh::model::service::ServiceKey;

use super::admit::{self, Caller};
use super::exchange::{Connection, Decision};
use super::judge::{self, Form, Passing};
use super::outgoing;
use super::reply::Reply;
use crate::config::Routing;
use crate::config::plan::ServicePlan;
use crate::filter::Asked;
use crate::identity;
use crate::matcher::PathMatch;
use crate::rejection::Rejection;
use crate::request::hygiene::{Head, lines};
use crate::request::query::Query;
use crate::route::{Action, Backend, BackendTarget, Found, Rule, Table, TableKind};
use crate::telemetry::Record;
use crate::world::World;
use mesh::policy::path::{self, Normalization};

/// The decision about a request, or the waypoint's own response to it.
pub fn decide(
    connection: &Connection,
    world: &World,
    parts: &mut Parts,
    head: &Head,
    record: &mut Record,
) -> Result<Decision, Reply> {
    record.host = String::from_utf8_lossy(head.host.as_bytes()).into_owned();
    let service = world.service(&connection.service, connection.port).ok_or_else(gone)?;
    let received = refuse(connection, &service, head, parts)?;
    let query = Query::new(received.query.as_deref().unwrap_or_default());
    one_line_each(&received, parts)?;
    let routed = route(&received, &query, parts)?;
    let admitted = admit(&received, &query, routed, parts, record)?;
    choose(&received, &query, admitted, world, parts, &record.host)
}

/// An unambiguous request for an HTTP port of a service behind this waypoint.
struct Received<'a> {
    connection: &'a Connection,
    service: &'a ServicePlan,
    table: &'a Table,
    head: &'a Head,
    /// The path in normal form.
    path: String,
    /// The query without `?`.
    query: Option<String>,
}

/// The result of the route lookup.
struct Routed<'a> {
    /// The rule and the match, if any.
    found: Option<Found<'a>>,
    /// A route of another namespace forwards it: policies judge the request as it is sent, not as it was received.
    is_judged_as_sent: bool,
}

/// A request that was admitted, as far as it is judged as it was received.
struct Admitted<'a> {
    rule: Arc<Rule>,
    /// The path match of the rule that matched.
    matched: &'a PathMatch,
    /// The caller as its token names it.
    caller: Caller,
}

fn gone() -> Reply {
    Reply::rejected(Rejection::NoService, "the service is not behind this waypoint any more")
}

/// Refuses what is for nobody here or has no path. What only the mesh may say is gone from the headers afterwards.
fn refuse<'a>(
    connection: &'a Connection,
    service: &'a ServicePlan,
    head: &'a Head,
    parts: &mut Parts,
) -> Result<Received<'a>, Reply> {
    let port = service.ports.get(&connection.port).ok_or_else(gone)?;
    identity::enter(&mut parts.headers, &service.security.reserved);
    let path = normal(parts, service.settings.normalization)
        .map_err(|error| Reply::rejected(Rejection::BadRequest, error.to_string()))?;
    let query = parts.uri.query().map(str::to_owned);
    match &**port.routing(Some(&connection.client.identity.namespace)) {
        Routing::Http(table) => Ok(Received { connection, service, table, head, path, query }),
        Routing::Tcp(_) => {
            let detail = "the service takes connections, not requests, on this port";
            Err(Reply::rejected(Rejection::NotHttp, detail))
        }
    }
}

/// Joins the lines of each header that routes match into one, which policies and the backend get too: with one line,
/// two readers cannot differ on whether the first or the last counts. Refuses a request whose `Connection` removed one.
fn one_line_each(received: &Received<'_>, parts: &mut Parts) -> Result<(), Reply> {
    let matched = received.table.headers();
    received.head.keeps(matched.iter()).map_err(Reply::bad)?;
    matched.iter().for_each(|name| lines::join(&mut parts.headers, name));
    Ok(())
}

/// Finds the rule. A CORS preflight ends here: it carries no token, and its answer says nothing of what policy would.
fn route<'a>(received: &Received<'a>, query: &Query<'_>, parts: &Parts) -> Result<Routed<'a>, Reply> {
    let found = received.table.find(&parts.method, &received.path, &parts.headers, query);
    if let Some(cors) = found.and_then(|found| found.rule.cors.as_ref())
        && let Some(headers) = cors.preflight(&parts.method, &parts.headers)
    {
        return Err(Reply::preflight(headers));
    }
    let is_sent = |rule: &Rule| matches!(rule.action, Action::Forward(_));
    let is_judged_as_sent = found.is_some_and(|found| found.rule.foreign && is_sent(found.rule));
    Ok(Routed { found, is_judged_as_sent })
}

/// Admits the request: its token, the policies, the rate limits. A caller that is not allowed does not learn which
/// routes there are.
fn admit<'a>(
    received: &Received<'a>,
    query: &Query<'_>,
    routed: Routed<'a>,
    parts: &mut Parts,
    record: &mut Record,
) -> Result<Admitted<'a>, Reply> {
    let Received { connection, service, table, .. } = received;
    let caller = if routed.is_judged_as_sent {
        Caller::default()
    } else {
        let destination = connection.destination;
        let (method, host, path) = (&parts.method, &*record.host, &*received.path);
        let came = Form { head: received.head, method, host, path, query, destination };
        judge::admit(connection, service, &came, &mut parts.headers, None)?
    };
    admit::last_hop(parts)?;
    let Some(found) = routed.found else {
        let what = if table.kind == TableKind::Grpc { "no GRPCRoute matches" } else { "no route matches" };
        return Err(Reply::rejected(Rejection::NoRoute, what));
    };
    let rule = Arc::clone(found.rule);
    record.route = Some(Arc::clone(&rule.label));
    admit::limit(&connection.shared, service, &rule)?;
    Ok(Admitted { rule, matched: &found.route_match.path, caller })
}

/// Chooses the backend and the request that is sent to it, and judges that request where policies judge what is sent.
fn choose(
    received: &Received<'_>,
    query: &Query<'_>,
    admitted: Admitted<'_>,
    world: &World,
    parts: &mut Parts,
    host: &str,
) -> Result<Decision, Reply> {
    let Received { connection, service, path, query: text, .. } = received;
    let Admitted { rule, matched, mut caller } = admitted;
    let asked = Asked { host, port: connection.port, path, query: text.as_deref() };
    let (index, backend, target) = backend_of(&rule, &asked, matched)?;
    let mut address = outgoing::address(&rule, backend, &received.head.host, path, text.as_deref(), matched)?;
    let origin = rule.cors.as_ref().and_then(|_| parts.headers.get(ORIGIN).cloned());
    address.take_off(&caller.params)?;
    let passing = Passing { head: received.head, rule: &rule, backend, target, method: &parts.method, query };
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
fn backend_of<'a>(
    rule: &'a Rule,
    asked: &Asked<'_>,
    matched: &PathMatch,
) -> Result<(usize, &'a Backend, (&'a ServiceKey, u16)), Reply> {
    let backend = match &rule.action {
        Action::Fail(why) => return Err(Reply::rejected(Rejection::RouteInvalid, why.to_string())),
        Action::Redirect(redirect) => return Err(Reply::redirect(redirect.status, &redirect.location(asked, matched))),
        Action::Forward(_) => rule.choose(fastrand::f64()),
    };
    let Some((index, backend)) = backend else {
        return Err(Reply::rejected(Rejection::NoBackend, "all backends of the rule have weight 0"));
    };
    let target = match &backend.target {
        BackendTarget::Service(service, port) => (service, *port),
        BackendTarget::Invalid(why) => return Err(Reply::rejected(Rejection::BackendInvalid, why.to_string())),
    };
    match &backend.redirect {
        Some(redirect) => Err(Reply::redirect(redirect.status, &redirect.location(asked, matched))),
        None => Ok((index, backend, target)),
    }
}

/// The path in normal form.
fn normal(parts: &Parts, how: Normalization) -> Result<String, path::PathError> {
    match parts.uri.path() {
        // `OPTIONS *` asks about the server.
        "*" | "" if parts.method == Method::OPTIONS => Ok("*".to_owned()),
        "" => Ok("/".to_owned()),
        path => path::normalize(path.as_bytes(), how).map(|normal| normal.into_owned()),
    }
}
