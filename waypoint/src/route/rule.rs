//! Pure. A route rule, compiled: its action, filters and settings.

use std::fmt;
use std::sync::Arc;

use mesh::model::service::ServiceKey;

use crate::filter::{Cors, HeaderChanges, Redirect, Rewrite};
use crate::settings::Settings;

/// Names a rule in logs, spans and statuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleId {
    /// `HTTPRoute`, `GRPCRoute`, `TCPRoute`, or `Service` for the routing that a service has without any route.
    pub kind: &'static str,
    /// `namespace/name`.
    pub route: Arc<str>,
    /// Index within the route.
    pub index: usize,
    /// `rules[].name`, if any.
    pub name: Option<Arc<str>>,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#", self.kind, self.route)?;
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.index),
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which rule this is.
    pub id: RuleId,
    /// The same as text.
    pub label: Arc<str>,
    /// Forward, redirect or refuse.
    pub action: Action,
    /// CORS settings.
    pub cors: Option<Arc<Cors>>,
    /// Changes to the request's headers.
    pub request_headers: HeaderChanges,
    /// Changes to the response's headers.
    pub response_headers: HeaderChanges,
    /// Changes to path and host.
    pub rewrite: Option<Rewrite>,
    /// Mirrors of its requests.
    pub mirrors: Box<[Mirror]>,
    /// Settings of its requests, merged from all sources.
    pub settings: Arc<Settings>,
    /// Whether it was written by others than the service's own namespace: what it changes comes before policy judges.
    pub foreign: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// It goes to one of the backends, by weight.
    Forward(Box<[Backend]>),
    /// It is answered with a redirect.
    Redirect(Redirect),
    /// It is refused: the rule cannot be carried out as it is written, and why.
    Fail(Arc<str>),
}

/// One backend of a rule.
#[derive(Clone, Debug)]
pub struct Backend {
    /// The service and port, if the reference resolves.
    pub target: BackendTarget,
    /// Weight relative to the other backends.
    pub weight: u32,
    /// Changes to the request's headers, after the rule's.
    pub request_headers: HeaderChanges,
    /// Changes to the response's headers, before the rule's.
    pub response_headers: HeaderChanges,
    /// Changes to path and host, in place of the rule's.
    pub rewrite: Option<Rewrite>,
    /// A redirect in place of forwarding.
    pub redirect: Option<Redirect>,
    /// Mirrors, besides the rule's.
    pub mirrors: Box<[Mirror]>,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// A port of a service.
    Service(ServiceKey, u16),
    /// The reference does not resolve: the requests that its weight gives it are answered with 500.
    Invalid(Arc<str>),
}

/// A copy of requests sent elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// The service that gets the copies.
    pub service: ServiceKey,
    /// The service's port.
    pub port: u16,
    /// Fraction of requests that are copied, 0 to 1.
    pub fraction: f64,
}

impl Rule {
    /// One of its backends.
    pub fn backend(&self, index: usize) -> Option<&Backend> {
        match &self.action {
            Action::Forward(backends) => backends.get(index),
            Action::Redirect(_) | Action::Fail(..) => None,
        }
    }

    /// A rule without filters, in the default settings.
    pub fn new(id: RuleId, action: Action) -> Self {
        Self {
            label: id.to_string().into(),
            id,
            action,
            cors: None,
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            rewrite: None,
            mirrors: Box::default(),
            settings: Arc::new(Settings::default()),
            foreign: false,
        }
    }

    /// The backend, and its index, for one request, `random` being 0 to 1 (exclusive). `None` when all weights are
    /// zero, or there is no backend at all: 500. A backend without endpoints keeps its weight: weights are never spread
    /// anew.
    pub fn choose(&self, random: f64) -> Option<(usize, &Backend)> {
        let Action::Forward(backends) = &self.action else { return None };
        if let [only] = &**backends {
            return (only.weight > 0).then_some((0, only));
        }
        let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        if total == 0 {
            return None;
        }
        let mut at = (random.clamp(0.0, 1.0) * total as f64) as u64;
        at = at.min(total - 1);
        backends.iter().enumerate().find(|(_, backend)| {
            let weight = u64::from(backend.weight);
            let hit = at < weight;
            at = at.saturating_sub(weight);
            hit
        })
    }
}

impl Backend {
    /// A backend without filters.
    pub fn plain(target: BackendTarget, weight: u32) -> Self {
        Self {
            target,
            weight,
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            rewrite: None,
            redirect: None,
            mirrors: Box::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(weights: &[u32]) -> Rule {
        let target = |index: usize| BackendTarget::Invalid(index.to_string().into());
        let backends = weights.iter().enumerate().map(|(index, weight)| Backend::plain(target(index), *weight));
        let id = RuleId { kind: "HTTPRoute", route: "default/test".into(), index: 0, name: None };
        Rule::new(id, Action::Forward(backends.collect()))
    }

    #[test]
    fn backends_get_requests_by_weight() {
        let rule = rule(&[9, 0, 1]);
        let mut counts = [0; 3];
        for step in 0..1000 {
            counts[rule.choose(f64::from(step) / 1000.0).unwrap().0] += 1;
        }
        assert_eq!(counts, [900, 0, 100]);
    }

    #[test]
    fn without_weight_there_is_no_backend() {
        for weights in [&[][..], &[0], &[0, 0]] {
            assert!(rule(weights).choose(0.5).is_none());
        }
        assert!(rule(&[1, 1]).choose(1.0).is_some());
    }
}
