//! Pure. Pod.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::model::name::{Name, NodeName, ServiceAccount};
use crate::model::workload::WorkloadType;
use crate::source::manifest::problem::Severity;
use crate::source::manifest::schema::meta::Metadata;
use crate::source::manifest::schema::pod as schema;

use super::meta::{Item, Meta, Reader};

/// Annotation that says where the network namespace of a stand-alone pod is.
const NETNS: &str = "culvert.dev/netns";
/// Annotation that Istio's injector leaves on a pod with a sidecar.
const SIDECAR: &str = "sidecar.istio.io/status";
/// Label with the hash that ends the name of a Deployment's ReplicaSet.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `status.podIPs`, else `status.podIP`; empty until the pod has one.
    pub addresses: Box<[IpAddr]>,
    /// `spec.nodeName`.
    pub node: NodeName,
    /// `spec.serviceAccountName`, `default` unless said otherwise.
    pub service_account: ServiceAccount,
    /// Whether the pod lives in the host's network namespace.
    pub host_network: bool,
    /// Whether it has ended: phase Succeeded or Failed.
    pub ended: bool,
    /// Whether it may be given traffic: condition Ready, and not being deleted.
    pub ready: bool,
    /// Why it cannot be enrolled, whatever its labels say.
    pub refusal: Option<Refusal>,
    /// Name of what owns it.
    pub workload_name: Name,
    /// What kind of owner that is.
    pub workload_type: WorkloadType,
    /// Named TCP ports of its containers.
    pub ports: Box<[NamedPort]>,
    /// Annotation `culvert.dev/netns`.
    pub netns: Option<Box<str>>,
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: Name,
    /// The port.
    pub port: u16,
}

/// Why a pod cannot be enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its traffic is already in a sidecar's hands.
    Sidecar,
    /// Its sockets are not in the host's kernel (gVisor), or in a kernel of their own (Kata).
    Runtime(Name),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sidecar => f.write_str("it has a sidecar (annotation sidecar.istio.io/status)"),
            Self::Runtime(class) => {
                write!(f, "its sockets are not in this kernel (runtimeClassName {class}), so they cannot be captured")
            }
        }
    }
}

impl Pod {
    pub(super) fn read(raw: schema::Pod, reader: &mut Reader<'_>) -> Item<Self> {
        let schema::Pod { metadata, spec, status } = raw;
        let meta = reader.meta(&metadata, true);
        let mut addresses: SmallVec<[IpAddr; 2]> = SmallVec::new();
        for address in status.pod_ips.iter().map(|ip| ip.ip).chain(status.pod_ip) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let not_ready =
            status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status != "True");
        let (workload_name, workload_type) = owner(&metadata, &meta, reader);
        let netns = metadata.annotations.get(NETNS);
        if netns.is_some_and(|path| !path.starts_with('/')) {
            reader.note(Severity::Error, "metadata.annotations[culvert.dev/netns]", "the path is not absolute");
        }
        let pod = Self {
            addresses: addresses.into_vec().into(),
            node: reader.name(spec.node_name.as_deref().unwrap_or_default()),
            service_account: match spec.service_account_name.as_deref() {
                None | Some("") => reader.name("default"),
                Some(name) => reader.name(name),
            },
            host_network: spec.host_network,
            ended: matches!(status.phase, Some(schema::Phase::Succeeded | schema::Phase::Failed)),
            ready: !not_ready && metadata.deletion_timestamp.is_none(),
            refusal: refusal(&metadata, spec.runtime_class_name.as_deref(), reader),
            workload_name,
            workload_type,
            ports: named_ports(&spec, reader),
            netns: netns.map(|path| path.as_str().into()),
        };
        Item { at: reader.at.clone(), meta, spec: pod }
    }

    /// The port of this name.
    pub fn port_named(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| port.name.as_str() == name).map(|port| port.port)
    }
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

/// What owns the pod: `metadata.ownerReferences`, a ReplicaSet standing for its Deployment and a Job for its CronJob.
fn owner(metadata: &Metadata, meta: &Meta, reader: &mut Reader<'_>) -> (Name, WorkloadType) {
    let owners = &metadata.owner_references;
    let Some(owner) = owners.iter().find(|owner| owner.controller).or_else(|| owners.first()) else {
        return (meta.name.clone(), WorkloadType::Pod);
    };
    match owner.kind.as_str() {
        "Deployment" => (reader.name(&owner.name), WorkloadType::Deployment),
        "CronJob" => (reader.name(&owner.name), WorkloadType::Cronjob),
        "ReplicaSet" => match meta.labels.get(TEMPLATE_HASH).and_then(|hash| without_suffix(&owner.name, hash)) {
            Some(deployment) => (reader.name(deployment), WorkloadType::Deployment),
            None => (reader.name(&owner.name), WorkloadType::Pod),
        },
        "Job" => match cron_job(&owner.name) {
            Some(name) => (reader.name(name), WorkloadType::Cronjob),
            None => (reader.name(&owner.name), WorkloadType::Job),
        },
        _ => (reader.name(&owner.name), WorkloadType::Pod),
    }
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
