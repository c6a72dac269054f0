//! Pure. The Gateways that are waypoints, with their listeners, and the labels by which they admit namespaces.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mesh::authority::listeners::{AllowedNamespaces, Applicant, Listener, Operator, Requirement, Turned, admit};
use mesh::model::waypoint::HBONE_PORT;

use super::object::Object;
use super::rules::RouteKind;
use super::schema::gateway as schema;
use super::schema::route::ParentRef;
use super::security::CLASSES;
use super::status::Rejection;

/// Controllers whose classes are of waypoints, whatever their names.
const CONTROLLERS: [&str; 2] = ["culvert.dev/waypoint", "istio.io/mesh-controller"];
/// The group of Gateways and routes.
const GROUP: &str = "gateway.networking.k8s.io";

/// Every Gateway that is a waypoint.
#[derive(Default)]
pub struct Gateways {
    listeners: HashMap<(Arc<str>, Arc<str>), Vec<Listener>>,
    labels: HashMap<Arc<str>, BTreeMap<String, String>>,
}

impl Gateways {
    /// Reads Gateways, their classes and Namespaces among the objects.
    pub fn read(objects: &[Arc<Object>]) -> Self {
        let of = |group: &'static str, kind: &'static str| {
            objects.iter().filter(move |object| object.group() == group && &*object.kind == kind)
        };
        let is_ours = |object: &&Arc<Object>| {
            let controller = object.spec.get("controllerName").and_then(serde_json::Value::as_str);
            controller.is_some_and(|controller| CONTROLLERS.contains(&controller))
        };
        let classes: HashSet<&str> =
            of(GROUP, "GatewayClass").filter(is_ours).map(|object| &*object.name).chain(CLASSES).collect();
        let listeners = of(GROUP, "Gateway").filter_map(|object| {
            let class = object.spec.get("gatewayClassName").and_then(serde_json::Value::as_str)?;
            let key = (Arc::clone(&object.namespace), Arc::clone(&object.name));
            classes.contains(class).then(|| (key, read(object)))
        });
        let labels = of("", "Namespace").map(|object| (Arc::clone(&object.name), object.labels.clone()));
        Self { listeners: listeners.collect(), labels: labels.collect() }
    }

    /// Whether there is this Gateway, and it is a waypoint.
    pub fn has(&self, namespace: &str, name: &str) -> bool {
        self.listeners.contains_key(&(namespace.into(), name.into()))
    }

    /// Whether a listener of the Gateway (namespace, name) that `reference` means takes the route.
    pub fn admit(
        &self,
        (namespace, name): (&str, &str),
        route: &Object,
        kind: RouteKind,
        reference: &ParentRef,
    ) -> Result<(), Rejection> {
        let whole = format!("Gateway {namespace}/{name}");
        let Some(listeners) = self.listeners.get(&(namespace.into(), name.into())) else {
            return Err(("NoMatchingParent", format!("there is no {whole} of a waypoint class")));
        };
        let applicant = Applicant {
            kind: kind.as_str(),
            namespace: &route.namespace,
            section: reference.section_name.as_deref(),
            port: reference.port,
        };
        let labels = self.labels.get(&route.namespace);
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
        admit(listeners, namespace, &applicant, label).map_err(|turned| {
            let label = route.label();
            match turned {
                Turned::NoListener => {
                    let name = reference.section_name.iter().map(|section| format!("named {section}"));
                    let port = reference.port.iter().map(|port| format!("on port {port}"));
                    let wanted = name.chain(port).collect::<Vec<_>>().join(" ");
                    ("NoMatchingParent", format!("{whole} has no HBONE listener {wanted}"))
                }
                Turned::Namespace => (
                    "NotAllowedByListeners",
                    format!(
                        "{whole} does not admit {label}: allowedRoutes.namespaces of its listeners leaves namespace {} out",
                        route.namespace
                    ),
                ),
                Turned::Kind => (
                    "NotAllowedByListeners",
                    format!("{whole} does not admit {label}: allowedRoutes.kinds of its listeners leaves the kind out"),
                ),
            }
        })
    }
}

/// The listeners that a waypoint serves. A Gateway that names none has the one that every waypoint has.
fn read(object: &Object) -> Vec<Listener> {
    let Ok(spec) = object.read::<schema::GatewaySpec>() else { return vec![] };
    if spec.listeners.is_empty() {
        return vec![Listener {
            name: "mesh".into(),
            port: HBONE_PORT,
            kinds: None,
            namespaces: AllowedNamespaces::Same,
        }];
    }
    let hbone = spec.listeners.into_iter().filter(|listener| listener.protocol == "HBONE");
    hbone.map(listener).collect()
}

fn listener(from: schema::Listener) -> Listener {
    let kinds = from.allowed_routes.kinds;
    let ours = |kind: &schema::Kind| kind.group.as_deref().unwrap_or(GROUP) == GROUP;
    Listener {
        name: from.name.as_str().into(),
        port: from.port,
        kinds: (!kinds.is_empty())
            .then(|| kinds.iter().filter(|kind| ours(kind)).map(|kind| kind.kind.as_str().into()).collect()),
        namespaces: namespaces(from.allowed_routes.namespaces),
    }
}

/// What cannot be read admits nobody.
fn namespaces(from: schema::Namespaces) -> AllowedNamespaces {
    match (from.from.as_deref().unwrap_or("Same"), from.selector) {
        ("All", _) => AllowedNamespaces::All,
        ("Same", _) => AllowedNamespaces::Same,
        ("Selector", Some(selector)) => {
            let pair = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
            let requirements: Option<Box<[Requirement]>> = selector.match_expressions.iter().map(requirement).collect();
            match requirements {
                None => AllowedNamespaces::Nobody,
                Some(requirements) => AllowedNamespaces::Selected {
                    labels: selector.match_labels.iter().map(pair).collect(),
                    requirements,
                },
            }
        }
        _ => AllowedNamespaces::Nobody,
    }
}

fn requirement(from: &schema::Requirement) -> Option<Requirement> {
    let operator = match from.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return None,
    };
    let values = from.values.iter().map(|value| value.as_str().into()).collect();
    Some(Requirement { key: from.key.as_str().into(), operator, values })
}
