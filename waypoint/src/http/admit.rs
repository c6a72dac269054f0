//! Whether a request is let in: its token, the authorization policies, the rate limits.

use std::sync::Arc;
use std::time::Instant;

use http::header::MAX_FORWARDS;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh::policy::subject::Subject;
use mesh::policy::trace::trace;

use super::reply::Reply;
use crate::auth::authorize::judge;
use crate::auth::jwt::{self, Claims, Found, JwtError, JwtRule, Place, claimed_issuer};
use crate::config::plan::ServicePlan;
use crate::rejection::Rejection;
use crate::request::query::Query;
use crate::route::Rule;
use crate::shared::Shared;

/// The caller as a valid token names it.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The JWT rule that accepted the token.
    pub rule: Option<Arc<JwtRule>>,
    /// The claims of the token.
    pub claims: Option<Claims>,
    /// Headers that the backend gets from the token.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Query parameters that carried the token; they are removed before the request is forwarded.
    pub params: Vec<String>,
}

/// Checks the token of a request. A request without a token is let through: a policy requires one with
/// `requestPrincipals`.
pub fn authenticate(
    shared: &Shared,
    service: &ServicePlan,
    headers: &mut HeaderMap,
    query: &Query<'_>,
) -> Result<Caller, Reply> {
    let rules = &service.security.jwt;
    let refused = |error: JwtError| Reply::unauthenticated(&error.to_string());
    let Some(found) = jwt::find(rules, headers, query).map_err(refused)? else { return Ok(Caller::default()) };
    let issuer = claimed_issuer(&found.token).unwrap_or_default();
    let mut error = Reply::unauthenticated(&JwtError::Issuer(issuer.clone()).to_string());
    for rule in found.rules.iter().filter_map(|index| rules.get(*index)).filter(|rule| rule.issuer == issuer) {
        let Some(keys) = shared.keys.get(&rule.keys) else {
            let detail = format!("the keys of issuer {issuer:?} are not available");
            error = Reply::rejected(Rejection::NoKeys, detail);
            continue;
        };
        match rule.verify(&found.token, &keys).and_then(|claims| own_principal(rules, claims, &issuer)) {
            Ok(claims) => return Ok(pass_on(rule, &found, claims, headers)),
            Err(refusal) => error = refused(refusal),
        }
    }
    Err(error)
}

/// A principal is issuer and subject, joined. A subject must not make it one of another issuer that is trusted here.
fn own_principal(rules: &[Arc<JwtRule>], claims: Claims, issuer: &str) -> Result<Claims, JwtError> {
    let names = |other: &str| claims.principal.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
    let others = rules.iter().map(|rule| rule.issuer.as_str());
    match others.filter(|other| other.len() > issuer.len() && names(other)).max_by_key(|other| other.len()) {
        Some(other) => Err(JwtError::Subject(other.to_owned())),
        None => Ok(claims),
    }
}

/// Headers that the backend gets from a token. Policies see them too.
fn pass_on(rule: &Arc<JwtRule>, found: &Found, claims: Claims, headers: &mut HeaderMap) -> Caller {
    let mut params = Vec::new();
    for place in found.places.iter().filter(|_| !rule.forward) {
        match place {
            Place::Header(name) => _ = headers.remove(name),
            Place::Cookie(name) => jwt::remove_cookie(headers, name),
            Place::Param(name) => params.push(name.clone()),
        }
    }
    let payload = found.token.split('.').nth(1).and_then(|payload| HeaderValue::from_str(payload).ok());
    let mut told: Vec<(HeaderName, HeaderValue)> = rule.payload_header.iter().cloned().zip(payload).collect();
    for (name, path) in &rule.claim_headers {
        told.extend(claims.header(path).map(|value| (name.clone(), value)));
    }
    for (name, value) in &told {
        headers.insert(name, value.clone());
    }
    Caller { rule: Some(Arc::clone(rule)), claims: Some(claims), headers: told, params }
}

/// Evaluates the authorization policies for a request.
pub fn authorize(service: &ServicePlan, request: &Subject<'_>) -> Result<(), Reply> {
    if service.security.policies.is_empty() {
        return Ok(());
    }
    let judgement = judge(service.security.policies.iter().map(|policy| &**policy), request);
    for policy in &judgement.audits {
        tracing::info!(target: "audit", "{} matches a request of {:?}", policy, request.identity);
    }
    for policy in &judgement.dry_run {
        tracing::info!(target: "audit", "{} would refuse a request of {:?} (dry run)", policy, request.identity);
    }
    match judgement.refusal {
        None => Ok(()),
        Some(refusal) => {
            report_why(service, request);
            tracing::debug!("refused: {refusal}");
            Err(Reply::rejected(Rejection::Denied, "RBAC: access denied"))
        }
    }
}

/// Logs for every policy why it matches the refused request, or does not.
pub fn report_why(service: &ServicePlan, subject: &Subject<'_>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for policy in &service.security.policies {
        for rule in trace(policy, subject) {
            tracing::debug!("{} {}: {rule}", policy.action.as_str(), policy.key);
        }
    }
}

/// Answers OPTIONS and TRACE that may go no further, and counts the hop of others that name a limit (RFC 9110, 7.6.2).
pub fn last_hop(parts: &mut Parts) -> Result<(), Reply> {
    if parts.method != Method::OPTIONS && parts.method != Method::TRACE {
        return Ok(());
    }
    let Some(most) = parts.headers.get(MAX_FORWARDS) else { return Ok(()) };
    let most = most.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let most: Option<u32> = most.and_then(|text| text.parse().ok());
    match most.map(|most| most.checked_sub(1)) {
        Some(Some(left)) => {
            parts.headers.insert(MAX_FORWARDS, HeaderValue::from(left));
            Ok(())
        }
        Some(None) => Err(Reply::last_hop(&parts.method)),
        None => Err(Reply::rejected(Rejection::BadRequest, "Max-Forwards must be a number")),
    }
}

/// Counts a request against the limit of a service.
pub fn limit_service(shared: &Shared, service: &ServicePlan) -> Result<(), Reply> {
    let Some(rate) = &service.settings.rate else { return Ok(()) };
    let limiter = shared.limits.get(&service.service.key.to_string());
    limiter.admit(rate, Instant::now()).map_err(Reply::limited)
}

/// Counts a request against the limit of its service, and that of its rule if it has one of its own.
pub fn limit(shared: &Shared, service: &ServicePlan, rule: &Rule) -> Result<(), Reply> {
    limit_service(shared, service)?;
    let now = Instant::now();
    if let Some(rate) = &rule.settings.rate
        && rule.settings.rate != service.settings.rate
    {
        shared.limits.get(&rule.label).admit(rate, now).map_err(Reply::limited)?;
    }
    Ok(())
}
