//! Pure. All policies of a service on one request: whether it is let in, and what is logged beside.

use mesh::model::policy::{Action, Authorization, PolicyKey};
use mesh::policy::judge::Refused;
use mesh::policy::matcher;
use mesh::policy::subject::Subject;

/// What the policies say.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Judgement {
    /// Who refuses: a policy and its rule, or the absence of a matching ALLOW. `None` admits.
    pub refusal: Option<Refusal>,
    /// AUDIT policies that match.
    pub audits: Vec<PolicyKey>,
    /// Dry-run policies by which the outcome would be another.
    pub dry_run: Vec<PolicyKey>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A DENY policy matches: its name and the rule.
    Denied(PolicyKey, usize),
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

/// Judges a request, or a connection that is not HTTP.
pub fn judge<'a>(policies: impl Iterator<Item = &'a Authorization> + Clone, subject: &Subject<'_>) -> Judgement {
    let mut out = Judgement::default();
    for policy in policies.clone() {
        let of_interest = match (policy.action, policy.dry_run) {
            (Action::Audit, _) => &mut out.audits,
            (_, true) => &mut out.dry_run,
            (_, false) => continue,
        };
        // An ALLOW in dry-run is told when it would not have admitted.
        if matcher::effective_rule(policy, subject).is_some() != (policy.action == Action::Allow) {
            of_interest.push(policy.key.clone());
        }
    }
    let enforced = policies.filter(|policy| !policy.dry_run);
    out.refusal = mesh::policy::judge::judge(enforced, subject).err().map(|refused| match refused {
        Refused::Denied(policy, rule) => Refusal::Denied(policy.key.clone(), rule),
        Refused::NotAllowed => Refusal::NotAllowed,
    });
    out
}
