//! Pure. AuthorizationPolicies and RequestAuthentications that name this waypoint, its class or a service.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderName;
use mesh::authority::attachment::{self, Unattached};
use mesh::model::policy::{Authorization, PolicyKey};
use mesh::model::rule::Attribute;
use mesh::policy::overrides::Overridable;
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
    /// What policies judge that fields of a request may override.
    pub overridable: Overridable,
}

impl Security {
    /// Finds out which headers mean something: those that tokens fill, those that carry tokens, those that policies
    /// judge.
    fn reserve(&mut self) {
        let told = self.jwt.iter().flat_map(|rule| rule.told());
        let carrying = self.jwt.iter().flat_map(|rule| rule.from_headers.iter().map(|(name, _)| name));
        let judged = self.policies.iter().flat_map(|policy| headers(policy));
        self.overridable = Overridable::by(self.policies.iter().flat_map(|policy| policy.rules.iter()));
        let overriding: Vec<HeaderName> = self.overridable.fields().collect();
        let judged = carrying.chain(judged).chain(&overriding);
        let reserved = Reserved { told: distinct(told), judged: distinct(judged) };
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
    Mesh,
    Namespace(Arc<str>),
    Class,
    Gateway(Arc<str>, Arc<str>),
    Service(Arc<str>, Arc<str>),
}

impl From<attachment::Target<'_>> for Target {
    fn from(target: attachment::Target<'_>) -> Self {
        match target {
            // No security policy applies to a route.
            attachment::Target::Mesh | attachment::Target::Route(..) => Self::Mesh,
            attachment::Target::Namespace(namespace) => Self::Namespace(namespace.into()),
            attachment::Target::Class(_) => Self::Class,
            attachment::Target::Gateway(namespace, name) => Self::Gateway(namespace.into(), name.into()),
            attachment::Target::Service(namespace, name) => Self::Service(namespace.into(), name.into()),
        }
    }
}

