//! Pure. AuthorizationPolicies and RequestAuthentications that name this waypoint, its class or a service.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;
use serde_json::Value;
use sources::objects::kind::AuthorizationPolicy;

use super::history::History;
use super::object::Object;
use super::policies::is_root;
use super::schema::policy::TargetRef;
use super::schema::security as schema;
use super::services::Services;
use super::status::{CONTROLLER, Findings, ObjectStatus, ParentStatus, Rejection};
use crate::auth::authorize::{Action, Attribute, Pattern, Policy, Rule, Test};
use crate::auth::jwt::{JwtRule, KeySource, key_set};
use crate::identity::{self, Reserved};

/// Names of GatewayClasses whose Gateways are waypoints of ours.
pub const CLASSES: [&str; 2] = ["culvert-waypoint", "istio-waypoint"];

/// What is enforced before a request is routed.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// L7 authorization.
    pub policies: Vec<Arc<Policy>>,
    /// Tokens.
    pub jwt: Vec<Arc<JwtRule>>,
    /// Headers that these give a meaning to.
    pub reserved: Arc<Reserved>,
}

impl Security {
    /// Finds out which headers mean something: those that tokens fill, those that carry tokens, those that policies judge.
    fn reserve(&mut self) {
        let told = self.jwt.iter().flat_map(|rule| rule.told());
        let carrying = self.jwt.iter().flat_map(|rule| rule.from_headers.iter().map(|(name, _)| name));
        let judged = self.policies.iter().flat_map(|policy| policy.headers());
        let reserved = Reserved { told: distinct(told), judged: distinct(carrying.chain(judged)) };
        self.reserved = Arc::new(reserved);
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a HeaderName>) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> = names.cloned().collect();
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names
}

/// What a security policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Class,
    Gateway(Arc<str>, Arc<str>),
    Service(Arc<str>, Arc<str>),
}

/// All security policies, by target.
#[derive(Default)]
pub struct Securities {
    by_target: HashMap<Target, Security>,
}

impl Securities {
    /// Reads the policies among `objects`; each that a waypoint enforces gets its status. One that cannot be read
    /// refuses everything at its targets: it was written to keep something out.
    pub fn read(
        objects: &[Arc<Object>],
        services: &Services,
        history: &mut History,
        statuses: &mut Vec<ObjectStatus>,
    ) -> Self {
        let mut all = Self::default();
        for object in objects.iter().filter(|object| object.group() == "security.istio.io") {
            match &*object.kind {
                "AuthorizationPolicy" => all.authorization(object, services, history, statuses),
                "RequestAuthentication" => all.authentication(object, services, history, statuses),
                _ => {}
            }
        }
        all
    }

    /// What applies to a service behind a waypoint.
    pub fn of(&self, service: (&str, &str), gateway: Option<(&str, &str)>) -> Security {
        self.all(gateway, Some(Target::Service(service.0.into(), service.1.into())))
    }

    /// What applies to everything behind a waypoint.
    pub fn of_gateway(&self, gateway: Option<(&str, &str)>) -> Security {
        self.all(gateway, None)
    }

    fn all(&self, gateway: Option<(&str, &str)>, service: Option<Target>) -> Security {
        let gateway = gateway.map(|(namespace, name)| Target::Gateway(namespace.into(), name.into()));
        let targets = [Some(Target::Class), gateway, service];
        let mut out = Security::default();
        for found in targets.iter().flatten().filter_map(|target| self.by_target.get(target)) {
            out.policies.extend(found.policies.iter().cloned());
            out.jwt.extend(found.jwt.iter().cloned());
        }
        out.reserve();
        out
    }

    fn authorization(
        &mut self,
        object: &Arc<Object>,
        services: &Services,
        history: &mut History,
        statuses: &mut Vec<ObjectStatus>,
    ) {
        let references = references(object);
        if references.is_empty() {
            return;
        }
        let (policy, findings) = history.read(object, |object, findings| {
            let read = object.read().and_then(|spec| policy(object, &spec, findings));
            read.unwrap_or_else(|message| {
                findings.reject("Invalid", message);
                refuse_everything(object, is_dry_run(object))
            })
        });
        let policy = Arc::new(policy);
        let status = self.attach(object, &references, services, &findings, |security| {
            security.policies.push(Arc::clone(&policy));
        });
        statuses.push(status);
    }

