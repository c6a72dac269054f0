//! Pure. The kinds that are read.

use serde::Serialize;

use crate::objects::node;

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
