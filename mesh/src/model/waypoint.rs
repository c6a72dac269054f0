//! Pure. Where the waypoint of a service or workload is.

use std::net::IpAddr;

use serde::Serialize;

use super::name::{Hostname, Name, Namespace, Network};

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
