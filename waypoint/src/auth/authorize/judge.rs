//! Pure. All policies on one request: deny before allow, and once there is an ALLOW what none of them matches is refused.

use std::sync::Arc;

use super::request::Request;
use super::rule::{Action, Policy};

/// What the policies say.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Judgement {
    /// Who refuses: a policy and its rule, or the absence of a matching ALLOW. `None` admits.
    pub refusal: Option<Refusal>,
    /// AUDIT policies that match.
    pub audits: Vec<Arc<str>>,
    /// Dry-run policies by which the outcome would be another.
    pub dry_run: Vec<Arc<str>>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A DENY policy matches: its name and the rule.
    Denied(Arc<str>, usize),
    /// There are ALLOW policies and none matches.
    NotAllowed,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(policy, rule) => write!(f, "policy {policy} rule {rule} denies it"),
            Self::NotAllowed => f.write_str("no ALLOW policy admits it"),
        }
    }
}

/// Judges a request.
pub fn judge<'a>(policies: impl Iterator<Item = &'a Policy>, request: &Request<'_>) -> Judgement {
    let mut out = Judgement::default();
    let (mut allows, mut allowed, mut denied) = (false, false, None);
    for policy in policies {
        let hit = policy.matches(request);
        match (policy.action, policy.dry_run) {
            (Action::Audit, _) => out.audits.extend(hit.map(|_| Arc::clone(&policy.name))),
            (Action::Deny, true) => out.dry_run.extend(hit.map(|_| Arc::clone(&policy.name))),
            (Action::Allow, true) if hit.is_none() => out.dry_run.push(Arc::clone(&policy.name)),
            (Action::Allow, true) => {}
            (Action::Deny, false) => denied = denied.or(hit.map(|rule| (Arc::clone(&policy.name), rule))),
            (Action::Allow, false) => {
                allows = true;
                allowed |= hit.is_some();
            }
        }
    }
    out.refusal = match denied {
        Some((policy, rule)) => Some(Refusal::Denied(policy, rule)),
        None => (allows && !allowed).then_some(Refusal::NotAllowed),
    };
    out
}
