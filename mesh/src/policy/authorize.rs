//! Pure. Authorization of one connection: DENY takes precedence over ALLOW, and once an ALLOW policy applies, one of
//! them has to match.

use std::sync::Arc;

use thiserror::Error;

use super::coverage::{EffectiveClient, WaypointCoverage};
use super::judge::{Refused, judge};
use super::subject::Subject;
use super::trace::{self, RuleTrace};
use crate::model::connection::Facts;
use crate::model::identity::Identity;
use crate::model::policy::{Authorization, PolicyKey};
use crate::model::workload::{Standing, Workload};
use crate::state::snapshot::Snapshot;

/// Everything that decides about connections to one workload.
#[derive(Clone, Debug, Default)]
pub struct Applying {
    /// The policies that apply to it.
    pub policies: Vec<Arc<Authorization>>,
    /// The waypoints in front of it.
    pub coverage: WaypointCoverage,
    /// Whether another pod disputes one of its addresses: then every connection is refused.
    pub disputed: bool,
}

impl Applying {
    /// Everything that decides about connections to `workload`.
    pub fn to(mesh: &Snapshot, workload: &Workload) -> Self {
        let disputed = workload.standing == Standing::Disputed;
        Self { policies: mesh.policies_of(workload), coverage: WaypointCoverage::of(mesh, workload), disputed }
    }
}

impl<T: Into<Vec<Arc<Authorization>>>> From<T> for Applying {
    fn from(policies: T) -> Self {
        Self { policies: policies.into(), ..Self::default() }
    }
}

/// Proof that policy admitted a connection. Only [`authorize`] makes one, and the code that dials the application
/// requires it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    by: Option<PolicyKey>,
}

impl Permit {
    /// The ALLOW policy that matched; `None` when no ALLOW policy applies.
    pub fn by(&self) -> Option<&PolicyKey> {
        self.by.as_ref()
    }
}

/// Why a connection is refused. The texts of denials by policy are ztunnel's: users of ambient meshes search their logs
/// for them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A DENY policy matched.
    #[error("explicitly denied by: {0}")]
    Denied(PolicyKey),
    /// ALLOW policies apply and none matched.
    #[error("allow policies exist, but none allowed")]
    NotAllowed,
    /// The connection bypassed a waypoint that it must come through.
    #[error("bypassed_waypoint: {0}")]
    Bypassed(Box<str>),
    /// The peer names a client but is no waypoint for the port: both are judged, and one of them is refused.
    #[error("{why}; refused was {refused}")]
    OneOfTwo {
        /// Which of the two was refused. Boxed to keep every open connection small.
        refused: Box<OneOfTwo>,
        /// The reason.
        why: Box<Self>,
    },
    /// Another pod claims one of the workload's addresses, and nothing decides which of them owns it.
    #[error("disputed_address: another pod claims an address of the destination, and nothing says whose it is")]
    Disputed,
}

/// Which one was refused: the peer, or the client that it names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OneOfTwo {
    /// The peer itself, judged by its certificate.
    #[error("the peer itself, which is no waypoint of this port, whatever client it names ({client})")]
    Peer {
        /// The client that it names.
        client: Identity,
    },
    /// The client that it names.
    #[error("the client {client}, which the peer names without being a waypoint of this port")]
    Client {
        /// The client.
        client: Identity,
    },
}

impl OneOfTwo {
    /// `peer` or `client`: the label of a metric.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Peer { .. } => "peer",
            Self::Client { .. } => "client",
        }
    }
}

/// Judges one connection: first whether it bypasses a waypoint, then by the policies. If a peer that is no waypoint for
/// the port names a client, both the peer and the client are judged, and both must be admitted.
pub fn authorize(applying: &Applying, facts: &Facts) -> Result<Permit, Refusal> {
    if applying.disputed {
        return Err(Refusal::Disputed);
    }
    let port = facts.destination.port();
    if let Some(waypoint) = applying.coverage.bypassed(port, facts.source_identity.as_ref()) {
        let why = applying.coverage.told(port).unwrap_or_default();
        return Err(Refusal::Bypassed(format!("it must come through waypoint {waypoint} ({why})").into()));
    }
    judge_all(applying, facts, false)
}

/// The decision of the dry-run policies; `None` if none applies.
pub fn dry_run(applying: &Applying, facts: &Facts) -> Option<Result<Permit, Refusal>> {
    let tried = applying.policies.iter().any(|policy| policy.dry_run);
    tried.then(|| judge_all(applying, facts, true))
}

/// The subjects to judge: the effective client, then the client that a peer names without being a waypoint of the port.
pub fn subjects<'a>(coverage: &WaypointCoverage, facts: &'a Facts) -> (Subject<'a>, Option<Subject<'a>>) {
    let named = coverage.unverified_client(facts).map(|client| EffectiveClient {
        identity: Some(&client.identity),
        source: client.source,
        via: None,
    });
    (subject(coverage.effective_client(facts), facts), named.map(|named| subject(named, facts)))
}

/// Why a policy matches each of the [`subjects`] or does not.
pub fn trace(policy: &Authorization, coverage: &WaypointCoverage, facts: &Facts) -> Vec<RuleTrace> {
    let (caller, named) = subjects(coverage, facts);
    std::iter::once(caller).chain(named).flat_map(|subject| trace::trace(policy, &subject)).collect()
}

