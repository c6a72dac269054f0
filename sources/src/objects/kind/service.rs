//! Pure. Service, EndpointSlice and ServiceEntry.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::objects::problem::Severity;
use crate::objects::schema::meta::{Full, Lenient};
use crate::objects::schema::service as schema;
use crate::objects::schema::value::{self, ClusterIp};
use mesh::model::identity::Identity;
use mesh::model::name::{Hostname, Name, Namespace, NodeName, ServiceAccount};
use mesh::model::service::{AppProtocol, BalanceMode, Exported, LoadBalancing, Scope};
use mesh::model::workload::Health;

use super::item::Item;
use super::meta::{Labels, Reader};

/// Label of an EndpointSlice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Annotation of a Service with the namespaces that it is exported to.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Cluster IPs; empty when headless, and when it has none yet.
    pub addresses: Box<[IpAddr]>,
    /// Load balancer addresses and external IPs.
    pub external: Box<[IpAddr]>,
    /// Annotation `networking.istio.io/exportTo`.
    pub exported: Exported,
    /// Whether it is headless by `clusterIP: None`.
    pub headless: bool,
    /// Whether it is of type ExternalName, which has no effect on the mesh.
    pub external_name: bool,
    /// `spec.selector`; empty if its EndpointSlices are written by hand or by another controller.
    pub selector: Labels,
    /// TCP ports.
    pub ports: Box<[ServicePort]>,
    /// From `internalTrafficPolicy`, `trafficDistribution` and `publishNotReadyAddresses`.
    pub load_balancing: LoadBalancing,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when the only port has none.
    pub name: Name,
    /// The port at the service's addresses.
    pub port: u16,
    /// The port on the workload.
    pub target: TargetPort,
    /// Its application protocol.
    pub app_protocol: AppProtocol,
}

/// The port on a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number, the same on every workload.
    Number(u16),
    /// The container port of that name.
    Named(Name),
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name of the service, in the slice's namespace.
    pub service: Name,
    /// Its endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// Ports on the endpoints, by the name of the service's port.
    pub ports: Box<[EndpointPort]>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether it may receive traffic, by its conditions.
    pub health: Health,
    /// The pod of the endpoint (`targetRef`), as namespace and name.
    pub pod: Option<(Namespace, Name)>,
    /// The node it is on.
    pub node: NodeName,
    /// The zone it is in.
    pub zone: Name,
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the service's port.
    pub name: Name,
    /// Port on the endpoint.
    pub port: u16,
}

/// A ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// `spec.hosts`.
    pub hosts: Box<[Hostname]>,
    /// `spec.addresses`.
    pub addresses: Box<[IpNet]>,
    /// `spec.exportTo`.
    pub exported: Exported,
    /// TCP ports; named target ports do not occur.
    pub ports: Box<[ServicePort]>,
    /// `spec.resolution`: how its endpoints are found.
    pub resolution: Resolution,
    /// `spec.endpoints`, those with an address.
    pub endpoints: Box<[EntryEndpoint]>,
    /// `spec.workloadSelector`: pods of its namespace that are endpoints too.
    pub selector: Option<Labels>,
    /// `spec.subjectAltNames`, the SPIFFE IDs among them.
    pub subject_alt_names: Box<[Identity]>,
}

/// `resolution` of a ServiceEntry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// NONE: connections go to their original destination.
    None,
    /// STATIC: endpoints are those of `endpoints` or `workloadSelector`.
    Static,
    /// DNS: not supported, so there are no endpoints.
    Dns,
}

/// One endpoint of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Target ports by the name of the entry's port.
    pub ports: Box<[EndpointPort]>,
    /// Its labels.
    pub labels: Labels,
    /// Its service account, `default` if none is given.
    pub service_account: ServiceAccount,
    /// Its weight in load balancing.
    pub weight: u32,
}

