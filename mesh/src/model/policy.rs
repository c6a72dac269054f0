//! Pure. Authorization policies as data. What they mean is in `policy`.

use std::fmt;

use serde::Serialize;

use super::name::{Name, Namespace};
use super::rule::Rule;

/// The key of a policy: `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Namespace of the policy.
    pub namespace: Namespace,
    /// Name of the policy.
    pub name: Name,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PolicyKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// One authorization policy: of an AuthorizationPolicy, whoever enforces it, or of a PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// Its key.
    pub key: PolicyKey,
    /// Where it applies.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// The policy matches when any rule does; without rules it never matches (so an ALLOW denies everything).
    pub rules: Box<[Rule]>,
    /// Annotation `istio.io/dry-run`: judged and logged, not enforced.
    pub dry_run: bool,
}

/// Where a policy applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Scope {
    /// To all workloads: it stands in a root namespace.
    Global,
    /// To all workloads of its namespace.
    Namespace,
    /// To those that name it in `Workload::policies`.
    WorkloadSelector,
    /// At waypoints, to what its `targetRefs` name.
    Targets,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Admit; and once any ALLOW policy applies to a workload, what none of them matches is refused.
    Allow,
    /// Refuse, before any ALLOW is looked at.
    Deny,
    /// Log, and neither admit nor refuse.
    Audit,
}

impl Action {
    /// `ALLOW`, `DENY` or `AUDIT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        }
    }
}

/// What the kernel does with a plaintext connection to an enrolled workload, compiled from its policies
/// (`policy::plaintext`). Without an identity only address and port are left to judge; rules that look at addresses are
/// left to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaintextRules {
    /// For every port that is not listed.
    pub default: PlaintextVerdict,
    /// Ports with another verdict, ascending.
    pub ports: Box<[(u16, PlaintextVerdict)]>,
}

/// One verdict on plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PlaintextVerdict {
    /// Straight to the application, no proxy hop.
    Pass,
    /// Refused: the peer gets a reset.
    Refuse,
    /// It depends on the addresses: to the agent's plaintext listener, which judges and forwards.
    Proxy,
}
