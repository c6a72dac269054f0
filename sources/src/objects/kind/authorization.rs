//! Pure. AuthorizationPolicy, reduced to what can be judged without looking into requests.
//!
//! Never wider than written: in an ALLOW, a rule that needs more than L4 is dropped, so that it admits nobody; in a
//! DENY, only the part that needs more is dropped, so that it refuses more. A policy that cannot be read at all is
//! replaced by one that refuses (`stand_in`).

use ipnet::IpNet;

use crate::objects::problem::Severity;
use crate::objects::schema::meta::Lenient;
use crate::objects::schema::policy as schema;
use crate::objects::schema::value::{Cidr, Pattern, PortText};
use mesh::model::name::Name;
use mesh::model::policy::{Action, Clause, Match, Rule, ServiceAccountMatch, StringMatch};

use super::guard::Guard;
use super::meta::{Item, Labels, Meta, Reader};

/// Annotation of a policy that is judged and logged, but not enforced.
const DRY_RUN: &str = "istio.io/dry-run";
/// Why some trust domains cannot be judged.
const SUFFIX: &str = "asks for the end of a trust domain, or of a principal in one";

/// An AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Which workloads it is for; empty for all.
    pub selector: Labels,
    /// What it does.
    pub effect: Effect,
    /// What it guards at waypoints (`targetRefs`); `None` when it is not for them, or only tried.
    pub guard: Option<Guard>,
}

/// What a policy does at L4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it is for waypoints (`targetRefs`), or of an action that is not supported.
    None,
    /// It is judged for every connection.
    Judged {
        /// What a match means.
        action: Action,
        /// Any of them has to match.
        rules: Box<[Rule]>,
        /// Judged and logged only.
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
        let dry_run = is_true(raw.metadata.annotations.get(DRY_RUN).map(String::as_str));
        let guard = Some(guard).filter(|guard| guard.has_targets() && !dry_run);
        let action = match spec.action {
            schema::Action::Allow => Some(Action::Allow),
            schema::Action::Deny => Some(Action::Deny),
            schema::Action::Audit | schema::Action::Custom => None,
        };
        let for_waypoints = spec.target_ref.is_some() || !spec.target_refs.is_empty();
        let effect = match action {
            _ if for_waypoints => Effect::None,
            None => {
                reader.note(
                    Severity::Warning,
                    "spec.action",
                    "only ALLOW and DENY are supported; the policy is ignored",
                );
                Effect::None
            }
            Some(action) => {
                if action == Action::Deny && spec.rules.is_empty() {
                    reader.note(
                        Severity::Warning,
                        "spec.rules",
                        "without rules a DENY matches nothing; {} matches all",
                    );
                }
                let mut translation = Translation { action, meta: &meta, reader };
                let rules = spec.rules.into_iter().enumerate();
                let rules = rules.filter_map(|(index, rule)| translation.rule(index, rule)).collect();
                Effect::Judged { action, rules, dry_run }
            }
        };
        Item { at: reader.at.clone(), meta, spec: Self { selector, effect, guard } }
    }

    /// Whether a `spec` is written as the one of an AuthorizationPolicy must be, for agents and waypoints alike: no field but
    /// those that there are, nothing empty that would match everything, every value in its form. Says what is wrong.
    pub fn check(spec: &serde_json::Value) -> Result<(), String> {
        if spec.is_null() {
            return Ok(());
        }
        let read = serde_json::from_value::<schema::AuthorizationPolicySpec>(spec.clone());
        read.map(|_| ()).map_err(|error| format!("spec: {error}"))
    }

    /// What stands in for a policy that cannot be read: an ALLOW admits nobody, anything else refuses everybody.
    pub(super) fn stand_in(meta: Meta, selector: Labels, surely_allow: bool, reader: &Reader<'_>) -> Item<Self> {
        let (action, rules): (_, Box<[Rule]>) =
            if surely_allow { (Action::Allow, Box::default()) } else { (Action::Deny, [Rule::default()].into()) };
        let spec = Self { selector, effect: Effect::Judged { action, rules, dry_run: false }, guard: None };
        Item { at: reader.at.clone(), meta, spec }
    }
}

impl AuthorizationPolicy {
    /// What stands in for a policy with `targetRefs` that cannot be read: it goes on guarding them.
    pub(super) fn guarding(meta: Meta, guard: Guard, reader: &Reader<'_>) -> Item<Self> {
        let spec = Self { selector: Labels::default(), effect: Effect::None, guard: Some(guard) };
        Item { at: reader.at.clone(), meta, spec }
    }
}

