//! Pure. AuthorizationPolicies and RequestAuthentications that name this waypoint, its class or a service.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;
use jsonwebtoken::jwk::JwkSet;
use serde_json::Value;

use super::history::History;
use super::object::Object;
use super::policies::ROOT_NAMESPACES;
use super::schema::policy::TargetRef;
use super::schema::security as schema;
use super::services::Services;
use super::status::{CONTROLLER, Findings, ObjectStatus, ParentStatus};
use crate::authorize::{Action, Attribute, Pattern, Policy, Rule, Test};
use crate::jwt::{JwtRule, KeySource};

/// Names of GatewayClasses whose Gateways are waypoints of ours.
pub const CLASSES: [&str; 2] = ["culvert-waypoint", "istio-waypoint"];

/// What is enforced before a request is routed.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// L7 authorization.
    pub policies: Vec<Arc<Policy>>,
    /// Tokens.
    pub jwt: Vec<Arc<JwtRule>>,
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
                let rules = [Rule::default()].into();
                Policy { name: object.full_name(), action: Action::Deny, dry_run: is_dry_run(object), rules }
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
                spec.jwt_rules.iter().map(|rule| jwt_rule(rule).map(Arc::new)).collect::<Result<Vec<_>, _>>()
            });
            rules.unwrap_or_else(|message| {
                findings.reject("Invalid", message);
                vec![]
            })
        });
        let status = self.attach(object, &references, services, &findings, |security| {
            security.jwt.extend(rules.iter().cloned());
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

/// The targets, also of a policy whose rules cannot be read.
fn references(object: &Object) -> Vec<TargetRef> {
    let read = |value: Option<&Value>| value.and_then(|value| serde_json::from_value(value.clone()).ok());
    let many: Vec<TargetRef> = match object.spec.get("targetRefs") {
        Some(Value::Array(items)) => items.iter().filter_map(|item| read(Some(item))).collect(),
        _ => vec![],
    };
    many.into_iter().chain(read(object.spec.get("targetRef"))).collect()
}

fn is_dry_run(object: &Object) -> bool {
    object.annotations.get("istio.io/dry-run").is_some_and(|value| value == "true")
}

fn target(object: &Object, reference: &TargetRef, services: &Services) -> Result<Target, (&'static str, String)> {
    let namespace = Arc::clone(&object.namespace);
    let name: Arc<str> = reference.name.as_str().into();
    if reference.namespace.as_ref().is_some_and(|other| **other != *namespace) {
        return Err(("Invalid", "a policy applies to its own namespace only".to_owned()));
    }
    match (reference.group.as_str(), reference.kind.as_str()) {
        ("gateway.networking.k8s.io", "Gateway") => Ok(Target::Gateway(namespace, name)),
        ("gateway.networking.k8s.io", "GatewayClass") if !ROOT_NAMESPACES.contains(&&*namespace) => {
            Err(("Invalid", "only a root namespace may apply to a GatewayClass".to_owned()))
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

type Tests = Result<Box<[Test]>, String>;

fn rule(object: &Object, from: &schema::Rule) -> Result<Rule, String> {
    let sources = from.from.iter().map(|from| source(&object.namespace, &from.source)).collect::<Result<_, _>>()?;
    let operations = from.to.iter().map(|to| operation(&to.operation)).collect::<Result<_, _>>()?;
    let mut when = Vec::new();
    for condition in &from.when {
        if condition.values.is_empty() && condition.not_values.is_empty() {
            return Err(format!("when {:?}: needs values or notValues", condition.key));
        }
        let (attribute, parse) = attribute(&object.namespace, &condition.key)?;
        push(&mut when, &attribute, &condition.values, false, &*parse)?;
        push(&mut when, &attribute, &condition.not_values, true, &*parse)?;
    }
    Ok(Rule { from: sources, to: operations, when: when.into() })
}

type Parse<'a> = dyn Fn(&str) -> Result<Pattern, String> + 'a;

fn push(
    tests: &mut Vec<Test>,
    attribute: &Attribute,
    values: &[String],
    negated: bool,
    parse: &Parse<'_>,
) -> Result<(), String> {
    if !values.is_empty() {
        let values = values.iter().map(|value| parse(value)).collect::<Result<_, _>>()?;
        tests.push(Test { attribute: attribute.clone(), values, negated });
    }
    Ok(())
}

fn text(value: &str) -> Result<Pattern, String> {
    Ok(Pattern::text(value))
}

fn net(value: &str) -> Result<Pattern, String> {
    let net = value.parse::<IpNet>().or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from));
    net.map(|net| Pattern::Net(net.trunc())).map_err(|_| format!("{value:?} is neither an address nor a range"))
}

fn port(value: &str) -> Result<Pattern, String> {
    value.parse().map(Pattern::Port).map_err(|_| format!("{value:?} is not a port"))
}

/// `namespace/name`, or a name in the policy's namespace.
fn account(namespace: &str, value: &str) -> Result<Pattern, String> {
    if value.contains('*') {
        return Err(format!("serviceAccounts: {value:?} must not have a wildcard"));
    }
    Ok(Pattern::Exact(if value.contains('/') { value.into() } else { format!("{namespace}/{value}").into() }))
}

fn source(namespace: &str, from: &schema::Source) -> Tests {
    let accounts = |value: &str| account(namespace, value);
    let mut tests = Vec::new();
    for (attribute, values, not, parse) in [
        (Attribute::Principal, &from.principals, &from.not_principals, &text as &Parse<'_>),
        (Attribute::RequestPrincipal, &from.request_principals, &from.not_request_principals, &text),
        (Attribute::Namespace, &from.namespaces, &from.not_namespaces, &text),
        (Attribute::ServiceAccount, &from.service_accounts, &from.not_service_accounts, &accounts),
        (Attribute::TrustDomain, &from.trust_domains, &from.not_trust_domains, &text),
        (Attribute::SourceIp, &from.ip_blocks, &from.not_ip_blocks, &net),
        (Attribute::SourceIp, &from.remote_ip_blocks, &from.not_remote_ip_blocks, &net),
    ] {
        push(&mut tests, &attribute, values, false, parse)?;
        push(&mut tests, &attribute, not, true, parse)?;
    }
    Ok(tests.into())
}

fn operation(from: &schema::Operation) -> Tests {
    let host = |value: &str| Ok(Pattern::host(value));
    let path = |value: &str| Pattern::path(value);
    let mut tests = Vec::new();
    for (attribute, values, not, parse) in [
        (Attribute::Host, &from.hosts, &from.not_hosts, &host as &Parse<'_>),
        (Attribute::DestinationPort, &from.ports, &from.not_ports, &port),
        (Attribute::Method, &from.methods, &from.not_methods, &text),
        (Attribute::Path, &from.paths, &from.not_paths, &path),
    ] {
        push(&mut tests, &attribute, values, false, parse)?;
        push(&mut tests, &attribute, not, true, parse)?;
    }
    Ok(tests.into())
}

/// What a `when` key looks at. An unknown one makes the policy invalid: leaving it out would widen it.
fn attribute<'a>(namespace: &'a str, key: &str) -> Result<(Attribute, Box<Parse<'a>>), String> {
    let inner = |prefix: &str| key.strip_prefix(prefix)?.strip_suffix(']');
    if let Some(name) = inner("request.headers[") {
        let name: HeaderName = name.parse().map_err(|_| format!("when: {name:?} is not a header name"))?;
        return Ok((Attribute::Header(name), Box::new(text)));
    }
    if let Some(path) = inner("request.auth.claims[") {
        let path = path.split("][").map(Box::from).collect();
        return Ok((Attribute::Claim(path), Box::new(text)));
    }
    let plain = match key {
        "source.ip" | "remote.ip" => return Ok((Attribute::SourceIp, Box::new(net))),
        "destination.ip" => return Ok((Attribute::DestinationIp, Box::new(net))),
        "destination.port" => return Ok((Attribute::DestinationPort, Box::new(port))),
        "source.serviceAccount" => {
            return Ok((Attribute::ServiceAccount, Box::new(move |value| account(namespace, value))));
        }
        "source.namespace" => Attribute::Namespace,
        "source.principal" => Attribute::Principal,
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
    let header =
        |name: &str| name.parse::<HeaderName>().map_err(|_| format!("jwtRules: {name:?} is not a header name"));
    let keys = match (&from.jwks, &from.jwks_uri) {
        (Some(jwks), _) if !jwks.is_empty() => {
            let set: JwkSet = serde_json::from_str(jwks).map_err(|error| format!("jwtRules.jwks: {error}"))?;
            KeySource::Inline(Arc::new(set))
        }
        (_, Some(uri)) if uri.starts_with("http://") || uri.starts_with("https://") => {
            KeySource::Url(uri.as_str().into())
        }
        _ => return Err(format!("jwtRules: issuer {:?} has neither jwks nor a jwksUri", from.issuer)),
    };
    if from.issuer.is_empty() {
        return Err("jwtRules: issuer is empty".to_owned());
    }
    let from_headers = from.from_headers.iter().map(|from| Ok((header(&from.name)?, from.prefix.clone())));
    let claim_headers = from
        .output_claim_to_headers
        .iter()
        .map(|to| Ok((header(&to.header)?, to.claim.split('.').map(Box::from).collect())));
    Ok(JwtRule {
        issuer: from.issuer.clone(),
        audiences: from.audiences.clone(),
        keys,
        from_headers: from_headers.collect::<Result<_, String>>()?,
        from_params: from.from_params.clone(),
        from_cookies: from.from_cookies.clone(),
        payload_header: from.output_payload_to_header.as_deref().map(header).transpose()?,
        claim_headers: claim_headers.collect::<Result<_, String>>()?,
        forward: from.forward_original_token,
        space_delimited: from.space_delimited_claims.iter().map(|claim| claim.as_str().into()).collect(),
    })
}