    fn authentication(
        &mut self,
        object: &Arc<Object>,
        services: &Services,
        history: &mut History,
        statuses: &mut Vec<ObjectStatus>,
    ) {
        let references = references(object);
        if references.is_empty() {
            return;
        }
        let (rules, findings) = history.read(object, |object, findings| {
            let rules = object.read().and_then(|spec: schema::RequestAuthenticationSpec| {
                if spec.selector.is_some() {
                    return Err(TWO_TARGETS.to_owned());
                }
                let rules = spec.jwt_rules.iter().enumerate();
                let rules = rules.map(|(index, rule)| {
                    jwt_rule(rule).map(Arc::new).map_err(|error| format!("spec.jwtRules[{index}].{error}"))
                });
                rules.collect::<Result<Vec<_>, _>>()
            });
            // Which headers it fills is not known either: a backend would take a caller's own for them.
            rules.map_err(|message| {
                findings.reject("Invalid", message);
                Arc::new(refuse_everything(object, false))
            })
        });
        let status = self.attach(object, &references, services, &findings, |security| match &rules {
            Ok(rules) => security.jwt.extend(rules.iter().cloned()),
            Err(policy) => security.policies.push(Arc::clone(policy)),
        });
        statuses.push(status);
    }

    fn attach(
        &mut self,
        object: &Object,
        references: &[TargetRef],
        services: &Services,
        findings: &Findings,
        mut add: impl FnMut(&mut Security),
    ) -> ObjectStatus {
        let parents = references.iter().map(|reference| {
            let rejected = match target(object, reference, services) {
                Ok(target) => {
                    add(self.by_target.entry(target).or_default());
                    None
                }
                Err(why) => Some(why),
            };
            ParentStatus {
                reference: serde_json::to_value(reference).unwrap_or(Value::Null),
                controller_name: CONTROLLER,
                conditions: findings.conditions(object, rejected),
            }
        });
        let parents = parents.collect();
        ObjectStatus::new(object, parents)
    }
}

/// The policy that stands in for an object that cannot be read.
fn refuse_everything(object: &Object, dry_run: bool) -> Policy {
    Policy { name: object.full_name(), action: Action::Deny, dry_run, rules: [Rule::default()].into() }
}

/// The targets, also of a policy whose rules cannot be read. One that cannot be read itself names nothing that there is,
/// which its status then says.
fn references(object: &Object) -> Vec<TargetRef> {
    let read = |value: &Value| {
        let unreadable = || TargetRef {
            group: String::new(),
            kind: value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
            name: value.to_string(),
            namespace: None,
            section_name: None,
        };
        serde_json::from_value(value.clone()).unwrap_or_else(|_| unreadable())
    };
    let many = match object.spec.get("targetRefs") {
        Some(Value::Array(items)) => items.iter().map(read).collect(),
        Some(Value::Null) | None => vec![],
        Some(other) => vec![read(other)],
    };
    many.into_iter().chain(object.spec.get("targetRef").filter(|one| !one.is_null()).map(read)).collect()
}

