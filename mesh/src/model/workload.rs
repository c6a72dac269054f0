//! Pure. A workload: an address with an identity, usually a pod (`istio.workload.Workload`).

use std::net::IpAddr;

use serde::Serialize;

use super::identity::Identity;
use super::name::{ClusterId, Name, Namespace, Network, NodeName, ServiceAccount, TrustDomain, WorkloadUid};
use super::policy::PolicyKey;
use super::service::{ServiceKey, ServicePort};
use super::waypoint::Waypoint;

/// A workload. Its size matters: every node holds all workloads of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// `<cluster>//Pod/<namespace>/<name>` for pods.
    pub uid: WorkloadUid,
    /// Name of the pod.
    pub name: Name,
    /// Namespace of the pod.
    pub namespace: Namespace,
    /// All addresses of the workload, of both families. Never empty for a pod.
    pub addresses: Box<[IpAddr]>,
    /// The network that the addresses belong to.
    pub network: Network,
    /// How peers reach it: HBONE if it is enrolled.
    pub protocol: TunnelProtocol,
    /// Whether it terminates HBONE itself, at its own address: an instance of a waypoint. Never captured.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub native_tunnel: bool,
    /// Annotation `culvert.dev/allow-waypoint-bypass`, or `culvert.dev/waypoint-enforcement: off` of the pod: traffic
    /// that bypasses its waypoint is admitted too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub may_bypass_waypoint: bool,
    /// Label or annotation `culvert.dev/waypoint-enforcement: strict` of the pod: no port behind a waypoint accepts
    /// traffic that bypasses it, guarded or not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strict_waypoint: bool,
    /// Trust domain of its identity.
    pub trust_domain: TrustDomain,
    /// Service account of its identity.
    pub service_account: ServiceAccount,
    /// The node that it runs on; empty if unknown.
    pub node: NodeName,
    /// Name of the Deployment, Job and so on that owns the pod.
    pub workload_name: Name,
    /// The kind of the owner in `workload_name`.
    pub workload_type: WorkloadType,
    /// Label `service.istio.io/canonical-name`, `app.kubernetes.io/name` or `app`, else the workload name.
    pub canonical_name: Name,
    /// Label `service.istio.io/canonical-revision`, `app.kubernetes.io/version` or `version`, else `latest`.
    pub canonical_revision: Name,
    /// Cluster it belongs to.
    pub cluster: ClusterId,
    /// Region, zone and subzone, if known.
    pub locality: Option<Box<Locality>>,
    /// Its readiness.
    pub health: Health,
    /// Its own network namespace, or the host's.
    pub network_mode: NetworkMode,
    /// The waypoint for traffic addressed to the workload itself.
    pub waypoint: Option<Box<Waypoint>>,
    /// Services it is an endpoint of, with the ports as they are on this workload.
    pub services: Box<[WorkloadService]>,
    /// Selector-scoped policies that apply to it.
    pub policies: Box<[PolicyKey]>,
    /// Relative weight among the endpoints of a service; 1 by default.
    pub capacity: u32,
    /// Whether it owns its addresses.
    #[serde(skip)]
    pub standing: Standing,
    /// Stand-alone only: path of the pod's network namespace (annotation `culvert.dev/netns`).
    pub netns: Option<Box<str>>,
}

/// Whether a workload owns its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Standing {
    /// It does.
    #[default]
    Owner,
    /// Another pod claims one of them, and nothing decides between the two: it is unreachable, and its connections are
    /// refused.
    Disputed,
    /// It is not a pod, but the address of an endpoint in a manifest.
    Endpoint,
}

/// One service that a workload is an endpoint of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadService {
    /// The service.
    pub service: ServiceKey,
    /// Service port and the port on this workload, named target ports resolved.
    pub ports: Box<[ServicePort]>,
    /// Its readiness in the service: that of an EndpointSlice of the service, else the workload's own.
    pub health: Health,
}

/// How peers reach a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelProtocol {
    /// Plain TCP: not enrolled.
    None,
    /// HBONE on [`HBONE_PORT`](super::waypoint::HBONE_PORT).
    Hbone,
}

/// The kind of object that owns a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum WorkloadType {
    /// A Deployment.
    Deployment,
    /// A CronJob.
    Cronjob,
    /// A bare pod, or an owner of another kind.
    Pod,
    /// A Job.
    Job,
}

impl WorkloadType {
    /// The word used in `baggage` (`k8s.<word>.name`), lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Cronjob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Readiness of a workload (`WorkloadStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    /// Ready.
    Healthy,
    /// Terminating and still serving: gets traffic only if no endpoint is ready (KEP-1669).
    Terminating,
    /// Not ready, or terminating and no longer serving.
    Unhealthy,
}

impl Health {
    /// From the conditions of an endpoint, as Kubernetes derives them: a terminating endpoint is never ready.
    pub fn of(serving: bool, terminating: bool) -> Self {
        match (serving, terminating) {
            (true, false) => Self::Healthy,
            (true, true) => Self::Terminating,
            (false, _) => Self::Unhealthy,
        }
    }
}

/// The network namespace of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NetworkMode {
    /// Its own.
    Standard,
    /// The host's: several workloads share one address, so none is found by address.
    HostNetwork,
}

/// The locality of a workload (`topology.kubernetes.io`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Name,
    /// `topology.kubernetes.io/zone`.
    pub zone: Name,
    /// `topology.istio.io/subzone`.
    pub subzone: Name,
}

impl Workload {
    /// The identity in its certificate.
    pub fn identity(&self) -> Identity {
        Identity {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }

    /// Whether the workload is enrolled: an agent captures its traffic and terminates HBONE for it.
    pub fn is_enrolled(&self) -> bool {
        self.protocol == TunnelProtocol::Hbone && !self.native_tunnel
    }

    /// A pod of which only the name is known, enrolled, in the defaults of a stand-alone mesh.
    pub fn pod(name: &str, namespace: &str) -> Self {
        Self {
            uid: WorkloadUid::from(format!("Kubernetes//Pod/{namespace}/{name}")),
            name: name.into(),
            namespace: namespace.into(),
            addresses: Box::default(),
            network: Network::default(),
            protocol: TunnelProtocol::Hbone,
            native_tunnel: false,
            may_bypass_waypoint: false,
            strict_waypoint: false,
            trust_domain: "cluster.local".into(),
            service_account: "default".into(),
            node: NodeName::default(),
            workload_name: name.into(),
            workload_type: WorkloadType::Pod,
            canonical_name: name.into(),
            canonical_revision: "latest".into(),
            cluster: "Kubernetes".into(),
            locality: None,
            health: Health::Healthy,
            network_mode: NetworkMode::Standard,
            waypoint: None,
            services: Box::default(),
            policies: Box::default(),
            capacity: 1,
            standing: Standing::Owner,
            netns: None,
        }
    }
}
