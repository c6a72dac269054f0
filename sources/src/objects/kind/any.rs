//! Pure. Reads an object of each kind, and makes the substitute for a policy that cannot be read.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde::de::IgnoredAny;

use crate::objects::node::{self, DecodeError, Value};
use crate::objects::origin::Origin;
use crate::objects::schema::meta::{Bare, Full, Lenient, Metadata};
use crate::objects::schema::{gateway, pod, policy, service};
use mesh::model::syntax::Form;

use super::authorization::AuthorizationPolicy;
use super::gateway::{Gateway, GatewayClass};
use super::guard::Guard;
use super::known::Kind;
use super::meta::{Labels, Reader};
use super::object::{Body, Object};
use super::peer::PeerAuthentication;
use super::pod::{Node, Pod, ServiceCidr};
use super::service::{EndpointSlice, Service, ServiceEntry};

impl Object {
    /// Reads an object of a known kind. `Ok(None)`: the mesh needs nothing of it.
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
                Some(Self::new(reader.at.clone(), meta, Body::Namespace))
            }
            Kind::Node => {
                let raw: pod::Node = node.read()?;
                Some(Node::read(raw, reader).into_object(Body::Node))
            }
            Kind::ServiceCidr => {
                let raw: Lenient<pod::ServiceCidrSpec> = node.read()?;
                Some(ServiceCidr::read(raw, reader).into_object(Body::ServiceCidr))
            }
            Kind::Pod => Some(Pod::read(node.read::<pod::Pod>()?, reader).into_object(Body::Pod)),
            Kind::Service => {
                let raw: Full<service::ServiceSpec, service::ServiceStatus> = node.read()?;
                Some(Service::read(raw, reader).into_object(Body::Service))
            }
            Kind::EndpointSlice => {
                let slice = EndpointSlice::read(node.read()?, reader);
                slice.map(|slice| slice.into_object(Body::EndpointSlice))
            }
            Kind::Gateway => {
                let raw: Full<gateway::GatewaySpec, gateway::GatewayStatus> = node.read()?;
                Some(Gateway::read(raw, reader).into_object(Body::Gateway))
            }
            Kind::GatewayClass => {
                let raw: Full<gateway::GatewayClassSpec, IgnoredAny> = node.read()?;
                Some(GatewayClass::read(raw, reader).into_object(Body::GatewayClass))
            }
            Kind::PeerAuthentication => {
                let raw: Lenient<policy::PeerAuthenticationSpec> = node.read()?;
                Some(PeerAuthentication::read(raw, reader).into_object(Body::PeerAuthentication))
            }
            Kind::AuthorizationPolicy => {
                let guard = Guard::security(&node, reader);
                let raw: Lenient<policy::AuthorizationPolicySpec> = node.read()?;
                Some(AuthorizationPolicy::read(raw, guard, reader).into_object(Body::AuthorizationPolicy))
            }
            Kind::RequestAuthentication => {
                let spec = Guard::security(&node, reader);
                let meta = reader.meta(&node.read::<Bare>()?.metadata, true);
                Some(Self::new(reader.at.clone(), meta, Body::RequestAuthentication(Arc::new(spec))))
            }
            Kind::MeshPolicy => {
                let spec = Guard::mesh_policy(&node, reader);
                let meta = reader.meta(&node.read::<Bare>()?.metadata, true);
                Some(Self::new(reader.at.clone(), meta, Body::MeshPolicy(Arc::new(spec))))
            }
            Kind::ServiceEntry => {
                let raw: Lenient<service::ServiceEntrySpec> = node.read()?;
                ServiceEntry::read(raw, reader).map(|entry| entry.into_object(Body::ServiceEntry))
            }
            // Duplicates are reported for every kind.
            Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TcpRoute
            | Kind::TlsRoute
            | Kind::BackendTlsPolicy
            | Kind::ReferenceGrant
            | Kind::XBackendTrafficPolicy
            | Kind::XMesh
            | Kind::DestinationRule
            | Kind::VirtualService
            | Kind::Telemetry => {
                let meta = reader.meta(&node.read::<Bare>()?.metadata, true);
                Some(Self::new(reader.at.clone(), meta, Body::ForWaypoints(kind)))
            }
        })
    }

    /// The substitute for a policy that cannot be read, and a description of it. When in doubt about policy, refuse.
    ///
    /// A policy with `targetRefs` is enforced by waypoints: the substitute guards the ports behind them.
    pub(in crate::objects) fn stand_in(
        kind: Kind,
        node: &node::Node,
        reader: &mut Reader<'_>,
    ) -> Option<(Self, &'static str)> {
        let meta = reader.meta(&names_in_doubt(node, &reader.at)?, true);
        let spec = node.get("spec");
        let selector = spec.and_then(|spec| spec.get("selector")).cloned();
        // If the selector cannot be read either, the substitute selects the whole namespace.
        let selector: policy::Selector = selector.and_then(|node| node.read().ok()).unwrap_or_default();
        let selector = Labels::new(&selector.match_labels, reader.shared);
        match kind {
            Kind::PeerAuthentication => {
                let item = PeerAuthentication::stand_in(meta, selector, reader);
                Some((item.into_object(Body::PeerAuthentication), "STRICT"))
            }
            Kind::AuthorizationPolicy => {
                let guard = Guard::security(node, reader);
                if guard.has_targets() {
                    let item = AuthorizationPolicy::guarding(meta, guard, reader);
                    return Some((item.into_object(Body::AuthorizationPolicy), GUARD));
                }
                let allows = spec.is_some_and(surely_allows);
                let what = if allows { "an ALLOW that admits nobody" } else { "a DENY that refuses everybody" };
                let item = AuthorizationPolicy::stand_in(meta, selector, allows, reader);
                Some((item.into_object(Body::AuthorizationPolicy), what))
            }
            Kind::RequestAuthentication => {
                let spec = Guard::security(node, reader).in_doubt(node);
                let object = Self::new(reader.at.clone(), meta, Body::RequestAuthentication(Arc::new(spec)));
                Some((object, GUARD))
            }
            Kind::MeshPolicy => {
                let spec = Guard::mesh_policy(node, reader).in_doubt(node);
                let object = Self::new(reader.at.clone(), meta, Body::MeshPolicy(Arc::new(spec)));
                Some((object, GUARD))
            }
            _ => None,
        }
    }
}

/// Name and namespace of a policy that cannot be read. `None`: the namespace is not valid, so no object can be in it.
fn names_in_doubt(node: &node::Node, at: &Origin) -> Option<Metadata> {
    let of = |key| node.get("metadata").and_then(|metadata| metadata.get(key)?.text()).map(str::to_owned);
    let name = of("name").filter(|name| Form::Subdomain.admits(name)).unwrap_or_else(|| nameless(at));
    let namespace = of("namespace").filter(|namespace| !namespace.is_empty());
    let can_be = namespace.as_ref().is_none_or(|namespace| Form::Label.admits(namespace));
    can_be.then(|| Metadata { name, namespace, ..Metadata::default() })
}

/// Name of the substitute for a policy without a valid name. It is made from the policy's origin, so that two policies
/// have two names.
fn nameless(at: &Origin) -> String {
    let mut hasher = DefaultHasher::new();
    match at {
        Origin::Manifest { file, .. } => file.hash(&mut hasher),
        Origin::Api(api) => api.key.hash(&mut hasher),
    }
    format!("unnamed-{:016x}-{}", hasher.finish(), at.line())
}

/// Description of the substitute for a policy that waypoints enforce.
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
