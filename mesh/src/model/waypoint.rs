//! Pure. Where the waypoint of a service or workload is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Serialize;

use super::name::{Hostname, Name, Namespace, Network};

/// The port on which enrolled workloads and waypoints listen for HBONE, unless a Gateway names another one. The only
/// place where the number is written (`cargo xtask once`); the kernel half, which uses no crate of ours, has its own
/// and is compared with it.
pub const HBONE_PORT: u16 = 15008;

/// The waypoint that a service or workload names by `istio.io/use-waypoint`.
///
/// It is kept even when no such Gateway exists or it is not ready: traffic is then refused, never sent past it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waypoint {
    /// Namespace of the Gateway.
    pub namespace: Namespace,
    /// Name of the Gateway.
    pub name: Name,
    /// Where its instances listen for HBONE; `None` while the Gateway does not exist or has no address.
    pub destination: Option<WaypointDestination>,
    /// HBONE port of the instances, 15008 unless the Gateway says otherwise.
    pub hbone_port: u16,
    /// Whether the Gateway stands in a root namespace: then its instances may live in any.
    pub root: bool,
    /// Whether what did not come through it is refused.
    pub enforcement: Enforcement,
}

/// Whether what stands behind a waypoint takes what did not come through it, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Enforcement {
    /// Open: nothing at the waypoint guards it.
    #[default]
    Unguarded,
    /// Open: enforcement is `off`, as this says (`Kind namespace/name`).
    Off(Name),
    /// Closed: this guards it (`Kind namespace/name`).
    Guarded(Name),
    /// Closed: enforcement is `strict`, as this says (`Kind namespace/name`).
    Strict(Name),
}

/// When a port behind a waypoint is closed to what did not come through it, from the most open to the most closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EnforcementMode {
    /// Never.
    Off,
    /// When something at the waypoint guards it.
    #[default]
    Policy,
    /// Always.
    Strict,
}

impl Enforcement {
    /// Whether what did not come through the waypoint is refused.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Guarded(_) | Self::Strict(_))
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unguarded => f.write_str("nothing guards it there"),
            Self::Off(who) => write!(f, "enforcement is off, says {who}"),
            Self::Guarded(who) => write!(f, "{who} guards it"),
            Self::Strict(who) => write!(f, "enforcement is strict, says {who}"),
        }
    }
}

impl EnforcementMode {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Policy => "policy",
            Self::Strict => "strict",
        }
    }
}

impl FromStr for EnforcementMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "policy" => Ok(Self::Policy),
            "strict" => Ok(Self::Strict),
            _ => Err(format!("{text:?} must be one of policy, strict, off")),
        }
    }
}

impl Waypoint {
    /// A waypoint with a guard, in the defaults of a stand-alone mesh: for tests and tools.
    pub fn sample(namespace: &str, name: &str, destination: Option<WaypointDestination>) -> Self {
        let enforcement = Enforcement::Guarded(format!("AuthorizationPolicy {namespace}/guard").into());
        let (namespace, name) = (namespace.into(), name.into());
        Self { namespace, name, destination, hbone_port: HBONE_PORT, root: false, enforcement }
    }
}

/// How the instances of a waypoint are found (`istio.workload.GatewayAddress`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WaypointDestination {
    /// A service whose endpoints are the instances.
    Service {
        /// Namespace of the service.
        namespace: Namespace,
        /// Host name of the service.
        hostname: Hostname,
    },
    /// The address of one workload or of a service.
    Address {
        /// The network that the address belongs to.
        network: Network,
        /// The address.
        address: IpAddr,
    },
}