impl Service {
    pub(super) fn read(raw: Full<schema::ServiceSpec, schema::ServiceStatus>, reader: &mut Reader<'_>) -> Item<Self> {
        reader.check_enforcement(&raw.metadata);
        let meta = reader.meta(&raw.metadata, true);
        let spec = raw.spec;
        let cluster_ips =
            if spec.cluster_ips.is_empty() { Vec::from_iter(spec.cluster_ip) } else { spec.cluster_ips.clone() };
        let headless = cluster_ips.contains(&ClusterIp::Headless);
        let external_name = spec.kind == Some(schema::ServiceType::ExternalName);
        let cluster = cluster_ips.iter().filter(|_| !headless).filter_map(|ip| match ip {
            ClusterIp::Address(address) => Some(*address),
            ClusterIp::Headless | ClusterIp::Unset => None,
        });
        let addresses = reader.addresses(Severity::Error, "spec.clusterIP", cluster);
        let balancers = raw.status.unwrap_or_default().load_balancer.ingress.into_iter().filter_map(|found| found.ip);
        let mut external = reader.addresses(Severity::Warning, "status.loadBalancer.ingress", balancers);
        external.extend(reader.addresses(Severity::Warning, "spec.externalIPs", spec.external_ips.iter().copied()));
        external.retain(|address| !addresses.contains(address));
        external.dedup();
        if addresses.is_empty() && external.is_empty() && !headless && !external_name {
            let message =
                "not set, as in a Service that is kept in git: nobody can call it by address until it has one";
            reader.note(Severity::Info, "spec.clusterIP", message);
        }
        let exported = raw.metadata.annotations.get(EXPORT_TO);
        let exported = exported.map(|list| export_to(list.split(',').map(str::trim).filter(|part| !part.is_empty())));
        let service = Self {
            addresses: addresses.into(),
            external: external.into(),
            exported: exported.unwrap_or_default(),
            headless,
            external_name,
            selector: Labels::new(&spec.selector, reader.shared),
            load_balancing: load_balancing(&spec, reader),
            ports: service_ports(spec.ports, reader),
        };
        Item::new(reader.at.clone(), meta, service)
    }
}

/// `exportTo`: `*`, `.`, `~` or names of namespaces; without any it is `*`.
fn export_to<'a>(list: impl Iterator<Item = &'a str> + Clone) -> Exported {
    match list.clone().next() {
        None => Exported::Everywhere,
        Some(_) if list.clone().any(|part| part == "*") => Exported::Everywhere,
        Some(".") if list.clone().nth(1).is_none() => Exported::Own,
        Some(_) => Exported::To(list.filter(|part| *part != "~").map(Into::into).collect()),
    }
}

fn service_ports(raw: Vec<schema::ServicePort>, reader: &mut Reader<'_>) -> Box<[ServicePort]> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, port) in raw.into_iter().enumerate() {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        if ports.iter().any(|known| known.port == port.port.0) {
            reader.note(
                Severity::Warning,
                format!("spec.ports[{index}].port"),
                format!("{} is given twice", port.port.0),
            );
            continue;
        }
        let name = port.name.unwrap_or_default();
        ports.push(ServicePort {
            app_protocol: app_protocol(port.app_protocol.as_deref(), &name),
            name: reader.name(&name),
            port: port.port.0,
            target: match port.target_port {
                None => TargetPort::Number(port.port.0),
                Some(value::TargetPort::Number(number)) => TargetPort::Number(number),
                Some(value::TargetPort::Name(name)) => TargetPort::Named(reader.name(&name)),
            },
        });
    }
    ports.into()
}

/// `internalTrafficPolicy: Local` keeps traffic on the node; `trafficDistribution` prefers what is near.
fn load_balancing(spec: &schema::ServiceSpec, reader: &mut Reader<'_>) -> LoadBalancing {
    use Scope::{Network, Node, Region, Subzone, Zone};
    let (mode, preference): (BalanceMode, &[Scope]) =
        if spec.internal_traffic_policy == Some(schema::TrafficPolicy::Local) {
            (BalanceMode::Strict, &[Node])
        } else {
            match spec.traffic_distribution.as_deref() {
                Some("PreferClose" | "PreferSameZone") => (BalanceMode::Failover, &[Network, Region, Zone]),
                Some("PreferSameNode") => (BalanceMode::Failover, &[Network, Region, Zone, Subzone, Node]),
                Some(other) => {
                    let message = format!("{other:?} is not known: PreferClose, PreferSameZone and PreferSameNode are");
                    reader.note(Severity::Warning, "spec.trafficDistribution", message);
                    (BalanceMode::Any, &[])
                }
                None => (BalanceMode::Any, &[]),
            }
        };
    LoadBalancing { routing_preference: preference.into(), mode, allow_unhealthy: spec.publish_not_ready_addresses }
}

