//! Pure. The decision of several policies: DENY takes precedence over ALLOW, and once there is an ALLOW policy, one of
//! them has to match.

use super::matcher;
use super::subject::Subject;
use crate::model::policy::{Action, Authorization};

/// Why the policies refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    /// A DENY policy matches, by the rule of this index.
    Denied(&'a Authorization, usize),
    /// There are ALLOW policies and none matches.
    NotAllowed,
}

/// Judges a connection or a request by all of `policies`. `Ok` has the ALLOW policy that matched, if there is any.
pub fn judge<'a>(
    policies: impl Iterator<Item = &'a Authorization> + Clone,
    subject: &Subject<'_>,
) -> Result<Option<&'a Authorization>, Refused<'a>> {
    for policy in policies.clone().filter(|policy| policy.action == Action::Deny) {
        if let Some(rule) = matcher::effective_rule(policy, subject) {
            return Err(Refused::Denied(policy, rule));
        }
    }
    let mut allowing = policies.filter(|policy| policy.action == Action::Allow).peekable();
    if allowing.peek().is_none() {
        return Ok(None);
    }
    let allowed = allowing.find(|policy| matcher::effective_rule(policy, subject).is_some());
    allowed.map(Some).ok_or(Refused::NotAllowed)
}
