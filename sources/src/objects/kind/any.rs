//! Pure. One object of whichever kind; and what stands in for a policy that cannot be read.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde::Serialize;
use serde::de::IgnoredAny;

use crate::objects::node::{self, DecodeError, Value};
use crate::objects::problem::{Origin, Severity};
use crate::objects::schema::meta::{Bare, Full, Lenient, Metadata};
use crate::objects::schema::{gateway, pod, policy, service};
use mesh::model::syntax::Form;

use super::authorization::AuthorizationPolicy;
use super::gateway::{Gateway, GatewayClass};
use super::guard::Guard;
use super::meta::{Item, Labels, Meta, Reader};
use super::peer::PeerAuthentication;
use super::pod::{Node, Pod};
use super::service::{EndpointSlice, Service, ServiceEntry};

/// A kind that the source knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `v1`.
    Namespace,
    /// `v1`.
    Node,
    /// `v1`.
    Pod,
    /// `v1`.
    Service,
    /// `discovery.k8s.io`.
    EndpointSlice,
    /// `gateway.networking.k8s.io`.
    Gateway,
    /// `gateway.networking.k8s.io`.
    GatewayClass,
    /// `security.istio.io`.
    PeerAuthentication,
    /// `security.istio.io`.
    AuthorizationPolicy,
    /// `security.istio.io`.
    RequestAuthentication,
    /// `culvert.dev`.
    MeshPolicy,
    /// `networking.istio.io`.
    ServiceEntry,
    /// A kind that only waypoints use; kept as it is.
    Route,
    /// A kind that says nothing to a mesh, but often stands beside those that do: ConfigMap, Secret, ServiceAccount.
    Ignored,
}

/// One object.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Namespace: only its labels count.
    Namespace(Arc<Item<()>>),
    /// A Node: its labels and addresses count.
    Node(Arc<Item<Node>>),
    /// A Pod.
    Pod(Arc<Item<Pod>>),
    /// A Service.
    Service(Arc<Item<Service>>),
    /// An EndpointSlice.
    EndpointSlice(Arc<Item<EndpointSlice>>),
    /// A Gateway.
    Gateway(Arc<Item<Gateway>>),
    /// A GatewayClass.
    GatewayClass(Arc<Item<GatewayClass>>),
    /// A PeerAuthentication.
    PeerAuthentication(Arc<Item<PeerAuthentication>>),
    /// An AuthorizationPolicy.
    AuthorizationPolicy(Arc<Item<AuthorizationPolicy>>),
    /// A RequestAuthentication, as far as it guards.
    RequestAuthentication(Arc<Item<Guard>>),
    /// A MeshPolicy, as far as it guards.
    MeshPolicy(Arc<Item<Guard>>),
    /// A ServiceEntry.
    ServiceEntry(Arc<Item<ServiceEntry>>),
    /// A kind that only waypoints use.
    Raw(Arc<Item<Raw>>),
}

/// An object as it stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// `kind`.
    pub kind: String,
    /// `apiVersion`.
    pub api_version: String,
    /// The whole object; null where no waypoint reads it.
    pub value: serde_json::Value,
    /// What is wrong with it, field first, when it could not be read: then nobody accepts it.
    pub error: Option<String>,
}

impl Raw {
    /// Group and kind: with namespace and name the key of an object, whichever version it is written in.
    pub fn group_kind(&self) -> (&str, &str) {
        (self.api_version.split_once('/').map_or("", |(group, _)| group), &self.kind)
    }
}

/// A Node or Pod with nothing but where its node is: the rest is long, and no waypoint asks for it.
fn place_only((api_version, kind): (&str, &str), meta: &Meta, node: &node::Node) -> serde_json::Value {
    let of = |key| node.get("status").and_then(|status| status.get(key)).cloned().map(node::Node::into_json);
    serde_json::json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": meta.name.as_str(), "namespace": meta.namespace.as_str()},
        "status": {"addresses": of("addresses"), "hostIP": of("hostIP"), "hostIPs": of("hostIPs")},
    })
}

