//! Pure. Policies by what they apply to, and the layers of settings that result.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use mesh::authority::attachment::{self, Unattached};
use mesh::authority::{reach, tenancy};
use mesh::model::name::Namespace;
use serde_json::Value;

use super::history::History;
use super::object::Object;
use super::overlays;
use super::rules::RouteKind;
use super::schema::policy::{BackendTrafficSpec, DestinationRuleSpec, MeshPolicySpec, TargetRef};
use super::services::Services;
use super::status::{CONTROLLER, Findings, ObjectStatus, ParentStatus, Rejection};
use crate::settings::{Layer, Overlay};

/// Namespaces whose policies apply to the whole mesh.
pub fn roots() -> &'static [Namespace] {
    static ROOTS: LazyLock<[Namespace; 2]> = LazyLock::new(|| ["culvert-system".into(), "istio-system".into()]);
    &*ROOTS
}

/// Whether policies of this namespace apply to the whole mesh.
pub fn is_root(namespace: &str) -> bool {
    tenancy::is_root(roots(), namespace)
}

/// What a policy applies to; the order is that of specificity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Everything.
    Mesh,
    /// The services of a namespace.
    Namespace(Arc<str>),
    /// The services behind a waypoint: namespace, name.
    Gateway(Arc<str>, Arc<str>),
    /// A service: namespace, name.
    Service(Arc<str>, Arc<str>),
    /// A route: kind, namespace, name; one rule of it by name.
    Route(RouteKind, Arc<str>, Arc<str>, Option<Arc<str>>),
}

/// Kinds of policy, the least specific first where they meet on one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PolicyKind {
    DestinationRule,
    BackendTraffic,
    Mesh,
}

/// A DestinationRule: who wrote it decides whose clients it concerns.
struct DestinationRule {
    export_to: Vec<String>,
    layer: Layer,
}

/// DestinationRules for one service, by the namespace that each stands in.
type RulesByNamespace = BTreeMap<Arc<str>, DestinationRule>;

/// All policies.
#[derive(Default)]
pub struct Policies {
    layers: BTreeMap<(Target, PolicyKind), Layer>,
    /// DestinationRules by service (namespace, name), then by their own namespace.
    rules: BTreeMap<(Arc<str>, Arc<str>), RulesByNamespace>,
    /// Where spans go, if anywhere (`tracing.otlp`).
    pub otlp: Option<Arc<str>>,
}

impl Policies {
    /// Reads the policies among `objects`; each gets its status.
    pub fn read(
        objects: &[Arc<Object>],
        services: &Services,
        history: &mut History,
        statuses: &mut Vec<ObjectStatus>,
    ) -> Self {
        let mut policies = Self::default();
        let mut oldest_first: Vec<&Arc<Object>> = objects.iter().collect();
        // What an operator says of a tenant's service cannot be forestalled by the tenant.
        oldest_first.sort_by_cached_key(|object| (!is_root(&object.namespace), object.age()));
        for object in oldest_first {
            let read: fn(&Object, &Services) -> Result<Parsed, String> = match (object.group(), &*object.kind) {
                ("culvert.dev", "MeshPolicy") => mesh_policy,
                ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy") => backend_traffic,
                ("networking.istio.io", "DestinationRule") => destination_rule,
                _ => continue,
            };
            let (parsed, findings) = history.read(object, |object, findings| {
                findings.notes = overlays::without_effect(&object.kind, &object.spec);
                read(object, services).map_err(|message| findings.reject("Invalid", message)).ok()
            });
            policies.add(object, parsed, &findings, statuses);
        }
        policies
    }

    fn add(&mut self, object: &Object, parsed: Option<Parsed>, findings: &Findings, statuses: &mut Vec<ObjectStatus>) {
        let Some(parsed) = parsed else {
            statuses.push(ObjectStatus::of(object, Value::Null, findings.conditions(object, None)));
            return;
        };
        self.otlp = self.otlp.take().or(parsed.otlp);
        let overlay = Arc::new(parsed.overlay);
        let mut parents = Vec::new();
        let mut findings = findings.clone();
        for (reference, target) in parsed.targets {
            let placed = target.and_then(|target| match (parsed.kind, target) {
                (PolicyKind::DestinationRule, Target::Service(namespace, name)) => {
                    findings.notes.extend(of_consumer(object, &namespace));
                    self.rule(object, (namespace, name), &parsed.export_to, &overlay)
                }
                (kind, target) => self.place(object, kind, target, &overlay),
            });
            let rejected = placed.err();
            parents.push(ParentStatus {
                reference,
                controller_name: CONTROLLER,
                conditions: findings.conditions(object, rejected),
            });
        }
        statuses.push(ObjectStatus::new(object, parents));
    }

