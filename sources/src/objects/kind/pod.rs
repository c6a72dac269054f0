//! Pure. Pod, Node and ServiceCIDR.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::objects::problem::Severity;
use crate::objects::schema::meta::{Lenient, Metadata};
use crate::objects::schema::pod as schema;
use mesh::model::name::{Name, NodeName};
use mesh::model::workload::{Health, WorkloadType};

use super::item::Item;
use super::meta::{Meta, Reader};
use super::template::{NamedPort, PodTemplate, Refusal};

/// Annotation that says where the network namespace of a stand-alone pod is.
const NETNS: &str = "culvert.dev/netns";
/// Annotation that admits traffic that bypasses the pod's waypoint.
const BYPASS: &str = "culvert.dev/allow-waypoint-bypass";
/// Annotation that Istio's injector leaves on a pod with a sidecar.
const SIDECAR: &str = "sidecar.istio.io/status";
/// Label with the hash that ends the name of a Deployment's ReplicaSet.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `status.podIPs`, else `status.podIP`; empty until the pod has one.
    pub addresses: SmallVec<[IpAddr; 1]>,
    /// `spec.nodeName`.
    pub node: NodeName,
    /// The part that it has in common with other pods of its workload.
    pub template: Arc<PodTemplate>,
    /// Annotation `culvert.dev/netns`.
    pub netns: Option<Box<str>>,
    /// Annotation `culvert.dev/allow-waypoint-bypass`.
    pub may_bypass_waypoint: bool,
    /// Whether it has ended: phase Succeeded or Failed.
    pub ended: bool,
    /// Whether it may receive traffic: condition Ready, and whether it is being deleted.
    pub health: Health,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `status.addresses`, without host names.
    pub addresses: Box<[IpAddr]>,
    /// `spec.podCIDRs`, else `spec.podCIDR`.
    pub pod_nets: Box<[IpNet]>,
}

/// A ServiceCIDR: ranges from which cluster IPs are allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// `spec.cidrs`.
    pub nets: Box<[IpNet]>,
}

impl Node {
    pub(super) fn read(raw: schema::Node, reader: &mut Reader<'_>) -> Item<Self> {
        let meta = reader.meta(&raw.metadata, false);
        let addresses = raw.status.addresses.iter().filter_map(|address| address.address.parse().ok());
        let addresses = reader.addresses(Severity::Warning, "status.addresses", addresses).into();
        let nets = raw.spec.pod_cidrs.iter().chain(&raw.spec.pod_cidr);
        let pod_nets = cidrs("spec.podCIDRs", nets, reader);
        Item::new(reader.at.clone(), meta, Self { addresses, pod_nets })
    }
}

impl ServiceCidr {
    pub(super) fn read(raw: Lenient<schema::ServiceCidrSpec>, reader: &mut Reader<'_>) -> Item<Self> {
        let meta = reader.meta(&raw.metadata, false);
        let spec = raw.spec.unwrap_or_default();
        let nets = cidrs("spec.cidrs", spec.cidrs.iter(), reader);
        Item::new(reader.at.clone(), meta, Self { nets })
    }
}

/// Parses ranges, each once; reports texts that are not ranges.
fn cidrs<'a>(field: &str, texts: impl Iterator<Item = &'a String>, reader: &mut Reader<'_>) -> Box<[IpNet]> {
    let mut nets: Vec<IpNet> = Vec::new();
    for text in texts {
        match text.parse::<IpNet>() {
            Ok(net) if !nets.contains(&net.trunc()) => nets.push(net.trunc()),
            Ok(_) => {}
            Err(_) => reader.note(Severity::Warning, field, format!("{text:?} is not a range of addresses")),
        }
    }
    nets.into()
}

impl Pod {
    pub(super) fn read(raw: schema::Pod, reader: &mut Reader<'_>) -> Item<Self> {
        let schema::Pod { metadata, spec, status } = raw;
        reader.check_enforcement(&metadata);
        let mut meta = reader.meta(&metadata, true);
        // Unlike other names, the name of a pod is hardly ever in another object: interning it saves nothing.
        meta.name = metadata.name.as_str().into();
        let addresses = status.pod_ips.iter().map(|ip| ip.ip).chain(status.pod_ip);
        let addresses = reader.addresses(Severity::Error, "status.podIP", addresses).into_iter().collect();
        let not_ready =
            status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status != "True");
        let netns = metadata.annotations.get(NETNS);
        if netns.is_some_and(|path| !path.starts_with('/')) {
            reader.note(Severity::Error, "metadata.annotations[culvert.dev/netns]", "the path is not absolute");
        }
        let pod = Self {
            addresses,
            node: reader.name(spec.node_name.as_deref().unwrap_or_default()),
            template: template(&metadata, &meta, &spec, reader),
            netns: netns.map(|path| path.as_str().into()),
            may_bypass_waypoint: bypass(&metadata, reader),
            ended: matches!(status.phase, Some(schema::Phase::Succeeded | schema::Phase::Failed)),
            health: Health::of(!not_ready, metadata.deletion_timestamp.is_some()),
        };
        Item::new(reader.at.clone(), meta, pod)
    }
}

