//! Pure. AuthorizationPolicy: one reader for both enforcers, agents and waypoints.
//!
//! A policy that cannot be read is replaced by one that refuses, because it was written to restrict access.

use std::collections::BTreeMap;

use mesh::model::name::Namespace;
use mesh::model::policy::{Action, Authorization, PolicyKey, Scope};
use mesh::model::rule::{Alternative, Attribute, PathMatches, Rule, ServiceAccountMatch, StringMatch, Test};

use crate::objects::node::Node;
use crate::objects::problem::Severity;
use crate::objects::schema::meta::Lenient;
use crate::objects::schema::policy as schema;
use crate::objects::schema::value::{Cidr, PathText, Pattern, PortText, Principal};

use super::guard::Guard;
use super::item::Item;
use super::meta::{Labels, Meta, Reader};

/// Annotation of a dry-run policy, which is judged and logged, but not enforced.
const DRY_RUN: &str = "istio.io/dry-run";

/// An AuthorizationPolicy, as agents have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Labels of the workloads that it applies to; empty for all.
    pub selector: Labels,
    /// Its effect at agents.
    pub effect: Effect,
    /// Its targets at waypoints (`targetRefs`); `None` if waypoints do not enforce it, or it is a dry run.
    pub guard: Option<Guard>,
}

/// The effect of a policy at agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// None: waypoints enforce it (`targetRefs`), or its action is not supported.
    None,
    /// It is judged for every connection.
    Judged {
        /// ALLOW or DENY.
        action: Action,
        /// The rules; the policy matches if any of them does.
        rules: Box<[Rule]>,
        /// Whether it is only judged and logged.
        dry_run: bool,
    },
}

impl AuthorizationPolicy {
    pub(super) fn read(
        raw: Lenient<schema::AuthorizationPolicySpec>,
        guard: Guard,
        reader: &mut Reader<'_>,
    ) -> Item<Self> {
        let meta = reader.meta(&raw.metadata, true);
        let spec = raw.spec.unwrap_or_default();
        let selector = Labels::new(&spec.selector.unwrap_or_default().match_labels, reader.shared);
        let dry_run = is_dry_run(&raw.metadata.annotations);
        let guard = Some(guard).filter(|guard| guard.has_targets() && !dry_run);
        let action = match spec.action {
            schema::Action::Allow => Some(Action::Allow),
            schema::Action::Deny => Some(Action::Deny),
            schema::Action::Audit | schema::Action::Custom => None,
        };
        let no_rules = spec.rules.is_empty();
        let mut reading = Reading { namespace: &meta.namespace, notes: Vec::new() };
        let rules = reading.rules(spec.rules);
        for Note { field, message, .. } in reading.notes.iter().filter(|note| !note.beyond_l4) {
            reader.note(Severity::Warning, field, message);
        }
        let effect = match action {
            _ if spec.has_targets => Effect::None,
            None => {
                reader.note(
                    Severity::Warning,
                    "spec.action",
                    "only ALLOW and DENY are supported; the policy is ignored",
                );
                Effect::None
            }
            Some(action) => {
                if action == Action::Deny && no_rules {
                    reader.note(
                        Severity::Warning,
                        "spec.rules",
                        "without rules a DENY matches nothing; {} matches all",
                    );
                }
                for Note { field, message, .. } in reading.notes.iter().filter(|note| note.beyond_l4) {
                    let consequence = match action {
                        Action::Allow => "the rule admits nobody",
                        Action::Deny | Action::Audit => "it is left out, so the rule refuses more",
                    };
                    let message = format!(
                        "{message}, which cannot be judged at L4: {consequence}; a policy with targetRefs is for a \
                         waypoint"
                    );
                    reader.note(Severity::Warning, field, message);
                }
                Effect::Judged { action, rules, dry_run }
            }
        };
        Item::new(reader.at.clone(), meta, Self { selector, effect, guard })
    }

    /// The substitute for a policy that cannot be read: an ALLOW admits nobody, any other action refuses everybody.
    pub(super) fn stand_in(meta: Meta, selector: Labels, surely_allow: bool, reader: &Reader<'_>) -> Item<Self> {
        let (action, rules): (_, Box<[Rule]>) =
            if surely_allow { (Action::Allow, Box::default()) } else { (Action::Deny, [Rule::default()].into()) };
        let spec = Self { selector, effect: Effect::Judged { action, rules, dry_run: false }, guard: None };
        Item::new(reader.at.clone(), meta, spec)
    }

    /// The substitute for a policy with `targetRefs` that cannot be read: it still guards the targets.
    pub(super) fn guarding(meta: Meta, guard: Guard, reader: &Reader<'_>) -> Item<Self> {
        let spec = Self { selector: Labels::default(), effect: Effect::None, guard: Some(guard) };
        Item::new(reader.at.clone(), meta, spec)
    }
}

