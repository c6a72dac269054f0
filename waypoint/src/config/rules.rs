//! Pure. Compiles the rules of one route, except what depends on the service that they are attached to.

use std::sync::Arc;
use std::time::Duration;

use super::filters::{self, Filters};
use super::matches::{self, Compiled};
use super::object::Object;
use super::reference::Resolver;
use super::schema::route::{Filter, Retry, RouteRule, RouteSpec, Timeouts};
use super::status::Findings;
use crate::duration;
use crate::filter::PathChange;
use crate::resilience::retry::StatusSet;
use crate::route::{Action, Rule, RuleId};
use crate::settings::Overlay;

/// Which kind of route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// TCPRoute.
    Tcp,
    /// HTTPRoute.
    Http,
    /// GRPCRoute; wins over the others on the same port.
    Grpc,
}

impl RouteKind {
    /// The kind of an object.
    pub fn of(object: &Object) -> Option<Self> {
        match (object.group(), &*object.kind) {
            ("gateway.networking.k8s.io", "HTTPRoute") => Some(Self::Http),
            ("gateway.networking.k8s.io", "GRPCRoute") => Some(Self::Grpc),
            ("gateway.networking.k8s.io", "TCPRoute") => Some(Self::Tcp),
            _ => None,
        }
    }

    /// As `kind` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCPRoute",
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// One rule of a route.
#[derive(Clone, Debug)]
pub struct CompiledRule {
    /// Its matches; one fits everything when none is written.
    pub matches: Vec<Compiled>,
    /// What it does. Settings are still the defaults.
    pub rule: Rule,
    /// What it says about settings itself (`timeouts`, `retry`).
    pub overlay: Arc<Overlay>,
}

/// Compiles a route's rules. A rule whose matches cannot be read is dropped; one whose filters cannot be carried out
/// answers its matches with 500, so that nothing falls through to a wider rule.
pub fn compile(
    object: &Object,
    kind: RouteKind,
    spec: &RouteSpec,
    resolver: &Resolver<'_>,
    findings: &mut Findings,
) -> Vec<CompiledRule> {
    let default = [RouteRule::default()];
    let written = spec.rules.as_deref().unwrap_or(if kind == RouteKind::Http { &default } else { &[] });
    if kind == RouteKind::Tcp && written.len() != 1 {
        findings.reject("UnsupportedValue", format!("a TCPRoute has exactly one rule, not {}", written.len()));
    }
    let mut rules = Vec::with_capacity(written.len());
    for (index, rule) in written.iter().enumerate() {
        let id =
            RuleId { kind: kind.as_str(), route: object.full_name(), index, name: rule.name.as_deref().map(Arc::from) };
        match one(id, kind, rule, resolver, findings) {
            Ok(compiled) => rules.push(compiled),
            Err(message) => findings.dropped.push(format!("rule {index}: {message}")),
        }
    }
    if rules.is_empty() && !written.is_empty() {
        findings.reject("UnsupportedValue", findings.dropped.join("; "));
    }
    rules
}

fn one(
    id: RuleId,
    kind: RouteKind,
    rule: &RouteRule,
    resolver: &Resolver<'_>,
    findings: &mut Findings,
) -> Result<CompiledRule, String> {
    let matches = match kind {
        RouteKind::Http => rule.matches.iter().map(matches::http).collect::<Result<Vec<_>, _>>()?,
        RouteKind::Grpc => rule.matches.iter().map(matches::grpc).collect::<Result<Vec<_>, _>>()?,
        RouteKind::Tcp => vec![],
    };
    let matches = if matches.is_empty() { vec![Compiled::everything(kind == RouteKind::Grpc)] } else { matches };
    let overlay = overlay(&rule.timeouts, rule.retry.as_ref())?;
    if rule.session_persistence.is_some() {
        findings.notes.push(format!("rule {}: sessionPersistence is not supported and has no effect", id.index));
    }
    let filters = filters::compile(&rule.filters, resolver, findings);
    prefixes_only(&filters, &rule.filters, &matches, findings);
    let backends = resolver.backends(&rule.backend_refs, findings);
    let action = match (&filters.failure, filters.redirect.clone()) {
        (Some(failure), _) => Action::Fail(failure.as_str().into()),
        (None, Some(_)) if !backends.is_empty() => {
            findings.reject("IncompatibleFilters", "RequestRedirect and backendRefs exclude each other");
            Action::Fail("the rule has both a redirect and backends".into())
        }
        (None, Some(redirect)) => Action::Redirect(redirect),
        (None, None) if backends.is_empty() => Action::Fail("the rule has no backend".into()),
        (None, None) => Action::Forward(backends),
    };
    let mut out = Rule::new(id, action);
    out.cors = filters.cors;
    out.request_headers = filters.request_headers;
    out.response_headers = filters.response_headers;
    out.rewrite = filters.rewrite;
    out.mirrors = filters.mirrors.into();
    Ok(CompiledRule { matches, rule: out, overlay: Arc::new(overlay) })
}

fn prefixes_only(filters: &Filters, written: &[Filter], matches: &[Compiled], findings: &mut Findings) {
    let changes = [
        filters.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()),
        filters.redirect.as_ref().and_then(|redirect| redirect.path.as_ref()),
    ];
    let replaces = changes.into_iter().flatten().any(|change| matches!(change, PathChange::Prefix(_)));
    if replaces && !written.is_empty() && !matches.iter().all(Compiled::is_prefix) {
        findings.reject("IncompatibleFilters", "ReplacePrefixMatch needs matches of type PathPrefix only");
    }
}

/// What `timeouts` and `retry` of a rule say. Who writes a retry stanza says that the requests may be repeated.
fn overlay(timeouts: &Timeouts, retry: Option<&Retry>) -> Result<Overlay, String> {
    let mut overlay = Overlay::default();
    let read = |text: &Option<String>| {
        text.as_deref().map(duration::parse).transpose().map_err(|error| format!("timeouts: {error}"))
    };
    let (request, backend) = (read(&timeouts.request)?, read(&timeouts.backend_request)?);
    let on = |time: Duration| (!time.is_zero()).then_some(time);
    if let (Some(request), Some(backend)) = (request.and_then(on), backend.and_then(on))
        && backend > request
    {
        return Err("timeouts.backendRequest is longer than timeouts.request".to_owned());
    }
    if let Some(request) = request {
        overlay.deadline_request = Some(on(request));
        if request.is_zero() {
            overlay.deadline_default = Some(None);
        }
    }
    overlay.per_try_timeout = backend.map(on);
    let Some(retry) = retry else { return Ok(overlay) };
    overlay.retry_asked = true;
    overlay.retry_attempts = retry.attempts;
    overlay.retry_idempotent_only = Some(false);
    if let Some(codes) = &retry.codes {
        let mut set = StatusSet::default();
        if let Some(code) = codes.iter().find(|code| !set.insert(**code)) {
            return Err(format!("retry code {code} is not within 400 to 599"));
        }
        overlay.retry_codes = Some(set);
    }
    overlay.backoff_base =
        retry.backoff.as_deref().map(duration::parse).transpose().map_err(|error| format!("retry.backoff: {error}"))?;
    Ok(overlay)
}
