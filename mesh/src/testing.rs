//! What tests make their meshes of: objects in the defaults of a stand-alone mesh. Only with the feature `testing`,
//! which nothing but `[dev-dependencies]` asks for.

use std::net::IpAddr;

use crate::model::name::Name;
use crate::model::service::{AppProtocol, LoadBalancing, Reach, Service, ServiceKey, ServicePort, Vip};
use crate::model::waypoint::{Enforcement, HBONE_PORT, Waypoint, WaypointDestination};
use crate::model::workload::Workload;

impl Workload {
    /// A workload with the given name and addresses, enrolled.
    pub fn sample(name: &str, namespace: &str, addresses: &[IpAddr]) -> Self {
        Self { addresses: addresses.into(), ..Self::pod(name, namespace) }
    }
}

impl Service {
    /// A service with these addresses, and ports with their target ports.
    pub fn sample(name: &str, namespace: &str, vips: &[IpAddr], ports: &[(u16, u16)]) -> Self {
        let port = |&(service_port, target_port): &(u16, u16)| ServicePort {
            name: Name::default(),
            service_port,
            target_port,
            app_protocol: AppProtocol::Unknown,
        };
        Self {
            name: name.into(),
            key: ServiceKey {
                namespace: namespace.into(),
                hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
            },
            vips: vips.iter().copied().map(Vip::Address).collect(),
            headless: false,
            ports: ports.iter().map(port).collect(),
            subject_alt_names: Box::default(),
            waypoint: None,
            load_balancing: LoadBalancing::default(),
            canonical: true,
            reach: Reach::default(),
        }
    }
}

impl Waypoint {
    /// A waypoint with a guard.
    pub fn sample(namespace: &str, name: &str, destination: Option<WaypointDestination>) -> Self {
        let enforcement = Enforcement::Guarded(format!("AuthorizationPolicy {namespace}/guard").into());
        let (namespace, name) = (namespace.into(), name.into());
        Self { namespace, name, destination, hbone_port: HBONE_PORT, root: false, enforcement }
    }
}
