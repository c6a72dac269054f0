//! Pure. What the converter is told besides the objects.

use ipnet::IpNet;

use crate::objects::kind::{Documents, Meta};
use mesh::authority::tenancy;
use mesh::model::name::{ClusterId, Hostname, Name, Namespace, Network, TrustDomain};
use mesh::model::waypoint::EnforcementMode;

/// What the converter is told besides the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the cluster, the beginning of every workload's uid.
    pub cluster_id: ClusterId,
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Network of every address.
    pub network: Network,
    /// What follows `.svc.` in the host name of a service.
    pub cluster_domain: Name,
    /// Namespaces whose policies are for the whole mesh. The first is where generated policies stand.
    pub root_namespaces: Vec<Namespace>,
    /// When a port behind a waypoint is closed to what did not come through it, unless somebody says otherwise.
    pub waypoint_enforcement: EnforcementMode,
    /// Which objects the consumer reads by itself too.
    pub documents: Documents,
    /// Loopback and link-local addresses that an operator lets workloads have all the same.
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