fn bypass(metadata: &Metadata, reader: &mut Reader<'_>) -> bool {
    match metadata.annotations.get(BYPASS).map(String::as_str) {
        Some("true") => true,
        None | Some("false") => false,
        Some(_) => {
            let field = "metadata.annotations[culvert.dev/allow-waypoint-bypass]";
            reader.note(Severity::Warning, field, "neither \"true\" nor \"false\"; bypasses are refused");
            false
        }
    }
}

fn template(metadata: &Metadata, meta: &Meta, spec: &schema::PodSpec, reader: &mut Reader<'_>) -> Arc<PodTemplate> {
    let (workload_name, workload_type) = owner(metadata, meta, reader);
    let template = PodTemplate {
        service_account: match spec.service_account_name.as_deref() {
            None | Some("") => reader.name("default"),
            Some(name) => reader.name(name),
        },
        host_network: spec.host_network,
        refusal: refusal(metadata, spec.runtime_class_name.as_deref(), reader),
        workload_name,
        workload_type,
        ports: named_ports(spec, reader),
    };
    reader.shared.templates.intern(Box::new(template))
}

fn refusal(metadata: &Metadata, runtime_class: Option<&str>, reader: &mut Reader<'_>) -> Option<Refusal> {
    if metadata.annotations.contains_key(SIDECAR) {
        return Some(Refusal::Sidecar);
    }
    let class = runtime_class?;
    let foreign = class.contains("gvisor") || class.contains("runsc") || class.starts_with("kata");
    foreign.then(|| Refusal::Runtime(reader.name(class)))
}

/// Named ports of ordinary containers and of sidecars (init containers that keep running).
fn named_ports(spec: &schema::PodSpec, reader: &mut Reader<'_>) -> Box<[NamedPort]> {
    let sidecars =
        spec.init_containers.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports = Vec::new();
    for port in spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports) {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        if let Some(name) = port.name.as_deref().filter(|_| tcp) {
            ports.push(NamedPort { name: reader.name(name), port: port.container_port.0 });
        }
    }
    ports.into()
}

/// The owner of the pod by `metadata.ownerReferences`: the Deployment for a ReplicaSet, the CronJob for a Job of one.
fn owner(metadata: &Metadata, meta: &Meta, reader: &mut Reader<'_>) -> (Option<Name>, WorkloadType) {
    let owners = &metadata.owner_references;
    let Some(owner) = owners.iter().find(|owner| owner.controller).or_else(|| owners.first()) else {
        return (None, WorkloadType::Pod);
    };
    let hash = meta.labels.get(TEMPLATE_HASH);
    let (name, kind) = match owner.kind.as_str() {
        "Deployment" => (owner.name.as_str(), WorkloadType::Deployment),
        "CronJob" => (owner.name.as_str(), WorkloadType::Cronjob),
        "ReplicaSet" => match hash.and_then(|hash| without_suffix(&owner.name, hash)) {
            Some(deployment) => (deployment, WorkloadType::Deployment),
            None => (owner.name.as_str(), WorkloadType::Pod),
        },
        "Job" => {
            cron_job(&owner.name).map_or((owner.name.as_str(), WorkloadType::Job), |name| (name, WorkloadType::Cronjob))
        }
        _ => (owner.name.as_str(), WorkloadType::Pod),
    };
    (Some(reader.name(name)), kind)
}

fn without_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    name.strip_suffix(suffix)?.strip_suffix('-').filter(|rest| !rest.is_empty())
}

/// A CronJob names its Jobs after itself and the scheduled minute: 8 to 10 digits.
fn cron_job(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    let is_minute = (8..=10).contains(&minute.len()) && minute.bytes().all(|byte| byte.is_ascii_digit());
    (is_minute && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_a_cron_job_is_known_by_its_minute() {
        for (job, cron) in [
            ("backup-28012345", Some("backup")),
            ("backup-db-28012345", Some("backup-db")),
            ("backup-1234567", None),
            ("backup-12345678901", None),
            ("backup", None),
            ("-28012345", None),
            ("backup-2801234x", None),
        ] {
            assert_eq!(cron_job(job), cron, "{job}");
        }
    }

    #[test]
    fn a_replica_set_is_its_deployment_and_a_hash() {
        assert_eq!(without_suffix("shop-7d4f", "7d4f"), Some("shop"));
        assert_eq!(without_suffix("shop7d4f", "7d4f"), None);
        assert_eq!(without_suffix("-7d4f", "7d4f"), None);
        assert_eq!(without_suffix("shop", "7d4f"), None);
    }
}
