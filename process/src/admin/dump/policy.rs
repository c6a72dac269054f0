//! Pure. A policy in the shape that istioctl asks for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use mesh::model::policy::{Action, Authorization, Match, Scope, StringMatch};

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// `Global`, `Namespace` or `WorkloadSelector`.
    pub scope: String,
    /// `Allow` or `Deny`.
    pub action: String,
    /// Rules, in each its clauses, in each its alternatives.
    pub rules: Vec<Vec<Vec<Value>>>,
    /// Judged and logged, not enforced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl From<&Authorization> for PolicyView {
    fn from(policy: &Authorization) -> Self {
        let rules = policy
            .rules
            .iter()
            .map(|rule| rule.clauses.iter().map(|clause| clause.matches.iter().map(alternative).collect()).collect());
        Self {
            name: policy.key.name.to_string(),
            namespace: policy.key.namespace.to_string(),
            scope: match policy.scope {
                Scope::Global => "Global",
                Scope::Namespace => "Namespace",
                Scope::WorkloadSelector => "WorkloadSelector",
            }
            .to_owned(),
            action: match policy.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            }
            .to_owned(),
            rules: rules.collect(),
            dry_run: policy.dry_run,
        }
    }
}

/// Only the fields that say something.
fn alternative(alternative: &Match) -> Value {
    let m = alternative;
    let accounts = |list: &[_]| list.iter().map(|account| json!(account)).collect::<Vec<_>>();
    let networks = |list: &[ipnet::IpNet]| list.iter().map(|network| json!(network)).collect::<Vec<_>>();
    let ports = |list: &[u16]| list.iter().map(|port| json!(port)).collect::<Vec<_>>();
    let fields = [
        ("namespaces", strings(&m.namespaces)),
        ("notNamespaces", strings(&m.not_namespaces)),
        ("serviceAccounts", accounts(&m.service_accounts)),
        ("notServiceAccounts", accounts(&m.not_service_accounts)),
        ("principals", strings(&m.principals)),
        ("notPrincipals", strings(&m.not_principals)),
        ("sourceIps", networks(&m.source_ips)),
        ("notSourceIps", networks(&m.not_source_ips)),
        ("destinationIps", networks(&m.destination_ips)),
        ("notDestinationIps", networks(&m.not_destination_ips)),
        ("destinationPorts", ports(&m.destination_ports)),
        ("notDestinationPorts", ports(&m.not_destination_ports)),
    ];
    let told = fields.into_iter().filter(|(_, values)| !values.is_empty());
    Value::Object(told.map(|(name, values)| (name.to_owned(), Value::Array(values))).collect::<Map<_, _>>())
}

fn strings(list: &[StringMatch]) -> Vec<Value> {
    let one = |value: &StringMatch| match value {
        StringMatch::Exact(text) => json!({"Exact": text}),
        StringMatch::Prefix(text) => json!({"Prefix": text}),
        StringMatch::Suffix(text) => json!({"Suffix": text}),
        StringMatch::Presence => json!({"Presence": []}),
    };
    list.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::policy::{Clause, PolicyKey, Rule, ServiceAccountMatch};

    #[test]
    fn a_policy_has_the_fields_that_istioctl_reads() {
        let from = Match {
            principals: Box::new([StringMatch::parse("cluster.local/ns/default/*"), StringMatch::Presence]),
            not_service_accounts: Box::new([ServiceAccountMatch {
                namespace: "default".into(),
                service_account: "guest".into(),
            }]),
            ..Match::default()
        };
        let to = Match { destination_ports: Box::new([8080]), ..Match::default() };
        let clause = |m| Clause { matches: Box::new([m]) };
        let policy = Authorization {
            key: PolicyKey { namespace: "default".into(), name: "allow-web".into() },
            scope: Scope::WorkloadSelector,
            action: Action::Allow,
            rules: Box::new([Rule { clauses: Box::new([clause(from), clause(to)]) }]),
            dry_run: false,
        };
        let expected = json!({
            "name": "allow-web", "namespace": "default", "scope": "WorkloadSelector", "action": "Allow",
            "rules": [[
                [{
                    "principals": [{"Prefix": "cluster.local/ns/default/"}, {"Presence": []}],
                    "notServiceAccounts": [{"namespace": "default", "serviceAccount": "guest"}],
                }],
                [{"destinationPorts": [8080]}],
            ]],
        });
        assert_eq!(serde_json::to_value(PolicyView::from(&policy)).unwrap(), expected);
    }
}
