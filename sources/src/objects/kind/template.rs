//! Pure. The part that the pods of one workload have in common.

use std::fmt;

use mesh::model::name::{Name, ServiceAccount};
use mesh::model::workload::WorkloadType;

/// The part that the pods of one workload have in common; kept once for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTemplate {
    /// `spec.serviceAccountName`, `default` if none is given.
    pub service_account: ServiceAccount,
    /// Whether the pod lives in the host's network namespace.
    pub host_network: bool,
    /// Why it cannot be enrolled, whatever its labels say.
    pub refusal: Option<Refusal>,
    /// Name of its owner; `None` for a pod without one, whose own name is used.
    pub workload_name: Option<Name>,
    /// Kind of its owner.
    pub workload_type: WorkloadType,
    /// Named TCP ports of its containers.
    pub ports: Box<[NamedPort]>,
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: Name,
    /// The port.
    pub port: u16,
}

/// Why a pod cannot be enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A sidecar already captures its traffic.
    Sidecar,
    /// Its sockets are not in the host's kernel (gVisor), or in a kernel of their own (Kata).
    Runtime(Name),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sidecar => f.write_str("it has a sidecar (annotation sidecar.istio.io/status)"),
            Self::Runtime(class) => {
                write!(f, "its sockets are not in this kernel (runtimeClassName {class}), so they cannot be captured")
            }
        }
    }
}

impl PodTemplate {
    /// The container port of this name.
    pub fn port_named(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| port.name.as_str() == name).map(|port| port.port)
    }
}
