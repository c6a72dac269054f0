//! Pure. `v1` Pod and Node, `networking.k8s.io` ServiceCIDR.

use std::net::IpAddr;

use serde::Deserialize;

use super::meta::{Condition, Metadata};
use super::value::Port;

/// `spec` of a Pod. A Pod without `spec` is accepted: what matters stands in `metadata` and `status`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) node_name: Option<String>,
    pub(crate) service_account_name: Option<String>,
    pub(crate) host_network: bool,
    pub(crate) runtime_class_name: Option<String>,
    pub(crate) containers: Vec<Container>,
    pub(crate) init_containers: Vec<Container>,
}

/// One container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    #[serde(default)]
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) restart_policy: Option<String>,
}

/// One port of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) name: Option<String>,
    pub(crate) container_port: Port,
    pub(crate) protocol: Option<String>,
}

/// `status` of a Pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodStatus {
    pub(crate) phase: Option<Phase>,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs")]
    pub(crate) pod_ips: Vec<PodIp>,
    pub(crate) conditions: Vec<Condition>,
}

/// One entry of `status.podIPs`.
#[derive(Debug, Deserialize)]
pub(crate) struct PodIp {
    pub(crate) ip: IpAddr,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// A Pod.
#[derive(Debug, Deserialize)]
pub(crate) struct Pod {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) spec: PodSpec,
    #[serde(default)]
    pub(crate) status: PodStatus,
}

/// A Node.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) spec: NodeSpec,
    #[serde(default)]
    pub(crate) status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(crate) pod_cidrs: Vec<String>,
}

/// `spec` of a ServiceCIDR (`networking.k8s.io`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidrSpec {
    pub(crate) cidrs: Vec<String>,
}

/// `status` of a Node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub(crate) addresses: Vec<NodeAddress>,
}

/// One entry of `status.addresses`: an address, or a host name.
#[derive(Debug, Deserialize)]
pub(crate) struct NodeAddress {
    pub(crate) address: String,
}