    /// Of two policies of one kind on one target the older, which comes first, wins.
    fn place(
        &mut self,
        object: &Object,
        kind: PolicyKind,
        target: Target,
        overlay: &Arc<Overlay>,
    ) -> Result<(), Rejection> {
        match self.layers.entry((target, kind)) {
            Entry::Occupied(other) => {
                Err(("Conflicted", format!("{} has the same target and is older", other.get().source)))
            }
            Entry::Vacant(free) => {
                free.insert(Layer { source: object.label(), overlay: Arc::clone(overlay) });
                Ok(())
            }
        }
    }

    /// The same for DestinationRules, of which each namespace may have one about a service.
    fn rule(
        &mut self,
        object: &Object,
        service: (Arc<str>, Arc<str>),
        export_to: &[String],
        overlay: &Arc<Overlay>,
    ) -> Result<(), Rejection> {
        match self.rules.entry(service).or_default().entry(Arc::clone(&object.namespace)) {
            Entry::Occupied(other) => {
                Err(("Conflicted", format!("{} has the same host and is older", other.get().layer.source)))
            }
            Entry::Vacant(free) => {
                let layer = Layer { source: object.label(), overlay: Arc::clone(overlay) };
                free.insert(DestinationRule { export_to: export_to.to_vec(), layer });
                Ok(())
            }
        }
    }

    /// The one DestinationRule that counts between clients of a namespace and a service (Istio: the client's, else the
    /// service's, else a root's). `None` stands for the clients of a namespace that nobody names.
    fn rule_for(&self, service: &(Arc<str>, Arc<str>), client: Option<&str>) -> Option<&Layer> {
        let known = self.rules.get(service)?.iter();
        let known = known.filter(|(home, rule)| reach::is_exported(&rule.export_to, home, client));
        let standing =
            known.filter_map(|(home, rule)| Some((reach::standing(roots(), home, &service.0, client)?, &rule.layer)));
        standing.min_by_key(|(standing, _)| *standing).map(|(_, layer)| layer)
    }

    /// Namespaces whose clients may see other settings of a service than everybody else.
    pub fn scopes(&self, namespace: &str, name: &str) -> BTreeSet<Arc<str>> {
        let rules = self.rules.get(&(namespace.into(), name.into())).into_iter().flatten();
        let named = rules.flat_map(|(home, rule)| {
            // A consumer's rule concerns its own clients, whomever else it is exported to.
            let may_show = **home == *namespace || is_root(home);
            let shown = rule.export_to.iter().filter(move |_| may_show).map(|to| Arc::from(to.as_str()));
            std::iter::once(Arc::clone(home)).chain(shown.filter(|to: &Arc<str>| !matches!(&**to, "*" | "." | "~")))
        });
        named.collect()
    }

    /// The layers of everything.
    pub fn of_mesh(&self) -> Vec<Layer> {
        self.of(&Target::Mesh).collect()
    }

    /// The layers of a service as clients of a namespace see it, the least specific first. `gateway` is the waypoint in
    /// front of it.
    pub fn of_service(
        &self,
        (namespace, name): (&str, &str),
        gateway: Option<(&str, &str)>,
        client: Option<&str>,
    ) -> Vec<Layer> {
        let mut targets = vec![Target::Mesh, Target::Namespace(namespace.into())];
        targets.extend(gateway.map(|(namespace, name)| Target::Gateway(namespace.into(), name.into())));
        let mut layers: Vec<Layer> = targets.iter().flat_map(|target| self.of(target)).collect();
        layers.extend(self.rule_for(&(namespace.into(), name.into()), client).cloned());
        layers.extend(self.of(&Target::Service(namespace.into(), name.into())));
        layers
    }

    /// The layers of workloads behind a waypoint that are called by their own address.
    pub fn of_workloads(&self, gateway: Option<(&str, &str)>) -> Vec<Layer> {
        let mut targets = vec![Target::Mesh];
        if let Some((namespace, name)) = gateway {
            targets.push(Target::Namespace(namespace.into()));
            targets.push(Target::Gateway(namespace.into(), name.into()));
        }
        targets.iter().flat_map(|target| self.of(target)).collect()
    }

    /// The layers of a rule of a route, beyond those of its service.
    pub fn of_rule(&self, kind: RouteKind, namespace: &str, name: &str, rule: Option<&Arc<str>>) -> Vec<Layer> {
        let route = |rule| Target::Route(kind, namespace.into(), name.into(), rule);
        let whole = self.of(&route(None));
        let one = rule.into_iter().flat_map(|rule| self.of(&route(Some(Arc::clone(rule)))));
        whole.chain(one).collect()
    }

    fn of(&self, target: &Target) -> impl Iterator<Item = Layer> + use<'_> {
        let kinds = [PolicyKind::BackendTraffic, PolicyKind::Mesh];
        let target = target.clone();
        kinds.into_iter().filter_map(move |kind| self.layers.get(&(target.clone(), kind)).cloned())
    }
}

/// The rule of attachment (GEP-713).
const OWN_ONLY: &str = "a policy applies to its own namespace only, unless that is a root namespace";