/// As Go's `strconv.ParseBool`, which Istio reads the annotation with.
fn is_dry_run(object: &Object) -> bool {
    let value = object.annotations.get("istio.io/dry-run");
    value.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn target(object: &Object, reference: &TargetRef, services: &Services) -> Result<Target, Rejection> {
    let namespace = Arc::clone(&object.namespace);
    let name: Arc<str> = reference.name.as_str().into();
    if let Some(other) = reference.namespace.as_ref().filter(|other| ***other != *namespace) {
        let meant = format!("{} {other}/{name}", reference.kind);
        let label = object.label();
        return Err((
            "RefNotPermitted",
            format!("{label} cannot apply to {meant}: a policy applies to its own namespace"),
        ));
    }
    match (reference.group.as_str(), reference.kind.as_str()) {
        ("gateway.networking.k8s.io", "Gateway") => Ok(Target::Gateway(namespace, name)),
        ("gateway.networking.k8s.io", "GatewayClass") if !is_root(&namespace) => {
            let label = object.label();
            Err(("RefNotPermitted", format!("{label}: only a root namespace may apply to GatewayClass {name}")))
        }
        ("gateway.networking.k8s.io", "GatewayClass") if CLASSES.contains(&&*name) => Ok(Target::Class),
        ("" | "core", "Service") | ("networking.istio.io", "ServiceEntry") => {
            if services.get(&namespace, &name).is_none() {
                return Err(("TargetNotFound", format!("there is no {} {namespace}/{name}", reference.kind)));
            }
            Ok(Target::Service(namespace, name))
        }
        (group, kind) => Err(("Invalid", format!("a waypoint does not enforce policies on {group}/{kind} {name}"))),
    }
}

fn policy(object: &Object, spec: &schema::AuthorizationSpec, findings: &mut Findings) -> Result<Policy, String> {
    AuthorizationPolicy::check(&object.spec)?;
    if spec.selector.is_some() {
        return Err(TWO_TARGETS.to_owned());
    }
    let action = match spec.action.as_deref().unwrap_or("ALLOW") {
        "ALLOW" => Action::Allow,
        "DENY" => Action::Deny,
        "AUDIT" => Action::Audit,
        "CUSTOM" => {
            // What the external authorizer would have been asked about is refused.
            findings.notes.push("CUSTOM is not supported: what its rules match is refused".to_owned());
            Action::Deny
        }
        other => return Err(format!("spec.action: {other:?} is not ALLOW, DENY, AUDIT or CUSTOM")),
    };
    let rules = spec.rules.iter().enumerate();
    let rules = rules.map(|(index, from)| rule(object, from).map_err(|error| format!("spec.rules[{index}].{error}")));
    Ok(Policy {
        name: object.full_name(),
        action,
        dry_run: is_dry_run(object),
        rules: rules.collect::<Result<_, _>>()?,
    })
}

/// Istio refuses such an object too.
const TWO_TARGETS: &str = "spec: selector and targetRefs exclude each other";

type Tests = Result<Box<[Test]>, String>;

fn rule(object: &Object, from: &schema::Rule) -> Result<Rule, String> {
    if from.from.as_ref().is_some_and(Vec::is_empty) || from.to.as_ref().is_some_and(Vec::is_empty) {
        return Err("from and to must name something, or be left out".to_owned());
    }
    let sources = from.from.iter().flatten().map(|from| source(&object.namespace, &from.source));
    let sources = sources.collect::<Result<_, _>>()?;
    let operations = from.to.iter().flatten().map(|to| operation(&to.operation)).collect::<Result<_, _>>()?;
    let mut when = Vec::new();
    for condition in &from.when {
        if condition.values.is_empty() && condition.not_values.is_empty() {
            return Err(format!("when {:?}: needs values or notValues", condition.key));
        }
        let (attribute, parse) = attribute(&object.namespace, &condition.key)?;
        for (values, negated) in [(&condition.values, false), (&condition.not_values, true)] {
            let tested = push(&mut when, &attribute, values, negated, &*parse);
            tested.map_err(|error| format!("when {:?}: {error}", condition.key))?;
        }
    }
    Ok(Rule { from: sources, to: operations, when: when.into() })
}

/// One value as it is compared, and what it means in other readings.
type Parse<'a> = dyn Fn(&str) -> Result<(Pattern, Vec<Pattern>), String> + 'a;

fn push(
    tests: &mut Vec<Test>,
    attribute: &Attribute,
    values: &[String],
    negated: bool,
    parse: &Parse<'_>,
) -> Result<(), String> {
    if !values.is_empty() {
        let parsed: Vec<(Pattern, Vec<Pattern>)> = values.iter().map(|value| parse(value)).collect::<Result<_, _>>()?;
        let (values, loose): (Vec<_>, Vec<_>) = parsed.into_iter().unzip();
        let loose = loose.into_iter().flatten().collect();
        tests.push(Test { attribute: attribute.clone(), values: values.into(), loose, negated });
    }
    Ok(())
}

fn text(value: &str) -> Result<(Pattern, Vec<Pattern>), String> {
    Pattern::text(value).map(only)
}

fn only(pattern: Pattern) -> (Pattern, Vec<Pattern>) {
    (pattern, vec![])
}

/// An identity, with or without its scheme.
fn principal(value: &str) -> Result<(Pattern, Vec<Pattern>), String> {
    text(value.strip_prefix("spiffe://").unwrap_or(value))
}

fn host(value: &str) -> Result<(Pattern, Vec<Pattern>), String> {
    Pattern::host(value).map(only)
}

fn net(value: &str) -> Result<(Pattern, Vec<Pattern>), String> {
    let net = value.parse::<IpNet>().or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from));
    net.map(|net| only(Pattern::Net(net.trunc()))).map_err(|_| format!("{value:?} is neither an address nor a range"))
}