/// Every kind that is read, by group and name; docs/manifests.md has the same list.
pub const KINDS: [(&str, &str, Kind); 26] = {
    const GATEWAY_API: &str = "gateway.networking.k8s.io";
    const EXPERIMENTAL: &str = "gateway.networking.x-k8s.io";
    const ISTIO: &str = "networking.istio.io";
    const SECURITY: &str = "security.istio.io";
    [
        ("", "Namespace", Kind::Namespace),
        ("", "Node", Kind::Node),
        ("", "Pod", Kind::Pod),
        ("", "Service", Kind::Service),
        ("", "ConfigMap", Kind::Ignored),
        ("", "Secret", Kind::Ignored),
        ("", "ServiceAccount", Kind::Ignored),
        ("discovery.k8s.io", "EndpointSlice", Kind::EndpointSlice),
        ("culvert.dev", "MeshPolicy", Kind::MeshPolicy),
        (GATEWAY_API, "Gateway", Kind::Gateway),
        (GATEWAY_API, "GatewayClass", Kind::GatewayClass),
        (GATEWAY_API, "HTTPRoute", Kind::Route),
        (GATEWAY_API, "GRPCRoute", Kind::Route),
        (GATEWAY_API, "TCPRoute", Kind::Route),
        (GATEWAY_API, "TLSRoute", Kind::Route),
        (GATEWAY_API, "BackendTLSPolicy", Kind::Route),
        (GATEWAY_API, "ReferenceGrant", Kind::Route),
        (EXPERIMENTAL, "XBackendTrafficPolicy", Kind::Route),
        (EXPERIMENTAL, "XMesh", Kind::Route),
        (ISTIO, "ServiceEntry", Kind::ServiceEntry),
        (ISTIO, "DestinationRule", Kind::Route),
        (ISTIO, "VirtualService", Kind::Route),
        ("telemetry.istio.io", "Telemetry", Kind::Route),
        (SECURITY, "PeerAuthentication", Kind::PeerAuthentication),
        (SECURITY, "AuthorizationPolicy", Kind::AuthorizationPolicy),
        (SECURITY, "RequestAuthentication", Kind::RequestAuthentication),
    ]
};

/// Label of the pods that are instances of a Gateway.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

impl Kind {
    /// The kind of an object; `None` for one that the source does not know. Every version of a group counts.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let known = KINDS.iter().find(|(known_group, name, _)| (*known_group, *name) == (group, kind));
        // What else our own group has is for waypoints, which say that they do not know it.
        known.map(|(_, _, kind)| *kind).or_else(|| (group == "culvert.dev").then_some(Self::Route))
    }

    /// Whether waypoints read this object of the kind themselves, as it stands in the file: of pods, their own.
    pub(in crate::objects) fn is_for_waypoints(self, node: &node::Node) -> bool {
        let labels = || node.get("metadata").and_then(|metadata| metadata.get("labels"));
        match self {
            Self::Pod => labels().is_some_and(|labels| labels.get(GATEWAY_NAME).is_some()),
            Self::Route | Self::Gateway | Self::GatewayClass | Self::AuthorizationPolicy => true,
            Self::RequestAuthentication | Self::MeshPolicy => true,
            Self::Namespace | Self::Node => true,
            Self::Service | Self::EndpointSlice | Self::PeerAuthentication => false,
            Self::ServiceEntry | Self::Ignored => false,
        }
    }

    /// Whether something stands in for an object of the kind that cannot be read.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::PeerAuthentication | Self::AuthorizationPolicy | Self::RequestAuthentication | Self::MeshPolicy
        )
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }
}

impl Object {
    /// An object as it stands in the file, for waypoints.
    pub(in crate::objects) fn raw(
        (api_version, kind_name): (&str, &str),
        kind: Kind,
        node: node::Node,
        reader: &mut Reader<'_>,
    ) -> Result<Self, DecodeError> {
        let metadata = node.get("metadata").cloned().map(node::Node::read::<Metadata>).transpose();
        let metadata = metadata.map_err(|error| error.below("metadata".to_owned()))?.unwrap_or_default();
        let meta = reader.meta(&metadata, kind.is_namespaced());
        let value = match kind {
            Kind::Node | Kind::Pod => place_only((api_version, kind_name), &meta, &node),
            _ => node.into_json(),
        };
        let spec = Raw { kind: kind_name.to_owned(), api_version: api_version.to_owned(), value, error: None };
        Ok(Self::Raw(Arc::new(Item { at: reader.at.clone(), meta, spec })))
    }