/// The application protocol of a port: `appProtocol`, else the part of the port's name before the first `-`.
pub fn app_protocol(declared: Option<&str>, port_name: &str) -> AppProtocol {
    let word = match declared {
        Some("kubernetes.io/h2c") => "http2",
        Some("kubernetes.io/ws") => "http",
        Some("kubernetes.io/wss") => "tls",
        Some(declared) => declared,
        None if port_name.starts_with("grpc-web") => "grpc-web",
        None => port_name.split_once('-').map_or(port_name, |(prefix, _)| prefix),
    };
    match word.to_ascii_lowercase().as_str() {
        "http" | "grpc-web" => AppProtocol::Http1,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tls" | "https" => AppProtocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}

impl EndpointSlice {
    /// `None` for a slice that belongs to no service.
    pub(super) fn read(raw: schema::EndpointSlice, reader: &mut Reader<'_>) -> Option<Item<Self>> {
        let meta = reader.meta(&raw.metadata, true);
        let Some(service) = meta.labels.get(SERVICE_NAME).cloned() else {
            let message = "not set: the slice belongs to no service and is ignored";
            reader.note(Severity::Warning, "metadata.labels[kubernetes.io/service-name]", message);
            return None;
        };
        if raw.address_type == schema::AddressType::Fqdn {
            reader.note(Severity::Warning, "addressType", "endpoints by name are not supported; the slice has none");
        }
        let mut endpoints = Vec::new();
        for (index, endpoint) in raw.endpoints.into_iter().enumerate() {
            if raw.address_type == schema::AddressType::Fqdn {
                break;
            }
            // Kubernetes: consumers use the first address; more were never given a meaning.
            let Some(text) = endpoint.addresses.first() else { continue };
            let field = format!("endpoints[{index}].addresses[0]");
            let Ok(address) = text.parse::<IpAddr>() else {
                reader.note(Severity::Error, field, format!("{text:?} is not an address"));
                continue;
            };
            let Some(address) = reader.address(Severity::Warning, &field, address) else { continue };
            let target = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
            endpoints.push(Endpoint {
                address,
                health: health(&endpoint.conditions),
                pod: target.and_then(|target| {
                    let namespace = match &target.namespace {
                        Some(namespace) => reader.name(namespace),
                        None => meta.namespace.clone(),
                    };
                    Some((namespace, reader.name(target.name.as_deref()?)))
                }),
                node: reader.name(endpoint.node_name.as_deref().unwrap_or_default()),
                zone: reader.name(endpoint.zone.as_deref().unwrap_or_default()),
            });
        }
        let ports =
            raw.ports.into_iter().filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        let ports = ports
            .filter_map(|port| {
                Some(EndpointPort { name: reader.name(port.name.as_deref().unwrap_or_default()), port: port.port?.0 })
            })
            .collect();
        Some(Item::new(reader.at.clone(), meta, Self { service, endpoints: endpoints.into(), ports }))
    }

    /// The port on the endpoints for the service's port of this name.
    pub fn port_named(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| port.name.as_str() == name).map(|port| port.port)
    }
}

/// What EndpointConditions say (discovery.k8s.io/v1): an unknown `ready` is true, an unknown `serving` is what `ready`
/// is, an unknown `terminating` is false. `ready` is true of what terminates only where the service publishes what is
/// not ready.
fn health(conditions: &schema::EndpointConditions) -> Health {
    match (conditions.ready, conditions.serving, conditions.terminating) {
        (None | Some(true), _, _) => Health::Healthy,
        (Some(false), Some(true), Some(true)) => Health::Terminating,
        (Some(false), _, _) => Health::Unhealthy,
    }
}

impl ServiceEntry {
    pub(super) fn read(raw: Lenient<schema::ServiceEntrySpec>, reader: &mut Reader<'_>) -> Option<Item<Self>> {
        reader.check_enforcement(&raw.metadata);
        let meta = reader.meta(&raw.metadata, true);
        let Some(spec) = raw.spec else {
            reader.note(Severity::Error, "spec", "missing");
            return None;
        };
        let resolution = match spec.resolution {
            schema::Resolution::None => Resolution::None,
            schema::Resolution::Static => Resolution::Static,
            schema::Resolution::Dns | schema::Resolution::DnsRoundRobin | schema::Resolution::DynamicDns => {
                let message = "endpoints by name are not supported: the service is known, but has no endpoints";
                reader.note(Severity::Warning, "spec.resolution", message);
                Resolution::Dns
            }
        };
        let ports = entry_ports(spec.ports, reader);
        let mut endpoints = Vec::new();
        for (index, endpoint) in spec.endpoints.into_iter().enumerate() {
            let field = format!("spec.endpoints[{index}].address");
            let Some(address) = endpoint.address.as_deref().and_then(|address| address.parse::<IpAddr>().ok()) else {
                if resolution == Resolution::Static {
                    reader.note(Severity::Warning, field, "not an IP address; the endpoint is ignored");
                }
                continue;
            };
            let Some(address) = reader.address(Severity::Warning, &field, address) else { continue };
            endpoints.push(EntryEndpoint {
                address,
                ports: endpoint
                    .ports
                    .iter()
                    .map(|(name, port)| EndpointPort { name: reader.name(name), port: port.0 })
                    .collect(),
                labels: Labels::new(&endpoint.labels, reader.shared),
                service_account: reader.name(endpoint.service_account.as_deref().unwrap_or("default")),
                weight: endpoint.weight.unwrap_or(1).max(1),
            });
        }
        let spec = Self {
            // Host names are compared in lower case and without the trailing dot.
            hosts: spec
                .hosts
                .iter()
                .map(|host| reader.name(&host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()))
                .collect(),
            addresses: reader.nets("spec.addresses", spec.addresses.iter().map(|cidr| cidr.0)).into(),
            exported: export_to(spec.export_to.iter().map(String::as_str)),
            ports,
            resolution,
            endpoints: endpoints.into(),
            selector: spec.workload_selector.map(|selector| Labels::new(&selector.labels, reader.shared)),
            subject_alt_names: spec.subject_alt_names.iter().filter_map(|name| name.parse().ok()).collect(),
        };
        Some(Item::new(reader.at.clone(), meta, spec))
    }
}

fn entry_ports(raw: Vec<schema::EntryPort>, reader: &mut Reader<'_>) -> Box<[ServicePort]> {
    raw.into_iter()
        .filter(|port| !port.protocol.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case("UDP")))
        .map(|port| ServicePort {
            app_protocol: app_protocol(port.protocol.as_deref(), &port.name),
            name: reader.name(&port.name),
            port: port.number.0,
            target: TargetPort::Number(port.target_port.map_or(port.number.0, |target| target.0)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_that_are_not_told_are_what_the_api_says() {
        use Health::{Healthy, Terminating, Unhealthy};
        let (yes, no) = (Some(true), Some(false));
        for (ready, serving, terminating, expected) in [
            (None, None, None, Healthy),
            (yes, None, None, Healthy),
            (None, no, None, Healthy),
            (yes, yes, yes, Healthy), // publishNotReadyAddresses
            (no, None, None, Unhealthy),
            (no, yes, None, Unhealthy),
            (no, yes, no, Unhealthy),
            (no, None, yes, Unhealthy),
            (no, no, yes, Unhealthy),
            (no, yes, yes, Terminating),
        ] {
            let conditions = schema::EndpointConditions { ready, serving, terminating };
            assert_eq!(health(&conditions), expected, "{conditions:?}");
        }
    }

    #[test]
    fn the_protocol_is_declared_or_stands_before_the_dash() {
        for (declared, name, protocol) in [
            (None, "http", AppProtocol::Http1),
            (None, "http-web", AppProtocol::Http1),
            (None, "http2-api", AppProtocol::Http2),
            (None, "grpc-api", AppProtocol::Grpc),
            (None, "grpc-web-api", AppProtocol::Http1),
            (None, "https", AppProtocol::Tls),
            (None, "tcp-raw", AppProtocol::Tcp),
            (None, "redis", AppProtocol::Tcp),
            (None, "web", AppProtocol::Unknown),
            (None, "httpish", AppProtocol::Unknown),
            (None, "", AppProtocol::Unknown),
            (Some("kubernetes.io/h2c"), "http", AppProtocol::Http2),
            (Some("kubernetes.io/ws"), "", AppProtocol::Http1),
            (Some("HTTP"), "tcp", AppProtocol::Http1),
            (Some("example.com/own"), "http", AppProtocol::Unknown),
        ] {
            assert_eq!(app_protocol(declared, name), protocol, "{declared:?} {name}");
        }
    }
}
