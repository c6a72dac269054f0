//! Whether a request is let in: its token, the authorization policies, the rate limits.

use std::time::Instant;

use http::HeaderMap;
use http::header::HeaderValue;

use super::reply::Reply;
use crate::authorize::{Request, judge};
use crate::config::plan::ServicePlan;
use crate::jwt::{Claims, JwtRule, claimed_issuer};
use crate::query::Query;
use crate::route::Rule;
use crate::shared::Shared;

/// Checks the token of a request. No token passes; `requestPrincipals` of a policy are how to ask for one.
pub fn authenticate(
    shared: &Shared,
    service: &ServicePlan,
    headers: &mut HeaderMap,
    query: &Query<'_>,
) -> Result<Option<Claims>, Reply> {
    let rules = &service.security.jwt;
    let mut seen = None;
    for rule in rules {
        let Some(found) = rule.find(headers, query) else { continue };
        let issuer = claimed_issuer(&found.token).unwrap_or_default();
        if issuer != rule.issuer {
            seen = Some(issuer);
            continue;
        }
        let Some(keys) = shared.keys.get(&rule.keys) else {
            let detail = format!("the keys of issuer {issuer:?} are not available");
            return Err(Reply::error(503, "jwks", "UAEX", detail));
        };
        let claims = rule.verify(&found.token, &keys).map_err(|error| Reply::unauthenticated(&error.to_string()))?;
        pass_on(rule, &found.token, found.header.as_ref(), &claims, headers);
        return Ok(Some(claims));
    }
    match seen {
        Some(issuer) => Err(Reply::unauthenticated(&format!("issuer {issuer:?} is not trusted"))),
        None => Ok(None),
    }
}

/// What the backend gets of a token.
fn pass_on(rule: &JwtRule, token: &str, carrier: Option<&http::HeaderName>, claims: &Claims, headers: &mut HeaderMap) {
    if !rule.forward
        && let Some(name) = carrier
    {
        headers.remove(name);
    }
    if let Some(name) = &rule.payload_header
        && let Some(Ok(value)) = token.split('.').nth(1).map(HeaderValue::from_str)
    {
        headers.insert(name, value);
    }
    for (name, path) in &rule.claim_headers {
        // A caller's own header must not pass for a claim.
        headers.remove(name);
        if let Ok(value) = HeaderValue::try_from(claims.values(path).join(","))
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    }
}

/// Judges a request by the policies.
pub fn authorize(service: &ServicePlan, request: &Request<'_>) -> Result<(), Reply> {
    if service.security.policies.is_empty() {
        return Ok(());
    }
    let judgement = judge(service.security.policies.iter().map(|policy| &**policy), request);
    for policy in &judgement.audits {
        tracing::info!(target: "audit", "{} matches a request of {:?}", policy, request.source);
    }
    for policy in &judgement.dry_run {
        tracing::info!(target: "audit", "{} would refuse a request of {:?} (dry run)", policy, request.source);
    }
    match judgement.refusal {
        None => Ok(()),
        Some(refusal) => {
            tracing::debug!("refused: {refusal}");
            Err(Reply::error(403, "rbac", "UAEX", "RBAC: access denied"))
        }
    }
}

/// Counts a request against the limit of its service, and that of its rule if it has one of its own.
pub fn limit(shared: &Shared, service: &ServicePlan, rule: &Rule) -> Result<(), Reply> {
    let now = Instant::now();
    if let Some(rate) = &service.settings.rate {
        let limiter = shared.limits.get(&service.service.key.to_string());
        limiter.admit(rate, now).map_err(Reply::limited)?;
    }
    if let Some(rate) = &rule.settings.rate
        && rule.settings.rate != service.settings.rate
    {
        shared.limits.get(&rule.label).admit(rate, now).map_err(Reply::limited)?;
    }
    Ok(())
}
