//! Pure. Where the node of a waypoint is.

use std::net::IpAddr;
use std::sync::Arc;

use mesh::model::workload::Workload;
use serde_json::Value;

use super::object::Object;

/// The addresses of the node that `here` runs on: those of its Node, and those that its Pod tells. Where the node is
/// not known, those of every node: any of them may be ours.
pub fn node_addresses(objects: &[Arc<Object>], here: &Workload) -> Vec<IpAddr> {
    let of =
        |kind: &'static str| objects.iter().filter(move |object| object.group().is_empty() && &*object.kind == kind);
    let is_ours = |node: &&Arc<Object>| here.node.is_empty() || *node.name == *here.node;
    let nodes = of("Node").filter(is_ours).filter_map(|node| node.status.get("addresses"));
    let of_nodes = nodes.filter_map(Value::as_array).flatten().filter_map(|entry| entry.get("address"));
    let is_here = |pod: &&Arc<Object>| *pod.name == *here.name && *pod.namespace == *here.namespace;
    let of_pod = of("Pod").filter(is_here).flat_map(|pod| {
        let more = pod.status.get("hostIPs").and_then(Value::as_array).into_iter().flatten();
        pod.status.get("hostIP").into_iter().chain(more.filter_map(|entry| entry.get("ip")))
    });
    of_nodes.chain(of_pod).filter_map(|address| address.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: &Value) -> Arc<Object> {
        Arc::new(Object::from_json(value, "", 0).unwrap())
    }

    #[test]
    fn a_nodes_addresses_are_those_of_its_status_and_of_the_pod() {
        let node = |name: &str, address: &str| {
            let addresses = json!([{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]);
            object(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "status": {"addresses": addresses}}))
        };
        let pod = |name: &str, address: &str| {
            object(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
                "status": {"hostIP": address, "hostIPs": [{"ip": address}, {"ip": "fd00::9"}]}}))
        };
        let objects =
            [node("one", "192.168.0.1"), node("two", "fd00::2"), pod("wp", "192.168.0.9"), pod("other", "192.168.0.8")];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |node: &str, name: &str| {
            let here = Workload { node: node.into(), ..Workload::sample(name, "shop", &[]) };
            node_addresses(&objects, &here)
        };
        assert_eq!(at("two", "absent"), [ip("fd00::2")]);
        assert_eq!(at("", "absent"), [ip("192.168.0.1"), ip("fd00::2")]);
        assert_eq!(at("three", "wp"), [ip("192.168.0.9"), ip("192.168.0.9"), ip("fd00::9")]);
    }
}