    /// A policy that could not be read, as it stands in the file, for waypoints: there it refuses. `None` when nothing can
    /// be in its namespace.
    pub(in crate::objects) fn raw_in_error(
        (api_version, kind): (&str, &str),
        node: node::Node,
        error: &DecodeError,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        let names = names_in_doubt(&node, &reader.at)?;
        let meta = reader.meta(&names, true);
        let mut value = node.into_json();
        let mut metadata = value.get("metadata").and_then(serde_json::Value::as_object).cloned().unwrap_or_default();
        metadata.insert("name".to_owned(), meta.name.as_str().into());
        metadata.insert("namespace".to_owned(), meta.namespace.as_str().into());
        value.as_object_mut()?.insert("metadata".to_owned(), metadata.into());
        let (kind, api_version) = (kind.to_owned(), api_version.to_owned());
        let spec = Raw { kind, api_version, value, error: Some(error.with_field()) };
        Some(Self::Raw(Arc::new(Item { at: reader.at.clone(), meta, spec })))
    }

    /// Reads an object of a known kind. `Ok(None)`: there is nothing to keep of it.
    pub(in crate::objects) fn read(
        kind: Kind,
        node: node::Node,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Self>, DecodeError> {
        Ok(match kind {
            Kind::Ignored => None,
            Kind::Namespace => {
                let metadata = node.read::<Bare>()?.metadata;
                reader.check_enforcement(&metadata);
                let meta = reader.meta(&metadata, false);
                Some(Self::Namespace(Arc::new(Item { at: reader.at.clone(), meta, spec: () })))
            }
            Kind::Node => {
                let raw: pod::Node = node.read()?;
                let meta = reader.meta(&raw.metadata, false);
                let addresses = raw.status.addresses.iter().filter_map(|address| address.address.parse().ok());
                let addresses = reader.addresses(Severity::Warning, "status.addresses", addresses).into();
                Some(Self::Node(Arc::new(Item { at: reader.at.clone(), meta, spec: Node { addresses } })))
            }
            Kind::Pod => Some(Self::Pod(Arc::new(Pod::read(node.read::<pod::Pod>()?, reader)))),
            Kind::Service => {
                let raw: Full<service::ServiceSpec, service::ServiceStatus> = node.read()?;
                Some(Self::Service(Arc::new(Service::read(raw, reader))))
            }
            Kind::EndpointSlice => {
                let slice = EndpointSlice::read(node.read()?, reader);
                slice.map(|slice| Self::EndpointSlice(Arc::new(slice)))
            }
            Kind::Gateway => {
                let raw: Full<gateway::GatewaySpec, gateway::GatewayStatus> = node.read()?;
                Some(Self::Gateway(Arc::new(Gateway::read(raw, reader))))
            }
            Kind::GatewayClass => {
                let raw: Full<gateway::GatewayClassSpec, IgnoredAny> = node.read()?;
                Some(Self::GatewayClass(Arc::new(GatewayClass::read(raw, reader))))
            }
            Kind::PeerAuthentication => {
                let raw: Lenient<policy::PeerAuthenticationSpec> = node.read()?;
                Some(Self::PeerAuthentication(Arc::new(PeerAuthentication::read(raw, reader))))
            }
            Kind::AuthorizationPolicy => {
                let guard = Guard::security(&node, reader);
                let raw: Lenient<policy::AuthorizationPolicySpec> = node.read()?;
                Some(Self::AuthorizationPolicy(Arc::new(AuthorizationPolicy::read(raw, guard, reader))))
            }
            Kind::RequestAuthentication => {
                let spec = Guard::security(&node, reader);
                let meta = reader.meta(&node.read::<Bare>()?.metadata, true);
                Some(Self::RequestAuthentication(Arc::new(Item { at: reader.at.clone(), meta, spec })))
            }
            Kind::MeshPolicy => {
                let spec = Guard::mesh_policy(&node, reader);
                let meta = reader.meta(&node.read::<Bare>()?.metadata, true);
                Some(Self::MeshPolicy(Arc::new(Item { at: reader.at.clone(), meta, spec })))
            }
            Kind::ServiceEntry => {
                let raw: Lenient<service::ServiceEntrySpec> = node.read()?;
                ServiceEntry::read(raw, reader).map(|entry| Self::ServiceEntry(Arc::new(entry)))
            }
            // Nothing but waypoints reads them; that there are two of one is worth knowing anywhere.
            Kind::Route if !reader.shared.keeps_raw => {
                let text = |key| node.get(key).and_then(node::Node::text).unwrap_or_default().to_owned();
                let (kind, api_version) = (text("kind"), text("apiVersion"));
                let meta = reader.meta(&node.read::<Bare>()?.metadata, true);
                let spec = Raw { kind, api_version, value: serde_json::Value::Null, error: None };
                Some(Self::Raw(Arc::new(Item { at: reader.at.clone(), meta, spec })))
            }
            Kind::Route => None,
        })
    }

    /// What stands in for a policy that cannot be read, and what is to be said of it. When in doubt about policy, refuse.
    ///
    /// A policy with `targetRefs` is for waypoints: here it guards what stands behind them.
    pub(in crate::objects) fn stand_in(
        kind: Kind,
        node: &node::Node,
        reader: &mut Reader<'_>,
    ) -> Option<(Self, &'static str)> {
        let meta = reader.meta(&names_in_doubt(node, &reader.at)?, true);
        let spec = node.get("spec");
        let selector = spec.and_then(|spec| spec.get("selector")).cloned();
        // A selector that cannot be read either selects all of the namespace.
        let selector: policy::Selector = selector.and_then(|node| node.read().ok()).unwrap_or_default();
        let selector = Labels::new(&selector.match_labels, reader.shared);
        match kind {
            Kind::PeerAuthentication => {
                let item = PeerAuthentication::stand_in(meta, selector, reader);
                Some((Self::PeerAuthentication(Arc::new(item)), "STRICT"))
            }
            Kind::AuthorizationPolicy => {
                let guard = Guard::security(node, reader);
                if guard.has_targets() {
                    let item = AuthorizationPolicy::guarding(meta, guard, reader);
                    return Some((Self::AuthorizationPolicy(Arc::new(item)), GUARD));
                }
                let allows = spec.is_some_and(surely_allows);
                let what = if allows { "an ALLOW that admits nobody" } else { "a DENY that refuses everybody" };
                let item = AuthorizationPolicy::stand_in(meta, selector, allows, reader);
                Some((Self::AuthorizationPolicy(Arc::new(item)), what))
            }
            Kind::RequestAuthentication => {
                let spec = Guard::security(node, reader).in_doubt(node);
                let item = Item { at: reader.at.clone(), meta, spec };
                Some((Self::RequestAuthentication(Arc::new(item)), GUARD))
            }
            Kind::MeshPolicy => {
                let spec = Guard::mesh_policy(node, reader).in_doubt(node);
                let item = Item { at: reader.at.clone(), meta, spec };
                Some((Self::MeshPolicy(Arc::new(item)), GUARD))
            }
            _ => None,
        }
    }

    /// Whether both say the same, wherever they stand.
    pub fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Namespace(one), Self::Namespace(other)) => one.says_the_same(other),
            (Self::Node(one), Self::Node(other)) => one.says_the_same(other),
            (Self::Pod(one), Self::Pod(other)) => one.says_the_same(other),
            (Self::Service(one), Self::Service(other)) => one.says_the_same(other),
            (Self::EndpointSlice(one), Self::EndpointSlice(other)) => one.says_the_same(other),
            (Self::Gateway(one), Self::Gateway(other)) => one.says_the_same(other),
            (Self::GatewayClass(one), Self::GatewayClass(other)) => one.says_the_same(other),
            (Self::PeerAuthentication(one), Self::PeerAuthentication(other)) => one.says_the_same(other),
            (Self::AuthorizationPolicy(one), Self::AuthorizationPolicy(other)) => one.says_the_same(other),
            (Self::RequestAuthentication(one), Self::RequestAuthentication(other))
            | (Self::MeshPolicy(one), Self::MeshPolicy(other)) => one.says_the_same(other),
            (Self::ServiceEntry(one), Self::ServiceEntry(other)) => one.says_the_same(other),
            (Self::Raw(one), Self::Raw(other)) => one.says_the_same(other),
            _ => false,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Gateway(_) => Kind::Gateway,
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::RequestAuthentication(_) => Kind::RequestAuthentication,
            Self::MeshPolicy(_) => Kind::MeshPolicy,
            Self::ServiceEntry(_) => Kind::ServiceEntry,
            Self::Raw(_) => Kind::Route,
        }
    }

    /// Where it is written down.
    pub fn at(&self) -> &Origin {
        match self {
            Self::Namespace(item) => &item.at,
            Self::Node(item) => &item.at,
            Self::Pod(item) => &item.at,
            Self::Service(item) => &item.at,
            Self::EndpointSlice(item) => &item.at,
            Self::Gateway(item) => &item.at,
            Self::GatewayClass(item) => &item.at,
            Self::PeerAuthentication(item) => &item.at,
            Self::AuthorizationPolicy(item) => &item.at,
            Self::RequestAuthentication(item) | Self::MeshPolicy(item) => &item.at,
            Self::ServiceEntry(item) => &item.at,
            Self::Raw(item) => &item.at,
        }
    }

    /// What every object has.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Namespace(item) => &item.meta,
            Self::Node(item) => &item.meta,
            Self::Pod(item) => &item.meta,
            Self::Service(item) => &item.meta,
            Self::EndpointSlice(item) => &item.meta,
            Self::Gateway(item) => &item.meta,
            Self::GatewayClass(item) => &item.meta,
            Self::PeerAuthentication(item) => &item.meta,
            Self::AuthorizationPolicy(item) => &item.meta,
            Self::RequestAuthentication(item) | Self::MeshPolicy(item) => &item.meta,
            Self::ServiceEntry(item) => &item.meta,
            Self::Raw(item) => &item.meta,
        }
    }
}