/// What the author of a DestinationRule about another namespace's service is to know.
fn of_consumer(object: &Object, service: &str) -> Option<String> {
    let foreign = *object.namespace != *service && !is_root(&object.namespace);
    foreign
        .then(|| format!("concerns clients of namespace {} alone, within the service's own limits", object.namespace))
}

fn mesh_policy(object: &Object, services: &Services) -> Result<Parsed, String> {
    let spec: MeshPolicySpec = object.read()?;
    let overlay = overlays::mesh_policy(&spec).map_err(|error| format!("spec.{error}"))?;
    let is_root = is_root(&object.namespace);
    let targets: Vec<_> = if spec.target_refs.is_empty() {
        let target = if is_root { Target::Mesh } else { Target::Namespace(Arc::clone(&object.namespace)) };
        vec![(Value::Null, Ok(target))]
    } else {
        spec.target_refs.iter().map(|target| (json_of(target), resolve(object, target, services))).collect()
    };
    let otlp = spec.tracing.otlp.as_deref().filter(|_| is_root).map(Arc::from);
    Ok(Parsed { kind: PolicyKind::Mesh, overlay, targets, export_to: vec![], otlp })
}

type Resolved = Result<Target, Rejection>;

struct Parsed {
    kind: PolicyKind,
    overlay: Overlay,
    targets: Vec<(Value, Resolved)>,
    export_to: Vec<String>,
    otlp: Option<Arc<str>>,
}

fn json_of(target: &TargetRef) -> Value {
    serde_json::to_value(target).unwrap_or(Value::Null)
}

/// What a reference means. Only the root namespaces may reach beyond their own.
fn resolve(object: &Object, target: &TargetRef, services: &Services) -> Resolved {
    let (kind, name) = (&target.kind, &target.name);
    let found = attachment::of_settings(&object.namespace, is_root(&object.namespace), target.reference());
    match found {
        Ok(attachment::Target::Mesh) => Ok(Target::Mesh),
        Ok(attachment::Target::Namespace(name)) => Ok(Target::Namespace(name.into())),
        Ok(attachment::Target::Service(namespace, name)) if services.get(namespace, name).is_none() => {
            Err(("TargetNotFound", format!("there is no Service {namespace}/{name}")))
        }
        Ok(attachment::Target::Service(namespace, name)) => Ok(Target::Service(namespace.into(), name.into())),
        Ok(attachment::Target::Gateway(namespace, name)) => Ok(Target::Gateway(namespace.into(), name.into())),
        Ok(attachment::Target::Route(namespace, name)) => {
            let kind = if kind == "HTTPRoute" { RouteKind::Http } else { RouteKind::Grpc };
            Ok(Target::Route(kind, namespace.into(), name.into(), target.section_name.as_deref().map(Arc::from)))
        }
        Err(Unattached::OtherNamespace) => {
            let namespace = target.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
            Err(("RefNotPermitted", format!("{} cannot apply to {kind} {namespace}{name}: {OWN_ONLY}", object.label())))
        }
        Err(Unattached::RootOnly) => {
            Err(("RefNotPermitted", format!("{}: only a root namespace may apply to the whole mesh", object.label())))
        }
        Ok(attachment::Target::Class(_)) | Err(Unattached::Route | Unattached::Unknown) => {
            Err(("Invalid", format!("a policy cannot apply to {}/{kind}", target.group)))
        }
    }
}

fn backend_traffic(object: &Object, services: &Services) -> Result<Parsed, String> {
    let spec: BackendTrafficSpec = object.read()?;
    let overlay = overlays::backend_traffic(&spec).map_err(|error| format!("spec.{error}"))?;
    let targets = spec.target_refs.iter().map(|target| {
        let resolved = match (target.group.as_str(), target.kind.as_str()) {
            ("", "Service") => resolve(object, target, services),
            (group, kind) => Err(("Invalid", format!("a backend traffic policy cannot apply to {group}/{kind}"))),
        };
        (json_of(target), resolved)
    });
    Ok(Parsed { kind: PolicyKind::BackendTraffic, overlay, targets: targets.collect(), export_to: vec![], otlp: None })
}

fn destination_rule(object: &Object, services: &Services) -> Result<Parsed, String> {
    let spec: DestinationRuleSpec = object.read()?;
    let overlay =
        overlays::destination_rule(&spec.traffic_policy).map_err(|error| format!("spec.trafficPolicy.{error}"))?;
    let target = match services.of_host(&spec.host, &object.namespace) {
        Some(service) => {
            let namespace = service.key.namespace.as_str().into();
            Ok(Target::Service(namespace, service.name.as_str().into()))
        }
        None => Err(("TargetNotFound", format!("spec.host: no service has the host {:?}", spec.host))),
    };
    let reference = serde_json::json!({"host": spec.host});
    let targets = vec![(reference, target)];
    Ok(Parsed { kind: PolicyKind::DestinationRule, overlay, targets, export_to: spec.export_to, otlp: None })
}