fn judge_all(applying: &Applying, facts: &Facts, dry_run: bool) -> Result<Permit, Refusal> {
    let policies = applying.policies.iter().map(Arc::as_ref).filter(|policy| policy.dry_run == dry_run);
    let (caller, named) = subjects(&applying.coverage, facts);
    let judged = judged(policies.clone(), caller);
    let (Some(client), Some(named)) = (applying.coverage.unverified_client(facts), named) else { return judged };
    let client = client.identity.clone();
    let permit = match judged {
        Ok(permit) => permit,
        Err(why) => return Err(Refusal::OneOfTwo { refused: OneOfTwo::Peer { client }.into(), why: why.into() }),
    };
    match self::judged(policies, named) {
        Ok(_) => Ok(permit),
        Err(why) => Err(Refusal::OneOfTwo { refused: OneOfTwo::Client { client }.into(), why: why.into() }),
    }
}

fn subject<'a>(client: EffectiveClient<'a>, facts: &'a Facts) -> Subject<'a> {
    Subject { identity: client.identity, source: client.source.map(|source| source.ip()), ..facts.into() }
}

fn judged<'a>(
    policies: impl Iterator<Item = &'a Authorization> + Clone,
    subject: Subject<'_>,
) -> Result<Permit, Refusal> {
    match judge(policies, &subject) {
        Ok(by) => Ok(Permit { by: by.map(|policy| policy.key.clone()) }),
        Err(Refused::Denied(policy, _)) => Err(Refusal::Denied(policy.key.clone())),
        Err(Refused::NotAllowed) => Err(Refusal::NotAllowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::{Action, Scope};
    use crate::model::rule::{Attribute, Rule, Test};

    fn policy(name: &str, action: Action, ports: &[u16]) -> Arc<Authorization> {
        Arc::new(Authorization {
            key: PolicyKey { namespace: "default".into(), name: name.into() },
            scope: Scope::Namespace,
            action,
            rules: [Rule::of_source([Test::is(Attribute::DestinationPort(ports.into()))])].into(),
            dry_run: false,
        })
    }

    fn to_port(port: u16) -> Facts {
        Facts::plaintext("10.0.0.1:40000".parse().unwrap(), format!("10.0.0.9:{port}").parse().unwrap())
    }

    #[test]
    fn without_policies_everything_is_admitted() {
        assert_eq!(authorize(&Applying::default(), &to_port(80)).unwrap().by(), None);
    }

    #[test]
    fn deny_comes_before_allow() {
        let policies = [policy("allow", Action::Allow, &[80, 81]), policy("deny", Action::Deny, &[80])];
        assert_eq!(authorize(&policies.clone().into(), &to_port(80)), Err(Refusal::Denied(policies[1].key.clone())));
        assert_eq!(authorize(&policies.clone().into(), &to_port(81)).unwrap().by(), Some(&policies[0].key));
        assert_eq!(authorize(&policies.into(), &to_port(82)), Err(Refusal::NotAllowed));
    }

    #[test]
    fn only_deny_policies_leave_the_rest_open() {
        let policies = [policy("deny", Action::Deny, &[80])];
        assert!(authorize(&policies.into(), &to_port(81)).is_ok());
    }

    #[test]
    fn an_allow_policy_without_rules_refuses_everything() {
        let none = Authorization { rules: Box::default(), ..(*policy("none", Action::Allow, &[])).clone() };
        assert_eq!(authorize(&[Arc::new(none)].into(), &to_port(80)), Err(Refusal::NotAllowed));
    }

    #[test]
    fn to_name_a_client_only_narrows_what_a_peer_may_do() {
        use crate::model::connection::OnBehalfOf;

        let id = |namespace: &str| Identity::new("cluster.local", namespace, "default");
        let of_namespace = |action, namespace: &str| {
            let is = Test::is(Attribute::Namespace([namespace.parse().unwrap()].into()));
            let rules = [Rule::of_source([is])].into();
            Arc::new(Authorization { rules, ..(*policy(namespace, action, &[])).clone() })
        };
        let said = |policies: &[Arc<Authorization>], peer: &str, client: Option<&str>| {
            let named = client.map(|client| Box::new(OnBehalfOf { identity: id(client), source: None }));
            let facts = Facts { source_identity: Some(id(peer)), on_behalf_of: named, ..to_port(80) };
            match authorize(&policies.to_vec().into(), &facts) {
                Ok(_) => "admitted",
                Err(Refusal::OneOfTwo { refused, .. }) => refused.as_str(),
                Err(_) => "refused",
            }
        };
        let shop = [of_namespace(Action::Allow, "shop")];
        for (peer, client, expected) in [
            ("shop", None, "admitted"),
            ("shop", Some("shop"), "admitted"),
            ("shop", Some("evil"), "client"),
            ("evil", Some("shop"), "peer"),
            ("evil", Some("evil"), "peer"),
            ("evil", None, "refused"),
        ] {
            assert_eq!(said(&shop, peer, client), expected, "ALLOW shop: {peer} for {client:?}");
        }
        let not_evil = [of_namespace(Action::Deny, "evil")];
        assert_eq!(said(&not_evil, "shop", Some("evil")), "client");
        assert_eq!(said(&not_evil, "evil", Some("shop")), "peer");
        assert_eq!(said(&not_evil, "shop", Some("bank")), "admitted");
        assert_eq!(said(&[], "shop", Some("evil")), "admitted", "no policy asks who calls");
    }

    #[test]
    fn dry_run_is_judged_apart_and_never_enforced() {
        let dry = Arc::new(Authorization { dry_run: true, ..(*policy("dry", Action::Deny, &[80])).clone() });
        let policies = [Arc::clone(&dry)];
        assert!(authorize(&policies.clone().into(), &to_port(80)).is_ok());
        assert_eq!(dry_run(&policies.into(), &to_port(80)), Some(Err(Refusal::Denied(dry.key.clone()))));
        assert_eq!(dry_run(&Applying::default(), &to_port(80)), None);
    }
}
