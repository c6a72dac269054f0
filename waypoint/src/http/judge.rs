//! Which policies and which JWT rules judge a request, and whether as it was received or as it is sent.
//!
//! The policies of the service that was called judge the request as it came, unless somebody else's route changes it on
//! the way: then they judge what is sent, because whoever changes a request that was judged already decides what was
//! judged. The policies of another service behind this waypoint to which a route leads judge what is sent to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, Method};
use mesh::model::service::{ServiceKey, Vip};
use mesh::policy::overrides::{METHOD_PARAM, Overrides};
use mesh::policy::subject::{Http, Token};

use super::admit::{self, Caller};
use super::exchange::Connection;
use super::outgoing::{self, Address};
use super::reply::Reply;
use crate::auth::jwt::JwtRule;
use crate::config::plan::ServicePlan;
use crate::identity::{self, Reserved};
use crate::rejection::Rejection;
use crate::request::hygiene::Head;
use crate::request::query::Query;
use crate::route::{Backend, Rule};
use crate::world::World;
use mesh::policy::path::Readings;

/// A request in the form that is judged.
pub struct Form<'a, 'q> {
    /// What was decided when it was received.
    pub head: &'a Head,
    /// Its method.
    pub method: &'a Method,
    /// Its host.
    pub host: &'a str,
    /// Its path in normal form, without the query.
    pub path: &'a str,
    /// Its query.
    pub query: &'a Query<'q>,
    /// The destination address that policies see.
    pub destination: SocketAddr,
}

/// Admits a request to a service, or says why not, after headers that only the mesh may set were removed
/// ([`identity::enter`]). `known` is the caller that an earlier check of its token has found.
pub fn admit(
    connection: &Connection,
    service: &ServicePlan,
    form: &Form<'_, '_>,
    headers: &mut HeaderMap,
    known: Option<&Caller>,
) -> Result<Caller, Reply> {
    form.head.keeps(service.security.reserved.judged.iter()).map_err(Reply::bad)?;
    let mut caller = admit::authenticate(&connection.shared, service, headers, form.query)?;
    // A token that has been taken off the request stays good where the same rule asks for it.
    let same = |rule: &Arc<JwtRule>| service.security.jwt.iter().any(|own| Arc::ptr_eq(own, rule));
    if let Some(known) = known.filter(|known| caller.claims.is_none() && known.rule.as_ref().is_some_and(same)) {
        caller = known.clone();
        for (name, value) in &caller.headers {
            headers.insert(name, value.clone());
        }
    }
    let path = Readings::of(form.path);
    let overridable = service.security.overridable;
    let methods = overridable.method.then(|| form.query.all(METHOD_PARAM)).into_iter().flatten();
    let overrides = Overrides::read(overridable, form.path, headers, methods);
    let token = caller.claims.as_ref().map(|claims| claims as &dyn Token);
    let http = Http { method: form.method, host: form.host, path: &path, headers, overrides: &overrides, token };
    let judged = connection.client.subject(form.destination, Some(http));
    admit::authorize(service, &judged)?;
    path.check().map_err(|error| Reply::rejected(Rejection::BadRequest, error.to_string()))?;
    Ok(caller)
}

/// A request on its way to a backend.
pub struct Passing<'a, 'q> {
    /// What was decided when it was received.
    pub head: &'a Head,
    /// The rule that sends it.
    pub rule: &'a Rule,
    /// The backend that it is sent to.
    pub backend: &'a Backend,
    /// The service and port of that backend.
    pub target: (&'a ServiceKey, u16),
    /// Its method.
    pub method: &'a Method,
    /// Its query.
    pub query: &'a Query<'q>,
}

impl Passing<'_, '_> {
    /// Whether the request is to be judged as it is sent, beside or in place of how it came.
    pub fn is_judged_as_sent(&self, connection: &Connection) -> bool {
        self.rule.foreign || *self.target.0 != connection.service
    }

    /// Applies the route's changes and lets the policies of the backend's service judge the result; those of the
    /// service that was called, if the backend is not behind this waypoint and the route is of another namespace.
    pub fn settle(
        &self,
        connection: &Connection,
        world: &World,
        called: &ServicePlan,
        (address, headers): (&mut Address, &mut HeaderMap),
        known: &Caller,
    ) -> Result<Option<(Caller, Arc<Reserved>)>, Reply> {
        outgoing::change(headers, self.rule, self.backend);
        let (key, port) = self.target;
        let is_same = *key == connection.service;
        let other = if is_same { None } else { world.plan.services.get(key) };
        let judge = match other {
            Some(other) => &**other,
            None if self.rule.foreign => called,
            None => return Ok(None),
        };
        address.normalise(judge.settings.normalization)?;
        let ip = other.map_or(connection.destination.ip(), |other| address_of(other));
        let host = String::from_utf8_lossy(address.host.as_bytes()).into_owned();
        let (path, destination) = (address.path.path().to_owned(), SocketAddr::new(ip, port));
        let form =
            Form { head: self.head, method: self.method, host: &host, path: &path, query: self.query, destination };
        identity::enter(headers, &judge.security.reserved);
        let caller = admit(connection, judge, &form, headers, Some(known))?;
        address.take_off(&caller.params)?;
        if other.is_some() {
            admit::limit_service(&connection.shared, judge)?;
        }
        Ok(Some((caller, Arc::clone(&judge.security.reserved))))
    }
}

/// The address under which policies see a service.
pub fn address_of(plan: &ServicePlan) -> IpAddr {
    let address = plan.service.vips.iter().find_map(Vip::address);
    address.unwrap_or(IpAddr::from([0, 0, 0, 0]))
}