fn port(value: &str) -> Result<(Pattern, Vec<Pattern>), String> {
    let port = value.parse().ok().filter(|port| *port > 0);
    port.map(|port| only(Pattern::Port(port))).ok_or_else(|| format!("{value:?} must be a number from 1 to 65535"))
}

/// `namespace/name`, or a name in the policy's namespace.
fn account(namespace: &str, value: &str) -> Result<(Pattern, Vec<Pattern>), String> {
    let (of, name) = value.split_once('/').unwrap_or((namespace, value));
    if value.contains('*') || of.is_empty() || name.is_empty() || name.contains('/') {
        return Err(format!("{value:?} must be a service account: namespace/name or name, without wildcards"));
    }
    Ok(only(Pattern::Exact(format!("{of}/{name}").into())))
}

fn source(namespace: &str, from: &schema::Source) -> Tests {
    let accounts = |value: &str| account(namespace, value);
    let mut tests = Vec::new();
    for (attribute, values, not, parse) in [
        (Attribute::Principal, &from.principals, &from.not_principals, &principal as &Parse<'_>),
        (Attribute::RequestPrincipal, &from.request_principals, &from.not_request_principals, &text),
        (Attribute::Namespace, &from.namespaces, &from.not_namespaces, &text),
        (Attribute::ServiceAccount, &from.service_accounts, &from.not_service_accounts, &accounts),
        (Attribute::TrustDomain, &from.trust_domains, &from.not_trust_domains, &text),
        (Attribute::SourceIp, &from.ip_blocks, &from.not_ip_blocks, &net),
        (Attribute::SourceIp, &from.remote_ip_blocks, &from.not_remote_ip_blocks, &net),
    ] {
        push(&mut tests, &attribute, values, false, parse).map_err(|error| format!("source: {error}"))?;
        push(&mut tests, &attribute, not, true, parse).map_err(|error| format!("source: {error}"))?;
    }
    if tests.is_empty() { Err("source is empty: it would match everything".to_owned()) } else { Ok(tests.into()) }
}

fn operation(from: &schema::Operation) -> Tests {
    let path = |value: &str| Pattern::path(value);
    let mut tests = Vec::new();
    for (attribute, values, not, parse) in [
        (Attribute::Host, &from.hosts, &from.not_hosts, &host as &Parse<'_>),
        (Attribute::DestinationPort, &from.ports, &from.not_ports, &port),
        (Attribute::Method, &from.methods, &from.not_methods, &text),
        (Attribute::Path, &from.paths, &from.not_paths, &path),
    ] {
        push(&mut tests, &attribute, values, false, parse).map_err(|error| format!("operation: {error}"))?;
        push(&mut tests, &attribute, not, true, parse).map_err(|error| format!("operation: {error}"))?;
    }
    if tests.is_empty() { Err("operation is empty: it would match everything".to_owned()) } else { Ok(tests.into()) }
}

/// What a `when` key looks at. An unknown one makes the policy invalid: leaving it out would widen it.
fn attribute<'a>(namespace: &'a str, key: &str) -> Result<(Attribute, Box<Parse<'a>>), String> {
    let inner = |prefix: &str| key.strip_prefix(prefix)?.strip_suffix(']');
    if let Some(name) = inner("request.headers[") {
        // HTTP/2 has no `host` but `:authority`, and a policy means either.
        if name.eq_ignore_ascii_case("host") || name == ":authority" {
            return Ok((Attribute::Host, Box::new(host)));
        }
        if name == ":method" {
            return Ok((Attribute::Method, Box::new(text)));
        }
        let name: HeaderName = name.parse().map_err(|_| format!("when: {name:?} is not a header name"))?;
        return Ok((Attribute::Header(name), Box::new(text)));
    }
    if let Some(path) = inner("request.auth.claims[") {
        let path: Arc<[Box<str>]> = path.split("][").map(Box::from).collect();
        if path.iter().any(|part| part.is_empty() || part.contains(['[', ']'])) {
            return Err(format!("when: key {key:?} must name claims as in request.auth.claims[a][b]"));
        }
        return Ok((Attribute::Claim(path), Box::new(text)));
    }
    let plain = match key {
        "source.principal" => return Ok((Attribute::Principal, Box::new(principal))),
        "source.ip" | "remote.ip" => return Ok((Attribute::SourceIp, Box::new(net))),
        "destination.ip" => return Ok((Attribute::DestinationIp, Box::new(net))),
        "destination.port" => return Ok((Attribute::DestinationPort, Box::new(port))),
        "source.serviceAccount" => {
            return Ok((Attribute::ServiceAccount, Box::new(move |value| account(namespace, value))));
        }
        "source.namespace" => Attribute::Namespace,
        "source.trustDomain" => Attribute::TrustDomain,
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::Audience,
        "request.auth.presenter" => Attribute::Presenter,
        "connection.sni" => Attribute::ServerName,
        other => return Err(format!("when: key {other:?} is not known")),
    };
    Ok((plain, Box::new(text)))
}

fn jwt_rule(from: &schema::JwtRule) -> Result<JwtRule, String> {
    let header = |name: &str| name.parse::<HeaderName>().map_err(|_| format!("{name:?} must be the name of a header"));
    let filled = |name: &str| match header(name)? {
        name if identity::may_be_told(&name) => Ok(name),
        name => Err(format!("{name:?} must not be a header of the message or of the mesh itself")),
    };
    let keys = match (&from.jwks, &from.jwks_uri) {
        (Some(jwks), _) if !jwks.is_empty() => {
            KeySource::Inline(Arc::new(key_set(jwks.as_bytes()).map_err(|error| format!("jwks {error}"))?))
        }
        (_, Some(uri)) if uri.starts_with("http://") || uri.starts_with("https://") => {
            KeySource::Url(uri.as_str().into())
        }
        _ => return Err(format!("issuer {:?} has neither jwks nor a jwksUri", from.issuer)),
    };
    if from.issuer.is_empty() {
        return Err("issuer must not be empty".to_owned());
    }
    let from_headers = from.from_headers.iter().map(|from| Ok((header(&from.name)?, from.prefix.clone())));
    let claim_headers = from
        .output_claim_to_headers
        .iter()
        .map(|to| Ok((filled(&to.header)?, to.claim.split('.').map(Box::from).collect())));
    Ok(JwtRule {
        issuer: from.issuer.clone(),
        audiences: from.audiences.clone(),
        keys,
        from_headers: from_headers.collect::<Result<_, String>>()?,
        from_params: from.from_params.clone(),
        from_cookies: from.from_cookies.clone(),
        payload_header: from.output_payload_to_header.as_deref().map(filled).transpose()?,
        claim_headers: claim_headers.collect::<Result<_, String>>()?,
        forward: from.forward_original_token,
        space_delimited: from.space_delimited_claims.iter().map(|claim| claim.as_str().into()).collect(),
    })
}
