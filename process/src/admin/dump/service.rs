//! Pure. A service with its endpoints in the shape that istioctl reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::workload::{WaypointView, health};
use mesh::model::service::{BalanceMode, Scope, Vip};
use mesh::state::snapshot::ServiceEntry;

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Name of the object.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Fully qualified host name.
    pub hostname: String,
    /// Single virtual addresses, as `<network>/<address>`.
    pub vips: Vec<String>,
    /// Ranges of virtual addresses, as `<network>/<range>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidr_vips: Vec<String>,
    /// Service port to target port; 0 when it differs between workloads.
    pub ports: BTreeMap<u16, u16>,
    /// How endpoints are preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerView>,
    /// The waypoint for traffic addressed to the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<WaypointView>,
    /// Endpoints by uid of the workload.
    pub endpoints: BTreeMap<String, EndpointView>,
    /// Further identities that an endpoint may prove.
    pub subject_alt_names: Vec<String>,
    /// Whether it came from a Kubernetes Service.
    pub canonical: bool,
}

/// One endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Uid of the workload.
    pub workload_uid: String,
    /// The service, as `<namespace>/<hostname>`.
    pub service: String,
    /// Service port to the port on this workload.
    pub port: BTreeMap<u16, u16>,
    /// `Healthy`, `Terminating` (serving, and used where nothing is ready) or `Unhealthy`.
    pub status: String,
    /// Connections of this agent to it that are open now. Not in ztunnel's dump.
    #[serde(default)]
    pub active: u32,
}

/// How endpoints are preferred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerView {
    /// `Strict`, `Failover` or `Passthrough`.
    pub mode: String,
    /// Scopes in which an endpoint should match the client (`Region`, `Zone`, `Node`, ...), most important first.
    pub routing_preferences: Vec<String>,
    /// `AllowAll` or `OnlyHealthy`.
    pub health_policy: String,
}

impl From<&ServiceEntry> for ServiceView {
    fn from(entry: &ServiceEntry) -> Self {
        let service = &entry.service;
        let endpoints = entry.endpoints.iter().map(|endpoint| EndpointView {
            workload_uid: endpoint.workload.uid.to_string(),
            service: service.key.to_string(),
            port: endpoint.ports.iter().map(|port| (port.service_port, port.target_port)).collect(),
            status: health(endpoint.health).to_owned(),
            active: endpoint.load.active(),
        });
        let ranges = service.vips.iter().filter_map(|vip| match vip {
            Vip::Range(range) => Some(format!("/{range}")),
            Vip::Address(_) | Vip::External(_) => None,
        });
        let addresses = service.vips.iter().filter_map(Vip::address).map(|address| format!("/{address}"));
        let balancing = &service.load_balancing;
        Self {
            name: service.name.to_string(),
            namespace: service.key.namespace.to_string(),
            hostname: service.key.hostname.to_string(),
            vips: addresses.collect(),
            cidr_vips: ranges.collect(),
            ports: service.ports.iter().map(|port| (port.service_port, port.target_port)).collect(),
            load_balancer: mode(balancing.mode).map(|mode| LoadBalancerView {
                mode: mode.to_owned(),
                routing_preferences: balancing.routing_preference.iter().map(|s| scope(*s).to_owned()).collect(),
                health_policy: if balancing.allow_unhealthy { "AllowAll" } else { "OnlyHealthy" }.to_owned(),
            }),
            waypoint: service.waypoint.as_deref().map(Into::into),
            endpoints: endpoints.map(|view| (view.workload_uid.clone(), view)).collect(),
            subject_alt_names: service.subject_alt_names.iter().map(ToString::to_string).collect(),
            canonical: service.canonical,
        }
    }
}

/// `None` where nothing is preferred.
fn mode(mode: BalanceMode) -> Option<&'static str> {
    match mode {
        BalanceMode::Any => None,
        BalanceMode::Strict => Some("Strict"),
        BalanceMode::Failover => Some("Failover"),
        BalanceMode::Passthrough => Some("Passthrough"),
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Region => "Region",
        Scope::Zone => "Zone",
        Scope::Subzone => "Subzone",
        Scope::Node => "Node",
        Scope::Cluster => "Cluster",
        Scope::Network => "Network",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use mesh::model::service::Service;
    use mesh::model::workload::{Health, Workload};
    use mesh::state::endpoints::Endpoint;

    #[test]
    fn a_service_has_the_fields_that_istioctl_reads() {
        let service = Service::sample("shop", "default", &["10.96.0.10".parse().unwrap()], &[(80, 8080)]);
        let endpoint = Endpoint {
            workload: Arc::new(Workload::sample("shop-1", "default", &[])),
            ports: service.ports.clone(),
            health: Health::Healthy,
            load: Arc::default(),
        };
        let entry = ServiceEntry { service: Arc::new(service), endpoints: Arc::new([Arc::new(endpoint)]) };
        let uid = "Kubernetes//Pod/default/shop-1";
        let expected = serde_json::json!({
            "name": "shop", "namespace": "default", "hostname": "shop.default.svc.cluster.local", "vips": ["/10.96.0.10"],
            "ports": {"80": 8080}, "subjectAltNames": [], "canonical": true,
            "endpoints": {uid: {
                "workloadUid": uid, "service": "default/shop.default.svc.cluster.local", "port": {"80": 8080},
                "status": "Healthy", "active": 0,
            }},
        });
        let view = serde_json::to_value(ServiceView::from(&entry)).unwrap();
        assert_eq!(view, expected);
        assert_eq!(serde_json::from_value::<ServiceView>(view).unwrap(), ServiceView::from(&entry));
    }
}
