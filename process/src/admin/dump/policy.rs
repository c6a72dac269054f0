//! Pure. An authorization policy in the shape that istioctl reads.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use mesh::model::policy::{Action, Authorization, Scope};
use mesh::model::rule::{Attribute, Rule, StringMatch, Test};

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Name of the AuthorizationPolicy, or of the PeerAuthentication that it was made from.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `Global`, `Namespace`, `WorkloadSelector` or `Targets`.
    pub scope: String,
    /// `Allow`, `Deny` or `Audit`.
    pub action: String,
    /// Rules, in each its clauses, in each its alternatives.
    pub rules: Vec<Vec<Vec<Value>>>,
    /// Evaluated and logged, not enforced (`istio.io/dry-run`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl From<&Authorization> for PolicyView {
    fn from(policy: &Authorization) -> Self {
        Self {
            name: policy.key.name.to_string(),
            namespace: policy.key.namespace.to_string(),
            scope: match policy.scope {
                Scope::Global => "Global",
                Scope::Namespace => "Namespace",
                Scope::WorkloadSelector => "WorkloadSelector",
                Scope::Targets => "Targets",
            }
            .to_owned(),
            action: match policy.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
                Action::Audit => "Audit",
            }
            .to_owned(),
            rules: policy.rules.iter().map(clauses).collect(),
            dry_run: policy.dry_run,
        }
    }
}

/// `from`, `to` and each condition, as far as there are any.
fn clauses(rule: &Rule) -> Vec<Vec<Value>> {
    let of = |alternatives: &[Box<[Test]>]| alternatives.iter().map(|tests| alternative(tests)).collect::<Vec<_>>();
    let each = rule.when.iter().map(|test| vec![alternative(std::slice::from_ref(test))]);
    let clauses = [of(&rule.from), of(&rule.to)].into_iter().filter(|clause| !clause.is_empty());
    clauses.chain(each).collect()
}

/// The fields of `istio.security.Match`, and what only waypoints judge under the name that it has in the object.
fn alternative(tests: &[Test]) -> Value {
    Value::Object(tests.iter().map(field).collect::<Map<_, _>>())
}

fn field(test: &Test) -> (String, Value) {
    let (name, values) = match &test.attribute {
        Attribute::Namespace(values) => ("namespaces", strings(values)),
        Attribute::ServiceAccount(values) => ("serviceAccounts", values.iter().map(|account| json!(account)).collect()),
        Attribute::Principal(values) => ("principals", strings(values)),
        Attribute::SourceIp(nets) => ("sourceIps", nets.iter().map(|net| json!(net)).collect()),
        Attribute::DestinationIp(nets) => ("destinationIps", nets.iter().map(|net| json!(net)).collect()),
        Attribute::DestinationPort(ports) => ("destinationPorts", ports.iter().map(|port| json!(port)).collect()),
        other => return (test.name(false), json!(other.values())),
    };
    let name = match (test.negated, name.split_at(1)) {
        (false, _) => name.to_owned(),
        (true, (first, rest)) => format!("not{}{rest}", first.to_ascii_uppercase()),
    };
    (name, Value::Array(values))
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
    use mesh::model::policy::PolicyKey;
    use mesh::model::rule::ServiceAccountMatch;

    #[test]
    fn a_policy_has_the_fields_that_istioctl_reads() {
        let guest = ServiceAccountMatch { namespace: "default".into(), service_account: "guest".into() };
        let from = [
            Test::is(Attribute::Principal(
                ["cluster.local/ns/default/*", "*"].map(|text| text.parse().unwrap()).into(),
            )),
            Test::is_not(Attribute::ServiceAccount([guest].into())),
        ];
        let to = [Test::is(Attribute::DestinationPort([8080].into()))];
        let when = [Test::is_not(Attribute::Header("x-role".parse().unwrap(), ["a*".parse().unwrap()].into()))];
        let policy = Authorization {
            key: PolicyKey { namespace: "default".into(), name: "allow-web".into() },
            scope: Scope::WorkloadSelector,
            action: Action::Allow,
            rules: [Rule { from: [from.into()].into(), to: [to.into()].into(), when: when.into() }].into(),
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
                [{"request.headers[x-role] notValues": ["a*"]}],
            ]],
        });
        assert_eq!(serde_json::to_value(PolicyView::from(&policy)).unwrap(), expected);
    }
}
