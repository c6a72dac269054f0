//! Pure. Open connections, captured workloads, and both in the shape that istioctl asks for.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use mesh::model::connection::Direction;
use mesh::model::identity::Identity;

/// One open connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConnectionView {
    /// Number of the connection, unique in the life of the process.
    pub(crate) id: u64,
    /// Seen from the workload.
    pub(crate) direction: Direction,
    /// Uid of the workload on our side.
    pub(crate) workload_uid: String,
    /// Address of the caller.
    pub(crate) source: SocketAddr,
    /// Name of the calling workload, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_workload: Option<String>,
    /// Namespace of the calling workload, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_namespace: Option<String>,
    /// What the source proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_identity: Option<String>,
    /// The waypoint that called on behalf of the source: it has authenticated itself, and names the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_via: Option<String>,
    /// The address that the application called.
    pub(crate) original_destination: SocketAddr,
    /// The address that was connected to for it, when it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actual_destination: Option<SocketAddr>,
    /// Name of the called workload, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) destination_workload: Option<String>,
    /// Namespace of the called workload, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) destination_namespace: Option<String>,
    /// What the destination proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) destination_identity: Option<String>,
    /// The service that was called, as `<namespace>/<hostname>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    /// `HBONE` or `TCP`, as istioctl has it.
    pub(crate) protocol: String,
    /// Bytes that the workload on our side has sent.
    pub(crate) bytes_sent: u64,
    /// Bytes that the workload on our side has received.
    pub(crate) bytes_received: u64,
    /// Milliseconds since it was accepted.
    pub(crate) age_ms: u64,
}

/// One workload of this node, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CaptureView {
    /// Uid of the workload.
    pub(crate) workload_uid: String,
    /// Name of the pod.
    pub(crate) name: String,
    /// Namespace of the pod.
    pub(crate) namespace: String,
    /// Identity that the agent speaks for.
    pub(crate) identity: String,
    /// Path of the network namespace.
    pub(crate) netns: String,
    /// Number under which the kernel's maps know the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<u32>,
    /// Cookie of the network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns_cookie: Option<u64>,
    /// How far enrolling has come.
    pub(crate) state: CaptureState,
    /// What becomes of plaintext to ports that are not in `plaintext_ports`: `pass`, `refuse` or `proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plaintext: Option<String>,
    /// Ports with another verdict, as `<port>=<verdict>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) plaintext_ports: Vec<String>,
    /// Why it is not captured, or not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// How far enrolling a workload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CaptureState {
    /// It ought to be captured and is not yet.
    Pending,
    /// New connections go through the agent.
    Captured,
    /// Released; captured connections are still open.
    Releasing,
    /// It cannot be captured; `error` says why. It is tried again.
    Failed,
    /// It cannot be captured, or not served, and no new connection goes into it or out of it; `error` says why. It is
    /// tried again.
    Closed,
}

/// What istioctl shows of one workload of this node (`ztunnel-config connections`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadState {
    /// `Up` or `Pending`.
    pub(crate) state: String,
    /// Which workload it is.
    pub(crate) info: WorkloadInfo,
    /// Its connections.
    pub(crate) connections: WorkloadConnections,
}

/// Which workload a [`WorkloadState`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadInfo {
    /// Name of the pod.
    pub(crate) name: String,
    /// Namespace of the pod.
    pub(crate) namespace: String,
    /// Trust domain of its identity.
    pub(crate) trust_domain: String,
    /// Service account of its identity.
    pub(crate) service_account: String,
}

/// The connections of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkloadConnections {
    /// Arriving.
    pub(crate) inbound: Vec<WorkloadConnection>,
    /// Leaving.
    pub(crate) outbound: Vec<WorkloadConnection>,
}

/// One connection of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadConnection {
    /// Address of the caller.
    pub(crate) src: String,
    /// What the caller called.
    pub(crate) original_dst: String,
    /// What was connected to for it.
    pub(crate) actual_dst: String,
    /// `HBONE` or `TCP`.
    pub(crate) protocol: String,
}

/// The part `workloadState` of a dump, by uid, out of captures and connections.
pub(crate) fn workload_states(
    captures: &[CaptureView],
    connections: &[ConnectionView],
) -> BTreeMap<String, WorkloadState> {
    let mut states: BTreeMap<_, _> = captures.iter().map(|c| (c.workload_uid.clone(), WorkloadState::of(c))).collect();
    for connection in connections {
        let Some(state) = states.get_mut(&connection.workload_uid) else { continue };
        let list = match connection.direction {
            Direction::Inbound => &mut state.connections.inbound,
            Direction::Outbound => &mut state.connections.outbound,
        };
        list.push(WorkloadConnection {
            src: connection.source.to_string(),
            original_dst: connection.original_destination.to_string(),
            actual_dst: connection.actual_destination.unwrap_or(connection.original_destination).to_string(),
            protocol: connection.protocol.clone(),
        });
    }
    states
}

impl WorkloadState {
    fn of(capture: &CaptureView) -> Self {
        let identity = capture.identity.parse::<Identity>().ok();
        Self {
            state: if capture.state == CaptureState::Captured { "Up" } else { "Pending" }.to_owned(),
            info: WorkloadInfo {
                name: capture.name.clone(),
                namespace: capture.namespace.clone(),
                trust_domain: identity.as_ref().map_or("", |i| &i.trust_domain).to_owned(),
                service_account: identity.as_ref().map_or("", |i| &i.service_account).to_owned(),
            },
            connections: WorkloadConnections::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_stand_with_their_workload() {
        let capture = CaptureView {
            workload_uid: "uid-1".into(),
            name: "client".into(),
            namespace: "default".into(),
            identity: "spiffe://cluster.local/ns/default/sa/web".into(),
            netns: "/run/netns/client".into(),
            id: Some(3),
            netns_cookie: None,
            state: CaptureState::Captured,
            plaintext: None,
            plaintext_ports: vec![],
            error: None,
        };
        let connection = ConnectionView {
            id: 1,
            direction: Direction::Outbound,
            workload_uid: "uid-1".into(),
            source: "10.0.0.1:40000".parse().unwrap(),
            source_workload: None,
            source_namespace: None,
            source_identity: None,
            source_via: None,
            original_destination: "10.96.0.10:80".parse().unwrap(),
            actual_destination: Some("10.0.0.2:15008".parse().unwrap()),
            destination_workload: None,
            destination_namespace: None,
            destination_identity: None,
            service: None,
            protocol: "HBONE".into(),
            bytes_sent: 0,
            bytes_received: 0,
            age_ms: 0,
        };
        let of_nobody = ConnectionView { workload_uid: "uid-2".into(), ..connection.clone() };
        let states = workload_states(&[capture], &[connection, of_nobody]);
        let expected = serde_json::json!({"uid-1": {
            "state": "Up",
            "info": {"name": "client", "namespace": "default", "trustDomain": "cluster.local", "serviceAccount": "web"},
            "connections": {"inbound": [], "outbound": [
                {"src": "10.0.0.1:40000", "originalDst": "10.96.0.10:80", "actualDst": "10.0.0.2:15008", "protocol": "HBONE"}
            ]},
        }});
        assert_eq!(serde_json::to_value(states).unwrap(), expected);
    }
}
