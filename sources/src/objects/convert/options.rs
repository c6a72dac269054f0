//! Pure. The options of the conversion.

use ipnet::IpNet;

use crate::objects::kind::{Documents, Meta};
use mesh::authority::tenancy;
use mesh::model::name::{ClusterId, Hostname, Name, Namespace, Network, TrustDomain};
use mesh::model::waypoint::EnforcementMode;

/// The options of the conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the cluster, the beginning of every workload's uid.
    pub cluster_id: ClusterId,
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Network of every address.
    pub network: Network,
    /// The cluster domain: what follows `.svc.` in the host name of a service.
    pub cluster_domain: Name,
    /// Namespaces whose policies are for the whole mesh. The first is where generated policies stand.
    pub root_namespaces: Vec<Namespace>,
    /// The default of waypoint enforcement: when a port behind a waypoint refuses traffic that bypasses it.
    pub waypoint_enforcement: EnforcementMode,
    /// The objects whose documents the consumer reads itself.
    pub documents: Documents,
    /// Loopback and link-local ranges whose addresses the operator allows as addresses of workloads.
    pub local_addresses: Vec<IpNet>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".into(),
            trust_domain: "cluster.local".into(),
            network: Network::default(),
            cluster_domain: "cluster.local".into(),
            root_namespaces: vec!["culvert-system".into(), "istio-system".into()],
            waypoint_enforcement: EnforcementMode::default(),
            documents: Documents::None,
            local_addresses: vec![],
        }
    }
}

impl Options {
    /// The host name of a Kubernetes Service.
    pub fn hostname(&self, service: &Meta) -> Hostname {
        format!("{}.{}.svc.{}", service.name, service.namespace, self.cluster_domain).into()
    }

    /// Whether policies of this namespace are for the whole mesh.
    pub fn is_root(&self, namespace: &str) -> bool {
        tenancy::is_root(&self.root_namespaces, namespace)
    }

    /// Whether an object of namespace `speaker` may decide about what belongs to namespace `subject`.
    pub fn speaks_for(&self, speaker: &str, subject: &str) -> bool {
        tenancy::speaks_for(&self.root_namespaces, speaker, subject)
    }
}
