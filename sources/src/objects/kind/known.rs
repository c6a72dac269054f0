//! Pure. The kinds that are read.

use serde::Serialize;

use crate::objects::document::Document;
use crate::objects::node::Node;

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
    /// `networking.k8s.io`.
    #[serde(rename = "ServiceCIDR")]
    ServiceCidr,
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
    /// `gateway.networking.k8s.io`; only waypoints use it.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// `gateway.networking.k8s.io`; only waypoints use it.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// `gateway.networking.k8s.io`; only waypoints use it.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// `gateway.networking.k8s.io`; only waypoints use it.
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    /// `gateway.networking.k8s.io`; only waypoints use it.
    #[serde(rename = "BackendTLSPolicy")]
    BackendTlsPolicy,
    /// `gateway.networking.k8s.io`; only waypoints use it.
    ReferenceGrant,
    /// `gateway.networking.x-k8s.io`; only waypoints use it.
    XBackendTrafficPolicy,
    /// `gateway.networking.x-k8s.io`; only waypoints use it.
    XMesh,
    /// `networking.istio.io`; only waypoints use it.
    DestinationRule,
    /// `networking.istio.io`; only waypoints use it.
    VirtualService,
    /// `telemetry.istio.io`; only waypoints use it.
    Telemetry,
    /// A kind that has no effect on the mesh but is common in manifests: ConfigMap, Secret, ServiceAccount.
    Ignored,
}

/// Every kind that is read, by group and name; docs/manifests.md has the same list.
pub const KINDS: [(&str, &str, Kind); 27] = {
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
        ("networking.k8s.io", "ServiceCIDR", Kind::ServiceCidr),
        ("discovery.k8s.io", "EndpointSlice", Kind::EndpointSlice),
        ("culvert.dev", "MeshPolicy", Kind::MeshPolicy),
        (GATEWAY_API, "Gateway", Kind::Gateway),
        (GATEWAY_API, "GatewayClass", Kind::GatewayClass),
        (GATEWAY_API, "HTTPRoute", Kind::HttpRoute),
        (GATEWAY_API, "GRPCRoute", Kind::GrpcRoute),
        (GATEWAY_API, "TCPRoute", Kind::TcpRoute),
        (GATEWAY_API, "TLSRoute", Kind::TlsRoute),
        (GATEWAY_API, "BackendTLSPolicy", Kind::BackendTlsPolicy),
        (GATEWAY_API, "ReferenceGrant", Kind::ReferenceGrant),
        (EXPERIMENTAL, "XBackendTrafficPolicy", Kind::XBackendTrafficPolicy),
        (EXPERIMENTAL, "XMesh", Kind::XMesh),
        (ISTIO, "ServiceEntry", Kind::ServiceEntry),
        (ISTIO, "DestinationRule", Kind::DestinationRule),
        (ISTIO, "VirtualService", Kind::VirtualService),
        ("telemetry.istio.io", "Telemetry", Kind::Telemetry),
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
        known.map(|(_, _, kind)| *kind)
    }

    /// Its name, as in `kind`.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, _, kind)| *kind == self).map_or("", |(_, name, _)| name)
    }

    /// Whether only waypoints read objects of the kind.
    pub fn is_for_waypoints_only(self) -> bool {
        matches!(
            self,
            Self::HttpRoute
                | Self::GrpcRoute
                | Self::TcpRoute
                | Self::TlsRoute
                | Self::BackendTlsPolicy
                | Self::ReferenceGrant
                | Self::XBackendTrafficPolicy
                | Self::XMesh
                | Self::DestinationRule
                | Self::VirtualService
                | Self::Telemetry
        )
    }

    /// Whether waypoints read the document of this object themselves: of pods only their own.
    fn is_for_waypoints(self, node: &Node) -> bool {
        let labels = || node.get("metadata").and_then(|metadata| metadata.get("labels"));
        match self {
            Self::Pod => labels().is_some_and(|labels| labels.get(GATEWAY_NAME).is_some()),
            Self::Gateway | Self::GatewayClass | Self::AuthorizationPolicy => true,
            Self::RequestAuthentication | Self::MeshPolicy => true,
            Self::Namespace | Self::Node => true,
            other => other.is_for_waypoints_only(),
        }
    }

    /// Whether an object of the kind that cannot be read has a substitute.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::PeerAuthentication | Self::AuthorizationPolicy | Self::RequestAuthentication | Self::MeshPolicy
        )
    }

    /// Whether the kind is namespaced.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::ServiceCidr | Self::GatewayClass)
    }
}

/// The objects whose documents a consumer reads itself, in addition to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Documents {
    /// None.
    #[default]
    None,
    /// Those that waypoints read.
    OfWaypoints,
}

impl Documents {
    /// The document of an object, if the consumer reads it; `offset` is the number of lines before it in its file.
    pub(in crate::objects) fn of(self, kind: Kind, node: &Node, offset: Option<u32>) -> Option<Document> {
        if self == Self::None || !kind.is_for_waypoints(node) {
            return None;
        }
        Some(match kind {
            Kind::Node | Kind::Pod => Document::place_only(node.clone(), offset),
            _ => Document::new(node.clone(), offset),
        })
    }
}
