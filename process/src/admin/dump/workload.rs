//! Pure. A workload in the shape that istioctl reads.

use serde::{Deserialize, Serialize};

use mesh::model::waypoint::{Waypoint, WaypointDestination};
use mesh::model::workload::{Health, NetworkMode, Standing, TunnelProtocol, Workload};

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadView {
    /// Unique key, as `<cluster>//Pod/<namespace>/<name>`.
    pub uid: String,
    /// All IP addresses.
    pub workload_ips: Vec<String>,
    /// The waypoint for traffic addressed to the workload itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<WaypointView>,
    /// `HBONE` or `TCP`.
    pub protocol: String,
    /// Whether it speaks HBONE itself, as the instances of a waypoint do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub native_tunnel: bool,
    /// Name of the pod.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Service account of its identity.
    pub service_account: String,
    /// Name of its owner.
    pub workload_name: String,
    /// Kind of its owner: `deployment`, `pod` and so on.
    pub workload_type: String,
    /// Canonical service (`service.istio.io/canonical-name`).
    pub canonical_name: String,
    /// Canonical revision (`service.istio.io/canonical-revision`).
    pub canonical_revision: String,
    /// Name of its cluster (`--cluster`).
    pub cluster_id: String,
    /// Trust domain of its identity.
    pub trust_domain: String,
    /// Region, zone and subzone of its node.
    pub locality: LocalityView,
    /// Name of its node.
    #[serde(default)]
    pub node: String,
    /// Network of the addresses.
    #[serde(default)]
    pub network: String,
    /// `Healthy`, `Terminating`, `Unhealthy`, or `Disputed` when another pod claims one of its addresses.
    pub status: String,
    /// Whether it shares its node's network namespace. Not in ztunnel's dump.
    #[serde(default)]
    pub host_network: bool,
    /// Weight: its share of traffic relative to the other endpoints'.
    pub capacity: u32,
    /// Policies that select it, as `<namespace>/<name>`.
    pub authorization_policies: Vec<String>,
    /// Services that it serves, as `<namespace>/<hostname>`. Not in ztunnel's dump.
    #[serde(default)]
    pub services: Vec<String>,
}

/// Where a workload is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalityView {
    /// `topology.kubernetes.io/region`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// `topology.istio.io/subzone`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subzone: String,
}

/// The waypoint that a service or workload names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaypointView {
    /// The Gateway, as `<namespace>/<name>`. Not in ztunnel's dump.
    #[serde(default)]
    pub gateway: String,
    /// `<network>/<address>` or `<namespace>/<hostname>`; missing while the Gateway is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Its HBONE port.
    pub hbone_mtls_port: u16,
    /// Whether connections that bypass it are refused. Not in ztunnel's dump.
    #[serde(default)]
    pub closed: bool,
    /// Why they are refused, or not. Not in ztunnel's dump.
    #[serde(default)]
    pub enforcement: String,
}

impl From<&Waypoint> for WaypointView {
    fn from(waypoint: &Waypoint) -> Self {
        Self {
            gateway: format!("{}/{}", waypoint.namespace, waypoint.name),
            destination: waypoint.destination.as_ref().map(|destination| match destination {
                WaypointDestination::Service { namespace, hostname } => format!("{namespace}/{hostname}"),
                WaypointDestination::Address { network, address } => format!("{network}/{address}"),
            }),
            hbone_mtls_port: waypoint.hbone_port,
            closed: waypoint.enforcement.is_closed(),
            enforcement: waypoint.enforcement.to_string(),
        }
    }
}

impl From<&Workload> for WorkloadView {
    fn from(workload: &Workload) -> Self {
        let locality = workload.locality.as_deref();
        Self {
            uid: workload.uid.to_string(),
            workload_ips: workload.addresses.iter().map(ToString::to_string).collect(),
            waypoint: workload.waypoint.as_deref().map(Into::into),
            protocol: match workload.protocol {
                TunnelProtocol::None => "TCP",
                TunnelProtocol::Hbone => "HBONE",
            }
            .to_owned(),
            native_tunnel: workload.native_tunnel,
            name: workload.name.to_string(),
            namespace: workload.namespace.to_string(),
            service_account: workload.service_account.to_string(),
            workload_name: workload.workload_name.to_string(),
            workload_type: workload.workload_type.as_str().to_owned(),
            canonical_name: workload.canonical_name.to_string(),
            canonical_revision: workload.canonical_revision.to_string(),
            cluster_id: workload.cluster.to_string(),
            trust_domain: workload.trust_domain.to_string(),
            locality: locality.map_or_else(LocalityView::default, |l| LocalityView {
                region: l.region.to_string(),
                zone: l.zone.to_string(),
                subzone: l.subzone.to_string(),
            }),
            node: workload.node.to_string(),
            network: workload.network.to_string(),
            status: match workload.standing {
                Standing::Disputed => "Disputed".to_owned(),
                Standing::Owner | Standing::Endpoint => health(workload.health).to_owned(),
            },
            host_network: workload.network_mode == NetworkMode::HostNetwork,
            capacity: workload.capacity,
            authorization_policies: workload.policies.iter().map(ToString::to_string).collect(),
            services: workload.services.iter().map(|s| s.service.to_string()).collect(),
        }
    }
}

/// `Healthy`, `Terminating` or `Unhealthy`.
pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "Healthy",
        Health::Terminating => "Terminating",
        Health::Unhealthy => "Unhealthy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_has_the_fields_that_istioctl_reads() {
        let mut workload = Workload::sample("shop-1", "default", &["10.0.0.2".parse().unwrap()]);
        workload.node = "worker".into();
        let address = "10.96.0.9".parse().unwrap();
        let destination = WaypointDestination::Address { network: "".into(), address };
        workload.waypoint = Some(Box::new(Waypoint::sample("default", "gate", Some(destination))));
        let expected = serde_json::json!({
            "uid": "Kubernetes//Pod/default/shop-1", "workloadIps": ["10.0.0.2"],
            "waypoint": {
                "gateway": "default/gate", "destination": "/10.96.0.9", "hboneMtlsPort": 15008,
                "closed": true, "enforcement": "AuthorizationPolicy default/guard guards it",
            },
            "protocol": "HBONE", "name": "shop-1", "namespace": "default", "serviceAccount": "default",
            "workloadName": "shop-1", "workloadType": "pod", "canonicalName": "shop-1", "canonicalRevision": "latest",
            "clusterId": "Kubernetes", "trustDomain": "cluster.local", "locality": {}, "node": "worker", "network": "",
            "status": "Healthy", "hostNetwork": false, "capacity": 1, "authorizationPolicies": [], "services": [],
        });
        assert_eq!(serde_json::to_value(WorkloadView::from(&workload)).unwrap(), expected);
    }
}