/// Name and namespace of a policy that cannot be read. `None`: nothing can be in its namespace.
fn names_in_doubt(node: &node::Node, at: &Origin) -> Option<Metadata> {
    let of = |key| node.get("metadata").and_then(|metadata| metadata.get(key)?.text()).map(str::to_owned);
    let name = of("name").filter(|name| Form::Subdomain.admits(name)).unwrap_or_else(|| nameless(at));
    let namespace = of("namespace").filter(|namespace| !namespace.is_empty());
    let can_be = namespace.as_ref().is_none_or(|namespace| Form::Label.admits(namespace));
    can_be.then(|| Metadata { name, namespace, ..Metadata::default() })
}

/// What stands in for a policy is called so when the policy's own name is none: by its place, so that two are two.
fn nameless(at: &Origin) -> String {
    let mut hasher = DefaultHasher::new();
    at.file.hash(&mut hasher);
    format!("unnamed-{:016x}-{}", hasher.finish(), at.line)
}

/// What stands in for a policy that waypoints enforce.
const GUARD: &str = "a guard of what stands behind its waypoints";

/// Whether a policy that cannot be read is certainly an ALLOW: its action says so, or is absent and not misspelt.
fn surely_allows(spec: &node::Node) -> bool {
    match (spec.get("action"), &spec.value) {
        (Some(action), _) => action.text() == Some("ALLOW"),
        (None, Value::Map(entries)) => {
            entries.iter().all(|(key, _)| ["selector", "rules", "provider"].contains(&key.as_str()))
        }
        _ => false,
    }
}
