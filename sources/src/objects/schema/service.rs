//! Pure. `v1` Service, `discovery.k8s.io` EndpointSlice and `networking.istio.io` ServiceEntry.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::meta::Metadata;
use super::value::{Cidr, ClusterIp, Port, TargetPort};

/// `spec` of a Service.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(crate) kind: Option<ServiceType>,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<ClusterIp>,
    #[serde(rename = "clusterIPs", default)]
    pub(crate) cluster_ips: Vec<ClusterIp>,
    #[serde(rename = "externalIPs", default)]
    pub(crate) external_ips: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) selector: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) ports: Vec<ServicePort>,
    #[serde(default)]
    pub(crate) publish_not_ready_addresses: bool,
    pub(crate) internal_traffic_policy: Option<TrafficPolicy>,
    pub(crate) traffic_distribution: Option<String>,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum ServiceType {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// `spec.internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum TrafficPolicy {
    Cluster,
    Local,
}

/// One entry of `spec.ports`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServicePort {
    pub(crate) name: Option<String>,
    pub(crate) port: Port,
    pub(crate) target_port: Option<TargetPort>,
    pub(crate) protocol: Option<String>,
    pub(crate) app_protocol: Option<String>,
}

/// `status` of a Service.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceStatus {
    pub(crate) load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LoadBalancerStatus {
    pub(crate) ingress: Vec<Ingress>,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Debug, Deserialize)]
pub(crate) struct Ingress {
    pub(crate) ip: Option<IpAddr>,
}

/// An EndpointSlice.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    pub(crate) address_type: AddressType,
    #[serde(default)]
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub(crate) ports: Vec<EndpointPort>,
}

/// `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One entry of `endpoints`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    pub(crate) addresses: Vec<String>,
    #[serde(default)]
    pub(crate) conditions: EndpointConditions,
    pub(crate) target_ref: Option<TargetRef>,
    pub(crate) node_name: Option<String>,
    pub(crate) zone: Option<String>,
}

/// `conditions` of an endpoint.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct EndpointConditions {
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
}

/// `targetRef` of an endpoint.
#[derive(Debug, Deserialize)]
pub(crate) struct TargetRef {
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
}

/// One entry of `ports` of an EndpointSlice.
#[derive(Debug, Deserialize)]
pub(crate) struct EndpointPort {
    pub(crate) name: Option<String>,
    pub(crate) port: Option<Port>,
    pub(crate) protocol: Option<String>,
}

/// `spec` of a ServiceEntry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceEntrySpec {
    pub(crate) hosts: Vec<String>,
    #[serde(default)]
    pub(crate) addresses: Vec<Cidr>,
    #[serde(default)]
    pub(crate) ports: Vec<EntryPort>,
    #[serde(default)]
    pub(crate) resolution: Resolution,
    #[serde(default)]
    pub(crate) endpoints: Vec<EntryEndpoint>,
    pub(crate) workload_selector: Option<LabelSelector>,
    #[serde(default)]
    pub(crate) export_to: Vec<String>,
    #[serde(default)]
    pub(crate) subject_alt_names: Vec<String>,
}

/// `spec.resolution`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

/// One entry of `spec.ports` of a ServiceEntry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryPort {
    pub(crate) number: Port,
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) protocol: Option<String>,
    pub(crate) target_port: Option<Port>,
}

/// One entry of `spec.endpoints` of a ServiceEntry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryEndpoint {
    pub(crate) address: Option<String>,
    #[serde(default)]
    pub(crate) ports: BTreeMap<String, Port>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) service_account: Option<String>,
    pub(crate) weight: Option<u32>,
}

/// `spec.workloadSelector` of a ServiceEntry.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LabelSelector {
    pub(crate) labels: BTreeMap<String, String>,
}
