//! Pure. A name and virtual addresses in front of workloads (`istio.workload.Service`).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::identity::Identity;
use super::name::{Hostname, Name, Namespace, Network};
use super::waypoint::Waypoint;

/// The key of a service: `<namespace>/<hostname>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Namespace of the service.
    pub namespace: Namespace,
    /// Fully qualified host name.
    pub hostname: Hostname,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl Serialize for ServiceKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Name of the object.
    pub name: Name,
    /// Its key, as `<namespace>/<hostname>`.
    pub key: ServiceKey,
    /// Virtual addresses: cluster IPs, or addresses of a ServiceEntry. Empty when headless, and when not assigned yet,
    /// as in a manifest from git.
    pub vips: Box<[Vip]>,
    /// Whether it is headless: `clusterIP: None`.
    #[serde(skip)]
    pub headless: bool,
    /// Ports as declared on the service; a `target_port` of 0 differs between workloads (a named port).
    pub ports: Box<[ServicePort]>,
    /// Further identities that an endpoint may have (ServiceEntry `subjectAltNames`).
    pub subject_alt_names: Box<[Identity]>,
    /// The waypoint for traffic addressed to the service.
    pub waypoint: Option<Box<Waypoint>>,
    /// The load-balancing policy.
    pub load_balancing: LoadBalancing,
    /// Whether it is a Kubernetes Service: takes precedence over a ServiceEntry with the same host name or address.
    pub canonical: bool,
    /// The clients for which its external addresses, ranges and, if not canonical, its host name are valid.
    #[serde(skip)]
    pub reach: Reach,
}

/// The clients for which the claims of a service besides cluster IPs are valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Whether its namespace is a root namespace.
    pub root: bool,
    /// The namespaces to which it is exported.
    pub exported: Exported,
}

/// An export list (ServiceEntry `exportTo`, annotation `networking.istio.io/exportTo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Exported {
    /// `*`.
    #[default]
    Everywhere,
    /// `.`: its own namespace.
    Own,
    /// These; none for `~`.
    To(Box<[Namespace]>),
}

impl Exported {
    /// Whether an object of namespace `own` is exported to namespace `client`.
    pub fn covers(&self, own: &Namespace, client: &Namespace) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Own => own == client,
            Self::To(namespaces) => namespaces.contains(client),
        }
    }
}

/// One virtual address of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Vip {
    /// A cluster IP, valid for every client.
    Address(IpAddr),
    /// A claimed external address: `externalIPs`, `status.loadBalancer`, a single address of a ServiceEntry.
    External(IpAddr),
    /// A claimed range (ServiceEntry only): the longest prefix wins, a single address before any range.
    Range(IpNet),
}

impl Vip {
    /// The address, if it is a single one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) | Self::External(address) => Some(*address),
            Self::Range(_) => None,
        }
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// `spec.ports[].name`; empty when the only port has none.
    pub name: Name,
    /// `spec.ports[].port`.
    pub service_port: u16,
    /// Port on the workload; 0 on a Service when it differs between workloads.
    pub target_port: u16,
    /// The application protocol.
    pub app_protocol: AppProtocol,
}

/// The application protocol of a port (`appProtocol`, else the prefix of the port's name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AppProtocol {
    /// Not declared: detected by a waypoint, irrelevant to an agent.
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS (h2c).
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque TCP.
    Tcp,
    /// TLS by the application itself.
    Tls,
}

/// The load-balancing policy of a service (`istio.workload.LoadBalancing`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// From the most to the least important: endpoints that agree with the source in more leading scopes are preferred.
    pub routing_preference: Box<[Scope]>,
    /// How endpoints that do not agree are treated.
    pub mode: BalanceMode,
    /// Whether endpoints that are not ready get traffic too (`publishNotReadyAddresses`).
    pub allow_unhealthy: bool,
}

/// How endpoints outside the routing preference are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum BalanceMode {
    /// The preference is ignored.
    #[default]
    Any,
    /// Only endpoints that agree in every scope.
    Strict,
    /// Endpoints that agree in the most leading scopes; worse ones only when there are no better.
    Failover,
    /// Forward to the original destination, not to an endpoint (ServiceEntry resolution NONE).
    Passthrough,
}

/// A level of locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scope {
    /// Same region.
    Region,
    /// Same zone.
    Zone,
    /// Same subzone.
    Subzone,
    /// Same node.
    Node,
    /// Same cluster.
    Cluster,
    /// Same network.
    Network,
}

/// An address of a VIP or workload, with its network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct NetworkAddress {
    /// The network that the address belongs to.
    pub network: Network,
    /// The address.
    pub address: IpAddr,
}
