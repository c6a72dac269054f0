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
    /// Virtual addresses: cluster IPs, or addresses of a ServiceEntry. Empty when headless, and when none is known: a
    /// Service as it is kept in git has none yet.
    pub vips: Box<[Vip]>,
    /// Whether it is headless on purpose: `clusterIP: None`.
    #[serde(skip)]
    pub headless: bool,
    /// Ports, as declared on the service; `target_port` 0 means that it differs between workloads (a named port).
    pub ports: Box<[ServicePort]>,
    /// Further identities that an endpoint may prove (ServiceEntry `subjectAltNames`).
    pub subject_alt_names: Box<[Identity]>,
    /// The waypoint for traffic addressed to the service.
    pub waypoint: Option<Box<Waypoint>>,
    /// How endpoints are preferred.
    pub load_balancing: LoadBalancing,
    /// Whether it came from a Kubernetes Service: wins over a ServiceEntry that claims the same host name or address.
    pub canonical: bool,
    /// For whom its external addresses, ranges and, if it is not canonical, its host name count.
    #[serde(skip)]
    pub reach: Reach,
}

/// For which clients what a service claims beside cluster IPs counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Whether its namespace is a root namespace.
    pub root: bool,
    /// To whom it is exported.
    pub exported: Exported,
}

/// To which namespaces something is exported (ServiceEntry `exportTo`, annotation `networking.istio.io/exportTo`).
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
    /// Whether what is of namespace `own` is exported to a client.
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
    /// A cluster IP, which is the service's for everybody.
    Address(IpAddr),
    /// An address that the service claims and that is not the mesh's to give: `externalIPs`, `status.loadBalancer`, a
    /// single address of a ServiceEntry.
    External(IpAddr),
    /// A range (ServiceEntry only): the longest prefix wins, a single address before any range.
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
    /// What is spoken on it.
    pub app_protocol: AppProtocol,
}

/// What is spoken on a port (`appProtocol`, else the prefix of the port's name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AppProtocol {
    /// Not declared: detected by a waypoint, irrelevant to an agent.
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in clear text.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// TLS of the application's own.
    Tls,
}

/// How endpoints of a service are preferred (`istio.workload.LoadBalancing`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// From the most to the least important: endpoints that agree with the source in more leading scopes are preferred.
    pub routing_preference: Box<[Scope]>,
    /// What happens to endpoints that do not agree.
    pub mode: BalanceMode,
    /// Whether endpoints that are not ready get traffic too (`publishNotReadyAddresses`).
    pub allow_unhealthy: bool,
}

/// What happens to endpoints outside the routing preference.
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
    /// The original destination, not an endpoint (ServiceEntry resolution NONE).
    Passthrough,
}

/// A level of closeness.
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

impl Service {
    /// A service in the defaults of a stand-alone mesh: for tests and tools.
    pub fn sample(name: &str, namespace: &str, vips: &[IpAddr], ports: &[(u16, u16)]) -> Self {
        Self {
            name: name.into(),
            key: ServiceKey {
                namespace: namespace.into(),
                hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
            },
            vips: vips.iter().copied().map(Vip::Address).collect(),
            headless: false,
            ports: ports
                .iter()
                .map(|&(service_port, target_port)| ServicePort {
                    name: Name::default(),
                    service_port,
                    target_port,
                    app_protocol: AppProtocol::Unknown,
                })
                .collect(),
            subject_alt_names: Box::default(),
            waypoint: None,
            load_balancing: LoadBalancing::default(),
            canonical: true,
            reach: Reach::default(),
        }
    }
}

/// The network and address under which a VIP or workload is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct NetworkAddress {
    /// The network that the address belongs to.
    pub network: Network,
    /// The address.
    pub address: IpAddr,
}
