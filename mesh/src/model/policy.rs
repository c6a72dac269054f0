//! Pure. L4 authorization as data (`istio.security.Authorization`). What it means is in `policy`.

use std::fmt;

use ipnet::IpNet;
use serde::Serialize;

use super::name::{Name, Namespace, ServiceAccount};

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

/// One authorization policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// Its key.
    pub key: PolicyKey,
    /// Which workloads it applies to.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// The policy matches when any rule does; without rules it never matches (so an ALLOW denies everything).
    pub rules: Box<[Rule]>,
    /// Annotation `istio.io/dry-run`: judged and logged, not enforced.
    pub dry_run: bool,
}

/// Which workloads a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Scope {
    /// All: it stands in a root namespace.
    Global,
    /// All of its namespace.
    Namespace,
    /// Those that name it in `Workload::policies`.
    WorkloadSelector,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Admit; and once any ALLOW policy applies to a workload, what none of them matches is refused.
    Allow,
    /// Refuse, before any ALLOW is looked at.
    Deny,
}

/// One rule: it matches when all of its clauses do. Without clauses it matches everything (`rules: [{}]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
pub struct Rule {
    /// `from`, `to` and each `when`, as far as present.
    pub clauses: Box<[Clause]>,
}

/// One clause: it matches when any of its matches does. Without matches it matches everything; a clause whose matches
/// are all empty matches nothing (their attributes could not be expressed at L4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
pub struct Clause {
    /// The alternatives.
    pub matches: Box<[Match]>,
}

/// One alternative: every field must hold; a positive field holds when empty or any value fits, a negative one when no
/// value fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Match {
    /// Namespace of the peer's identity.
    pub namespaces: Box<[StringMatch]>,
    /// As `namespaces`, negated.
    pub not_namespaces: Box<[StringMatch]>,
    /// Service account of the peer's identity.
    pub service_accounts: Box<[ServiceAccountMatch]>,
    /// As `service_accounts`, negated.
    pub not_service_accounts: Box<[ServiceAccountMatch]>,
    /// The peer's identity without `spiffe://`.
    pub principals: Box<[StringMatch]>,
    /// As `principals`, negated.
    pub not_principals: Box<[StringMatch]>,
    /// Address of the peer.
    pub source_ips: Box<[IpNet]>,
    /// As `source_ips`, negated.
    pub not_source_ips: Box<[IpNet]>,
    /// Address that was called.
    pub destination_ips: Box<[IpNet]>,
    /// As `destination_ips`, negated.
    pub not_destination_ips: Box<[IpNet]>,
    /// Port that was called, on the workload.
    pub destination_ports: Box<[u16]>,
    /// As `destination_ports`, negated.
    pub not_destination_ports: Box<[u16]>,
}

/// A service account by exact names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountMatch {
    /// Namespace of the service account.
    pub namespace: Namespace,
    /// Name of the service account.
    pub service_account: ServiceAccount,
}

/// How a text is compared: `abc`, `abc*`, `*abc`, `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    /// Equal.
    Exact(Name),
    /// Starts with.
    Prefix(Name),
    /// Ends with.
    Suffix(Name),
    /// There is a value at all, and it is not empty.
    Presence,
}

impl StringMatch {
    /// Reads the notation of authorization policies: a leading or a trailing `*`, not both, `*` alone for presence.
    pub fn parse(text: &str) -> Self {
        match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
            ("*", _, _) => Self::Presence,
            (_, Some(suffix), _) => Self::Suffix(suffix.into()),
            (_, _, Some(prefix)) => Self::Prefix(prefix.into()),
            _ => Self::Exact(text.into()),
        }
    }

    /// Whether `value` fits.
    pub fn fits(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == text.as_str(),
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::Suffix(text) => value.ends_with(text.as_str()),
            Self::Presence => !value.is_empty(),
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
