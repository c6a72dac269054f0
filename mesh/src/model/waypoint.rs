//! Pure. The waypoint of a service or workload.

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
/// It is kept even if no such Gateway exists or it is not ready: traffic is then refused, and never bypasses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waypoint {
    /// Namespace of the Gateway.
    pub namespace: Namespace,
    /// Name of the Gateway.
    pub name: Name,
    /// The HBONE address of its instances; `None` while the Gateway does not exist or has no address.
    pub destination: Option<WaypointDestination>,
    /// HBONE port of the instances, 15008 by default.
    pub hbone_port: u16,
    /// Whether the Gateway is in a root namespace: then its instances may be in any namespace.
    pub root: bool,
    /// Whether traffic that bypasses it is refused.
    pub enforcement: Enforcement,
}

/// Whether destinations behind a waypoint accept traffic that bypasses it, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Enforcement {
    /// Open: no policy at the waypoint guards it.
    #[default]
    Unguarded,
    /// Open: enforcement is `off` in this object (`Kind namespace/name`).
    Off(Name),
    /// Closed: this object guards it (`Kind namespace/name`).
    Guarded(Name),
    /// Closed: enforcement is `strict` in this object (`Kind namespace/name`).
    Strict(Name),
}

/// When a port behind a waypoint refuses traffic that bypasses it, from the most permissive to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EnforcementMode {
    /// Never.
    Off,
    /// When a policy at the waypoint guards it.
    #[default]
    Policy,
    /// Always.
    Strict,
}

impl Enforcement {
    /// Whether traffic that bypasses the waypoint is refused.
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
    /// The value in manifests.
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

/// The address of a waypoint (`istio.workload.GatewayAddress`).
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