/// An AuthorizationPolicy with `targetRefs`, as waypoints have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetedPolicy {
    /// The policy.
    pub policy: Authorization,
    /// Notes about fields that are accepted, each with its field.
    pub notes: Vec<String>,
}

impl TargetedPolicy {
    /// Reads the `spec` of a policy. The error names the field.
    pub fn read(
        key: PolicyKey,
        annotations: &BTreeMap<String, String>,
        spec: &serde_json::Value,
    ) -> Result<Self, String> {
        let spec: Result<Option<schema::AuthorizationPolicySpec>, _> = Node::from(spec).read();
        let spec = spec.map_err(|error| error.below("spec".to_owned()).with_field())?;
        let spec = spec.unwrap_or_default();
        let mut notes = Vec::new();
        let action = match spec.action {
            schema::Action::Allow => Action::Allow,
            schema::Action::Deny => Action::Deny,
            schema::Action::Audit => Action::Audit,
            schema::Action::Custom => {
                // There is no external authorizer: the requests that it would judge are refused.
                notes.push("CUSTOM is not supported: what its rules match is refused".to_owned());
                Action::Deny
            }
        };
        let mut reading = Reading { namespace: &key.namespace, notes: Vec::new() };
        let rules = reading.rules(spec.rules);
        let worth_knowing = reading.notes.into_iter().filter(|note| !note.beyond_l4);
        notes.extend(worth_knowing.map(|note| format!("{}: {}", note.field, note.message)));
        let dry_run = is_dry_run(annotations);
        Ok(Self { policy: Authorization { key, scope: Scope::Targets, action, rules, dry_run }, notes })
    }

    /// The substitute for a policy that cannot be read: it refuses everything at its targets, unless it is a dry run.
    pub fn stand_in(key: PolicyKey, annotations: &BTreeMap<String, String>) -> Authorization {
        let (action, rules) = (Action::Deny, [Rule::default()].into());
        Authorization { key, scope: Scope::Targets, action, rules, dry_run: is_dry_run(annotations) }
    }
}

/// As Go's `strconv.ParseBool`, which Istio reads the annotation with.
fn is_dry_run(annotations: &BTreeMap<String, String>) -> bool {
    let value = annotations.get(DRY_RUN);
    value.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// A note about a field.
struct Note {
    field: String,
    message: String,
    /// Whether it is about an attribute that L4 cannot judge: only agents report it, with the effect on the rule.
    beyond_l4: bool,
}

/// Reads the rules of one policy.
struct Reading<'a> {
    namespace: &'a Namespace,
    notes: Vec<Note>,
}

/// Values that must match, and values that must not.
type Both<T> = [Vec<T>; 2];