/// One entry of `targetRefs`.
#[derive(Clone, Debug)]
struct Named {
    reference: TargetRef,
    is_readable: bool,
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
        let mut targets = vec![Target::Mesh, Target::Class];
        if let Some((namespace, name)) = gateway {
            targets.push(Target::Namespace(namespace.into()));
            targets.push(Target::Gateway(namespace.into(), name.into()));
        }
        if let Some(Target::Service(namespace, _)) = &service {
            let home = Target::Namespace(Arc::clone(namespace));
            targets.extend((!targets.contains(&home)).then_some(home));
        }
        targets.extend(service);
        let mut out = Security::default();
        for found in targets.iter().filter_map(|target| self.by_target.get(target)) {
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
        if references(object).is_empty() {
            return;
        }
        let ((policy, references), findings) = history.read(object, |object, findings| {
            let references = checked(object, findings);
            let read = || TargetedPolicy::read(policy_key(object), &object.annotations, &object.spec);
            let policy = match object.check().and_then(|()| read()) {
                Ok(read) => {
                    findings.notes.extend(read.notes);
                    read.policy
                }
                Err(message) => {
                    findings.reject("Invalid", message);
                    TargetedPolicy::stand_in(policy_key(object), &object.annotations)
                }
            };
            (policy, references)
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
        if references(object).is_empty() {
            return;
        }
        let ((rules, references), findings) = history.read(object, |object, findings| {
            let references = checked(object, findings);
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
            let rules = rules.map_err(|message| {
                findings.reject("Invalid", message);
                Arc::new(TargetedPolicy::stand_in(policy_key(object), &BTreeMap::new()))
            });
            (rules, references)
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
        references: &[Named],
        services: &Services,
        findings: &Findings,
        mut add: impl FnMut(&mut Security),
    ) -> ObjectStatus {
        let parents = references.iter().map(|named| {
            let rejected = match target(object, &named.reference, services) {
                Ok(target) => {
                    add(self.by_target.entry(target).or_default());
                    None
                }
                Err(why) => Some(why),
            };
            for target in in_doubt(object, named) {
                let refusing = Arc::new(TargetedPolicy::stand_in(policy_key(object), &object.annotations));
                self.by_target.entry(target).or_default().policies.push(refusing);
            }
            ParentStatus {
                reference: serde_json::to_value(&named.reference).unwrap_or(Value::Null),
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

/// The targets, of which none must be in doubt.
fn checked(object: &Object, findings: &mut Findings) -> Vec<Named> {
    let references = references(object);
    for named in references.iter().filter(|named| !in_doubt(object, named).is_empty()) {
        let TargetRef { group, kind, name, .. } = &named.reference;
        findings.reject("Invalid", format!("{NOT_ENFORCED} {group}/{kind} {name:?}"));
    }
    references
}

/// The targets, also of a policy whose rules cannot be read. One that cannot be read itself may be anything.
fn references(object: &Object) -> Vec<Named> {
    let read = |value: &Value| {
        let unreadable = || TargetRef {
            group: String::new(),
            kind: value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
            name: value.to_string(),
            namespace: None,
            section_name: None,
        };
        let read = serde_json::from_value(value.clone());
        let is_readable = read.is_ok();
        Named { reference: read.unwrap_or_else(|_| unreadable()), is_readable }
    };
    let many = match object.spec.get("targetRefs") {
        Some(Value::Array(items)) => items.iter().map(read).collect(),
        Some(Value::Null) | None => vec![],
        Some(other) => vec![read(other)],
    };
    many.into_iter().chain(object.spec.get("targetRef").filter(|one| !one.is_null()).map(read)).collect()
}

/// What a reference means, or why it means nothing.
fn target(object: &Object, reference: &TargetRef, services: &Services) -> Result<Target, Rejection> {
    let TargetRef { group, kind, name, .. } = reference;
    let label = object.label();
    let found = attachment::of_security(&object.namespace, is_root(&object.namespace), reference.reference());
    match found {
        Ok(attachment::Target::Class(class)) if !CLASSES.contains(&class) => {
            Err(("Invalid", format!("GatewayClass {name} is no class of a waypoint")))
        }
        Ok(attachment::Target::Service(namespace, name)) if services.get(namespace, name).is_none() => {
            Err(("TargetNotFound", format!("there is no {kind} {namespace}/{name}")))
        }
        Ok(target) => Ok(Target::from(target)),
        Err(Unattached::OtherNamespace) => {
            let other = reference.namespace.as_deref().unwrap_or_default();
            let rule = "a policy applies to its own namespace";
            Err(("RefNotPermitted", format!("{label} cannot apply to {kind} {other}/{name}: {rule}")))
        }
        Err(Unattached::RootOnly) => {
            Err(("RefNotPermitted", format!("{label}: only a root namespace may apply to GatewayClass {name}")))
        }
        Err(Unattached::Route) => Err(("Invalid", format!("{NOT_ENFORCED} {group}/{kind} {name}"))),
        Err(Unattached::Unknown) => {
            Err(("Invalid", format!("{NOT_ENFORCED} {group}/{kind} {name:?}: {label} refuses all that it may be for")))
        }
    }
}

const NOT_ENFORCED: &str = "a waypoint does not enforce policies on";

/// What a policy may be for that is for nothing it can be for ([`attachment::in_doubt`]).
fn in_doubt(object: &Object, named: &Named) -> Vec<Target> {
    let root = is_root(&object.namespace);
    let known = attachment::of_security(&object.namespace, root, named.reference.reference());
    if named.is_readable && known != Err(Unattached::Unknown) {
        return vec![];
    }
    let name = if named.is_readable { &*named.reference.name } else { "" };
    let targets = attachment::in_doubt(&object.namespace, root, name).into_iter();
    let ours = targets.filter(|target| !matches!(target, attachment::Target::Class(class) if !CLASSES.contains(class)));
    ours.map(Target::from).collect()
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
