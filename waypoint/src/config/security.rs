//! Pure. AuthorizationPolicies and RequestAuthentications that name this waypoint, its class or a service.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderName;
use mesh::model::policy::{Authorization, PolicyKey};
use mesh::model::rule::Attribute;
use serde_json::Value;
use sources::objects::kind::TargetedPolicy;

use super::history::History;
use super::object::Object;
use super::policies::is_root;
use super::schema::policy::TargetRef;
use super::schema::security as schema;
use super::services::Services;
use super::status::{CONTROLLER, Findings, ObjectStatus, ParentStatus, Rejection};
use crate::auth::jwt::{JwtRule, KeySource, key_set};
use crate::identity::{self, Reserved};

/// Names of GatewayClasses whose Gateways are waypoints of ours.
pub const CLASSES: [&str; 2] = ["culvert-waypoint", "istio-waypoint"];

/// What is enforced before a request is routed.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// L7 authorization.
    pub policies: Vec<Arc<Authorization>>,
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
        let judged = self.policies.iter().flat_map(|policy| headers(policy));
        let reserved = Reserved { told: distinct(told), judged: distinct(carrying.chain(judged)) };
        self.reserved = Arc::new(reserved);
    }
}

/// The headers that the rules of a policy look at.
fn headers(policy: &Authorization) -> impl Iterator<Item = &HeaderName> {
    let tests = policy.rules.iter().flat_map(|rule| rule.tests());
    tests.filter_map(|test| match &test.attribute {
        Attribute::Header(name, _) => Some(name),
        _ => None,
    })
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
            let read = || TargetedPolicy::read(policy_key(object), &object.annotations, &object.spec);
            match object.check().and_then(|()| read()) {
                Ok(read) => {
                    findings.notes.extend(read.notes);
                    read.policy
                }
                Err(message) => {
                    findings.reject("Invalid", message);
                    TargetedPolicy::stand_in(policy_key(object), &object.annotations)
                }
            }
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
                Arc::new(TargetedPolicy::stand_in(policy_key(object), &BTreeMap::new()))
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

fn policy_key(object: &Object) -> PolicyKey {
    PolicyKey { namespace: (&*object.namespace).into(), name: (&*object.name).into() }
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

/// Istio refuses such an object too.
const TWO_TARGETS: &str = "spec: selector and targetRefs exclude each other";

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