impl Reading<'_> {
    fn rules(&mut self, rules: Vec<schema::Rule>) -> Box<[Rule]> {
        rules.into_iter().enumerate().map(|(index, rule)| self.rule(&format!("spec.rules[{index}]"), rule)).collect()
    }

    fn rule(&mut self, field: &str, rule: schema::Rule) -> Rule {
        let from = rule.from.into_iter().flatten().enumerate();
        let from = from.map(|(index, from)| self.source(&format!("{field}.from[{index}].source"), from.source));
        let from = from.collect();
        let to = rule.to.into_iter().flatten().enumerate();
        let to = to.map(|(index, to)| self.operation(&format!("{field}.to[{index}].operation"), to.operation));
        let to = to.collect();
        let when = rule.when.into_iter().enumerate();
        let when = when.flat_map(|(index, condition)| self.condition(&format!("{field}.when[{index}]"), condition));
        Rule { from, to, when: when.collect() }
    }

    fn source(&mut self, field: &str, source: schema::Source) -> Alternative {
        let principals = self.principals(field, [source.principals, source.not_principals]);
        let accounts = self.service_accounts([source.service_accounts, source.not_service_accounts]);
        let tests = [
            tests(principals, Attribute::Principal),
            tests(texts([source.request_principals, source.not_request_principals]), Attribute::RequestPrincipal),
            tests(texts([source.namespaces, source.not_namespaces]), Attribute::Namespace),
            tests(accounts, Attribute::ServiceAccount),
            tests(texts([source.trust_domains, source.not_trust_domains]), Attribute::TrustDomain),
            tests(nets([source.ip_blocks, source.not_ip_blocks]), Attribute::SourceIp),
            tests(nets([source.remote_ip_blocks, source.not_remote_ip_blocks]), Attribute::RemoteIp),
        ];
        self.alternative(field, tests.into_iter().flatten().collect())
    }

    fn operation(&mut self, field: &str, operation: schema::Operation) -> Alternative {
        let tests = [
            tests(texts([operation.hosts, operation.not_hosts]), Attribute::Host),
            tests(ports([operation.ports, operation.not_ports]), Attribute::DestinationPort),
            tests(texts([operation.methods, operation.not_methods]), Attribute::Method),
            tests([operation.paths, operation.not_paths], |paths| Attribute::Path(all_paths(&paths))),
        ];
        self.alternative(field, tests.into_iter().flatten().collect())
    }

    fn alternative(&mut self, field: &str, tests: Vec<Test>) -> Alternative {
        for test in tests.iter().filter(|test| test.attribute.is_beyond_l4()) {
            self.beyond_l4(format!("{field}.{}", test.name(false)), "is an attribute of requests".to_owned());
        }
        tests.into()
    }

    fn condition(&mut self, field: &str, condition: schema::Condition) -> Vec<Test> {
        use schema::Condition as When;
        let found = match condition {
            When::SourceIp(values) => tests(nets(values.both()), Attribute::SourceIp),
            When::SourceNamespace(values) => tests(texts(values.both()), Attribute::Namespace),
            When::SourcePrincipal(values) => tests(self.principals(field, values.both()), Attribute::Principal),
            When::SourceServiceAccount(values) => {
                tests(self.service_accounts(values.both()), Attribute::ServiceAccount)
            }
            When::SourceTrustDomain(values) => tests(texts(values.both()), Attribute::TrustDomain),
            When::DestinationIp(values) => tests(nets(values.both()), Attribute::DestinationIp),
            When::DestinationPort(values) => tests(ports(values.both()), Attribute::DestinationPort),
            When::RemoteIp(values) => tests(nets(values.both()), Attribute::RemoteIp),
            When::ServerName(values) => tests(texts(values.both()), Attribute::ServerName),
            When::RequestPrincipal(values) => tests(texts(values.both()), Attribute::RequestPrincipal),
            When::Audience(values) => tests(texts(values.both()), Attribute::Audience),
            When::Presenter(values) => tests(texts(values.both()), Attribute::Presenter),
            When::Claim(path, values) => tests(texts(values.both()), |values| Attribute::Claim(path.clone(), values)),
            When::Header(name, values) => tests(texts(values.both()), |values| Attribute::Header(name.clone(), values)),
            When::Host(values) => tests(texts(values.both()), Attribute::Host),
            When::Method(values) => tests(texts(values.both()), Attribute::Method),
        };
        if let Some(test) = found.first().filter(|test| test.attribute.is_beyond_l4()) {
            let message = format!("{} is an attribute of requests", test.attribute.key());
            self.beyond_l4(format!("{field}.key"), message);
        }
        found
    }

    fn beyond_l4(&mut self, field: String, message: String) {
        self.notes.push(Note { field, message, beyond_l4: true });
    }

    fn principals(&mut self, field: &str, both: Both<Principal>) -> Both<StringMatch> {
        for text in both.iter().flatten().filter_map(|principal| principal.with_scheme.as_ref()) {
            let (field, message) = (format!("{field}.principals"), format!("{text:?} is read without spiffe://"));
            self.notes.push(Note { field, message, beyond_l4: false });
        }
        both.map(|values| values.into_iter().map(|principal| principal.pattern).collect())
    }

    /// `namespace/name`, or `name` in the policy's namespace.
    fn service_accounts(&self, both: Both<schema::ServiceAccount>) -> Both<ServiceAccountMatch> {
        let of = |account: schema::ServiceAccount| ServiceAccountMatch {
            namespace: account.namespace.map_or_else(|| self.namespace.clone(), Namespace::from),
            service_account: account.name.into(),
        };
        both.map(|values| values.into_iter().map(of).collect())
    }
}

/// A test for the values that must match and one for those that must not; none for an empty list.
fn tests<T>([any, none]: Both<T>, attribute: impl Fn(Box<[T]>) -> Attribute) -> Vec<Test> {
    let mut found = Vec::new();
    if !any.is_empty() {
        found.push(Test::is(attribute(any.into())));
    }
    if !none.is_empty() {
        found.push(Test::is_not(attribute(none.into())));
    }
    found
}

fn texts(both: Both<Pattern>) -> Both<StringMatch> {
    both.map(|values| values.into_iter().map(|pattern| pattern.0).collect())
}

fn nets(both: Both<Cidr>) -> Both<ipnet::IpNet> {
    both.map(|values| values.into_iter().map(|cidr| cidr.0).collect())
}

fn ports(both: Both<PortText>) -> Both<u16> {
    both.map(|values| values.into_iter().map(|port| port.0).collect())
}

fn all_paths(paths: &[PathText]) -> PathMatches {
    PathMatches {
        sent: paths.iter().flat_map(|path| path.0.sent.iter().cloned()).collect(),
        loose: paths.iter().flat_map(|path| path.0.loose.iter().cloned()).collect(),
    }
}