/// As Go's `strconv.ParseBool`, which Istio reads the annotation with.
fn is_true(text: Option<&str>) -> bool {
    matches!(text, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// What remains of one alternative, one `when`, or a part of them.
enum Remainder {
    /// This much.
    Match(Box<Match>),
    /// Everything matches.
    Always,
    /// Nothing matches.
    Never,
    /// It cannot be judged here, and dropping it would widen access: the rule goes.
    Unjudgeable,
}

struct Translation<'a, 'b> {
    action: Action,
    meta: &'a Meta,
    reader: &'a mut Reader<'b>,
}

impl Translation<'_, '_> {
    /// The rule at L4; `None` when it admits nobody, or can never match.
    fn rule(&mut self, index: usize, rule: schema::Rule) -> Option<Rule> {
        let field = format!("spec.rules[{index}]");
        let mut clauses = Vec::new();
        let from = rule.from.into_iter().map(|from| {
            let field = format!("{field}.from");
            let each = from.into_iter().enumerate();
            each.map(|(index, from)| self.source(&format!("{field}[{index}].source"), from.source)).collect::<Vec<_>>()
        });
        let from: Vec<_> = from.collect();
        let to = rule.to.into_iter().map(|to| {
            let field = format!("{field}.to");
            let each = to.into_iter().enumerate();
            each.map(|(index, to)| self.operation(&format!("{field}[{index}].operation"), to.operation))
                .collect::<Vec<_>>()
        });
        let to: Vec<_> = to.collect();
        let when = rule.when.into_iter().enumerate();
        let when: Vec<_> =
            when.map(|(index, condition)| vec![self.condition(&format!("{field}.when[{index}]"), condition)]).collect();
        for alternatives in from.into_iter().chain(to).chain(when) {
            match any_of(alternatives) {
                Ok(Some(clause)) => clauses.push(clause),
                Ok(None) => {}
                Err(Dropped) => return None,
            }
        }
        Some(Rule { clauses: clauses.into() })
    }

    fn source(&mut self, field: &str, source: schema::Source) -> Remainder {
        let l7 = [
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
            ("remoteIpBlocks", &source.remote_ip_blocks),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
        ];
        if self.uses_requests(field, &l7) {
            return Remainder::Unjudgeable;
        }
        let mut principals = self.principals(field, &source.principals);
        let mut not_principals = self.principals(field, &source.not_principals);
        if !source.trust_domains.is_empty() {
            match trust_domains(&source.trust_domains).and_then(|domains| within(&principals, &domains)) {
                Some(both) if both.is_empty() => return Remainder::Never,
                Some(both) => principals = both,
                None if self.gives_up(&format!("{field}.trustDomains"), SUFFIX) => return Remainder::Unjudgeable,
                None => {}
            }
        }
        match trust_domains(&source.not_trust_domains) {
            Some(domains) => not_principals.extend(domains),
            None if self.gives_up(&format!("{field}.notTrustDomains"), SUFFIX) => return Remainder::Unjudgeable,
            None => {}
        }
        finished(Match {
            principals: principals.into(),
            not_principals: not_principals.into(),
            namespaces: strings(&source.namespaces),
            not_namespaces: strings(&source.not_namespaces),
            service_accounts: self.service_accounts(&source.service_accounts),
            not_service_accounts: self.service_accounts(&source.not_service_accounts),
            source_ips: nets(&source.ip_blocks),
            not_source_ips: nets(&source.not_ip_blocks),
            ..Match::default()
        })
    }

    fn operation(&mut self, field: &str, operation: schema::Operation) -> Remainder {
        let l7 = [
            ("hosts", &operation.hosts),
            ("notHosts", &operation.not_hosts),
            ("methods", &operation.methods),
            ("notMethods", &operation.not_methods),
            ("paths", &operation.paths),
            ("notPaths", &operation.not_paths),
        ];
        if self.uses_requests(field, &l7) {
            return Remainder::Unjudgeable;
        }
        finished(Match {
            destination_ports: ports(&operation.ports),
            not_destination_ports: ports(&operation.not_ports),
            ..Match::default()
        })
    }

    fn condition(&mut self, field: &str, condition: schema::Condition) -> Remainder {
        use schema::Condition as Test;
        let mut found = Match::default();
        match condition {
            Test::SourceIp(values) => {
                found.source_ips = nets(&values.any);
                found.not_source_ips = nets(&values.none);
            }
            Test::DestinationIp(values) => {
                found.destination_ips = nets(&values.any);
                found.not_destination_ips = nets(&values.none);
            }
            Test::DestinationPort(values) => {
                found.destination_ports = ports(&values.any);
                found.not_destination_ports = ports(&values.none);
            }
            Test::SourceNamespace(values) => {
                found.namespaces = strings(&values.any);
                found.not_namespaces = strings(&values.none);
            }
            Test::SourcePrincipal(values) => {
                found.principals = self.principals(field, &values.any).into();
                found.not_principals = self.principals(field, &values.none).into();
            }
            Test::SourceTrustDomain(values) => {
                let (Some(any), Some(none)) = (trust_domains(&values.any), trust_domains(&values.none)) else {
                    return self.beyond(field, SUFFIX);
                };
                found.principals = any.into();
                found.not_principals = none.into();
            }
            Test::SourceServiceAccount(values) => {
                found.service_accounts = self.service_accounts(&values.any);
                found.not_service_accounts = self.service_accounts(&values.none);
            }
            Test::Request(key) => {
                return self.beyond(&format!("{field}.key"), &format!("{key} is an attribute of requests"));
            }
        }
        finished(found)
    }

    /// Whether the rule has to go because one of these fields is used.
    fn uses_requests(&mut self, field: &str, l7: &[(&str, &Vec<String>)]) -> bool {
        let used = l7.iter().filter(|(_, values)| !values.is_empty());
        used.fold(false, |gone, (name, _)| {
            self.gives_up(&format!("{field}.{name}"), "is an attribute of requests") | gone
        })
    }

    /// Something cannot be judged here. True in an ALLOW, where the rule has to go; in a DENY it is left out.
    fn gives_up(&mut self, field: &str, why: &str) -> bool {
        let (gone, consequence) = match self.action {
            Action::Allow => (true, "the rule admits nobody"),
            Action::Deny => (false, "it is left out, so the rule refuses more"),
        };
        let message =
            format!("{why}, which cannot be judged at L4: {consequence}; a policy with targetRefs is for a waypoint");
        self.reader.note(Severity::Warning, field, message);
        gone
    }

    fn beyond(&mut self, field: &str, why: &str) -> Remainder {
        if self.gives_up(field, why) { Remainder::Unjudgeable } else { Remainder::Always }
    }

    fn principals(&mut self, field: &str, patterns: &[Pattern]) -> Vec<StringMatch> {
        let mut found = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let text = pattern.0.strip_prefix("spiffe://").unwrap_or(&pattern.0);
            if text.len() != pattern.0.len() {
                let message = format!("{:?} is read without spiffe://", pattern.0);
                self.reader.note(Severity::Warning, format!("{field}.principals"), message);
            }
            found.push(StringMatch::parse(text));
        }
        found
    }

    /// `namespace/name`, or `name` in the policy's namespace.
    fn service_accounts(&mut self, texts: &[schema::ServiceAccount]) -> Box<[ServiceAccountMatch]> {
        texts
            .iter()
            .map(|text| ServiceAccountMatch {
                namespace: match &text.namespace {
                    Some(namespace) => self.reader.name(namespace),
                    None => self.meta.namespace.clone(),
                },
                service_account: self.reader.name(&text.name),
            })
            .collect()
    }
}

/// The rule is dropped.
struct Dropped;

/// One clause of alternatives; `None` when one of them always matches.
fn any_of(alternatives: Vec<Remainder>) -> Result<Option<Clause>, Dropped> {
    let mut matches = Vec::new();
    for alternative in alternatives {
        match alternative {
            Remainder::Match(found) => matches.push(*found),
            Remainder::Never => {}
            Remainder::Always => return Ok(None),
            Remainder::Unjudgeable => return Err(Dropped),
        }
    }
    // A clause without matches would match everything; this one matches nothing, and so does its rule.
    if matches.is_empty() { Err(Dropped) } else { Ok(Some(Clause { matches: matches.into() })) }
}

fn finished(found: Match) -> Remainder {
    if found == Match::default() { Remainder::Always } else { Remainder::Match(Box::new(found)) }
}

fn strings(patterns: &[Pattern]) -> Box<[StringMatch]> {
    patterns.iter().map(|pattern| StringMatch::parse(&pattern.0)).collect()
}

fn nets(cidrs: &[Cidr]) -> Box<[IpNet]> {
    cidrs.iter().map(|cidr| cidr.0).collect()
}

fn ports(texts: &[PortText]) -> Box<[u16]> {
    texts.iter().map(|port| port.0).collect()
}

/// Trust domains as the beginnings of principals; `None` if one has a leading `*`.
fn trust_domains(patterns: &[Pattern]) -> Option<Vec<StringMatch>> {
    patterns
        .iter()
        .map(|pattern| match StringMatch::parse(&pattern.0) {
            StringMatch::Exact(domain) => Some(StringMatch::Prefix(Name::from(format!("{domain}/")))),
            StringMatch::Prefix(start) => Some(StringMatch::Prefix(start)),
            StringMatch::Presence => Some(StringMatch::Presence),
            StringMatch::Suffix(_) => None,
        })
        .collect()
}

/// The principals that lie within the trust domains, both as patterns; all when there are no principals. `None` when
/// the intersection is not a list of patterns.
fn within(principals: &[StringMatch], domains: &[StringMatch]) -> Option<Vec<StringMatch>> {
    if principals.is_empty() {
        return Some(domains.to_vec());
    }
    let mut both = Vec::new();
    for principal in principals {
        for domain in domains {
            match (principal, domain) {
                (other, StringMatch::Presence) | (StringMatch::Presence, other) => both.push(other.clone()),
                (StringMatch::Exact(text), start) if start.fits(text) => both.push(principal.clone()),
                (StringMatch::Prefix(text), StringMatch::Prefix(start)) if text.starts_with(start.as_str()) => {
                    both.push(principal.clone());
                }
                (StringMatch::Prefix(text), StringMatch::Prefix(start)) if start.starts_with(text.as_str()) => {
                    both.push(domain.clone());
                }
                (StringMatch::Suffix(_), _) => return None,
                _ => {}
            }
        }
    }
    Some(both)
}
