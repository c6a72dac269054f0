//! Pod -> Workload.

use super::support::{accepted, load, mesh, pod};
use mesh::model::workload::{Health, NetworkMode, TunnelProtocol, WorkloadType};

const AMBIENT: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}\n";

#[test]
fn enrolment_is_the_pods_label_or_else_its_namespaces() {
    let on = ", labels: {istio.io/dataplane-mode: ambient}";
    let off = ", labels: {istio.io/dataplane-mode: none}";
    for (namespace, metadata, spec, protocol) in [
        ("", "", "", TunnelProtocol::None),
        ("", on, "", TunnelProtocol::Hbone),
        (AMBIENT, "", "", TunnelProtocol::Hbone),
        (AMBIENT, on, "", TunnelProtocol::Hbone),
        (AMBIENT, off, "", TunnelProtocol::None),
        (AMBIENT, "", ", hostNetwork: true", TunnelProtocol::None),
        ("", on, ", hostNetwork: true", TunnelProtocol::None),
        (AMBIENT, "", ", runtimeClassName: gvisor", TunnelProtocol::None),
        (AMBIENT, "", ", runtimeClassName: kata-qemu", TunnelProtocol::None),
        (AMBIENT, "", ", runtimeClassName: runc", TunnelProtocol::Hbone),
        (AMBIENT, ", annotations: {sidecar.istio.io/status: '{}'}", "", TunnelProtocol::None),
    ] {
        let mesh = accepted(&format!("{namespace}{}", pod("a", "10.0.0.1", metadata, spec)));
        assert_eq!(mesh.pod("a").protocol, protocol, "{namespace:?} {metadata} {spec}");
    }
}

#[test]
fn a_pod_that_cannot_be_enrolled_is_refused_with_a_reason() {
    for (metadata, spec, reason) in [
        (", annotations: {sidecar.istio.io/status: '{}'}", "", "it has a sidecar (annotation sidecar.istio.io/status)"),
        (
            "",
            ", runtimeClassName: gvisor",
            "its sockets are not in this kernel (runtimeClassName gvisor), so they cannot be captured",
        ),
    ] {
        let (_, problems) = load(&format!("{AMBIENT}{}", pod("a", "10.0.0.1", metadata, spec)));
        assert_eq!(problems, [format!("mesh.yaml:5: Pod default/a: not enrolled: {reason}")]);
    }
}

#[test]
fn a_pod_without_status_conditions_is_ready() {
    for (phase, conditions, deletion, health) in [
        ("", "", "", Health::Healthy),
        ("Running", "{type: Ready, status: 'True'}", "", Health::Healthy),
        ("Running", "{type: Ready, status: 'False'}", "", Health::Unhealthy),
        ("Running", "{type: Ready, status: Unknown}", "", Health::Unhealthy),
        ("Running", "{type: Initialized, status: 'False'}", "", Health::Healthy),
        ("", "", "2026-01-01T00:00:00Z", Health::Terminating),
        ("Running", "{type: Ready, status: 'True'}", "2026-01-01T00:00:00Z", Health::Terminating),
        ("Running", "{type: Ready, status: 'False'}", "2026-01-01T00:00:00Z", Health::Unhealthy),
    ] {
        let phase = if phase.is_empty() { "null" } else { phase };
        let deletion = if deletion.is_empty() { "null" } else { deletion };
        let mesh = mesh(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, deletionTimestamp: {deletion}}}\n\
             status: {{podIP: 10.0.0.1, phase: {phase}, conditions: [{conditions}]}}\n"
        ));
        assert_eq!(mesh.pod("a").health, health, "{phase} {conditions} {deletion}");
    }
}

#[test]
fn a_pod_that_has_ended_or_has_no_address_is_left_out() {
    let (mesh, problems) = load(
        "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.1, phase: Succeeded}\n---\n\
         kind: Pod\napiVersion: v1\nmetadata: {name: b}\nstatus: {podIP: 10.0.0.1, phase: Failed}\n---\n\
         kind: Pod\napiVersion: v1\nmetadata: {name: c}\n",
    );
    assert!(mesh.workloads.is_empty());
    assert_eq!(
        problems,
        [
            "mesh.yaml:11: Pod default/c: status.podIP: it has no address: write status.podIP; it is not part of the mesh"
        ]
    );
}

#[test]
fn the_first_of_two_pods_of_a_namespace_has_their_address_whatever_their_age() {
    let young = pod("a", "10.0.0.1", ", creationTimestamp: 2026-01-02T00:00:00Z", "");
    let old = pod("b", "10.0.0.1", ", creationTimestamp: 2026-01-01T00:00:00Z", "");
    let host = pod("c", "10.0.0.1", "", ", hostNetwork: true");
    let (mesh, problems) = load(&format!("{young}{old}{host}"));
    assert_eq!(
        mesh.workloads.keys().map(String::as_str).collect::<Vec<_>>(),
        ["Kubernetes//Pod/default/a", "Kubernetes//Pod/default/c"]
    );
    assert_eq!(mesh.pod("c").network_mode, NetworkMode::HostNetwork);
    assert_eq!(
        problems,
        [
            "mesh.yaml:8: Pod default/b: status.podIP: 10.0.0.1 belongs to Pod default/a, which keeps it: it is the pod's \
          that the kernel shows, else the pod's that had it first; between namespaces neither age nor files prove \
          anything; it is not part of the mesh"
        ]
    );
}

#[test]
fn the_workload_is_what_owns_the_pod() {
    let owned = |kind: &str, name: &str| {
        format!(
            ", labels: {{pod-template-hash: 7d4f}}, ownerReferences: [{{kind: {kind}, name: {name}, controller: true}}]"
        )
    };
    for (metadata, name, kind) in [
        (String::new(), "a", WorkloadType::Pod),
        (owned("ReplicaSet", "shop-7d4f"), "shop", WorkloadType::Deployment),
        (owned("ReplicaSet", "shop"), "shop", WorkloadType::Pod),
        (owned("StatefulSet", "db"), "db", WorkloadType::Pod),
        (owned("Job", "migrate"), "migrate", WorkloadType::Job),
        (owned("Job", "backup-28012345"), "backup", WorkloadType::Cronjob),
    ] {
        let mesh = mesh(&pod("a", "10.0.0.1", &metadata, ""));
        let workload = mesh.pod("a");
        assert_eq!((workload.workload_name.as_str(), workload.workload_type), (name, kind), "{metadata}");
    }
}

#[test]
fn canonical_name_and_revision_come_from_the_first_label_there_is() {
    for (labels, name, revision) in [
        ("", "a", "latest"),
        ("app: shop", "shop", "latest"),
        ("app: shop, version: v1", "shop", "v1"),
        ("app: shop, app.kubernetes.io/name: store, app.kubernetes.io/version: '2', version: v1", "store", "2"),
        ("service.istio.io/canonical-name: own, service.istio.io/canonical-revision: r, app: shop", "own", "r"),
    ] {
        let mesh = mesh(&pod("a", "10.0.0.1", &format!(", labels: {{{labels}}}"), ""));
        let workload = mesh.pod("a");
        assert_eq!(
            (workload.canonical_name.as_str(), workload.canonical_revision.as_str()),
            (name, revision),
            "{labels}"
        );
    }
}

#[test]
fn a_pod_has_what_else_a_workload_needs() {
    let mesh = mesh(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: shop\n  labels:\n    topology.kubernetes.io/region: eu\n    \
         topology.kubernetes.io/zone: eu-1\n    topology.istio.io/subzone: rack\n  annotations:\n    \
         culvert.dev/netns: /run/netns/a\nspec: {nodeName: n1, serviceAccountName: cart}\n\
         status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}\n",
    );
    let workload = &mesh.workloads["Kubernetes//Pod/shop/a"];
    assert_eq!(workload.identity().to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(workload.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
    assert_eq!(workload.node.as_str(), "n1");
    assert_eq!(workload.netns.as_deref(), Some("/run/netns/a"));
    let locality = workload.locality.as_deref().unwrap();
    assert_eq!([&*locality.region, &*locality.zone, &*locality.subzone], ["eu", "eu-1", "rack"]);
}

#[test]
fn a_pod_is_where_its_node_is_unless_its_labels_say() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: a, labels: {topology.kubernetes.io/zone: eu-1}}\n";
    let own = ", labels: {topology.kubernetes.io/zone: eu-2}";
    let mesh = mesh(&[node, &pod("p", "10.0.0.1", "", ""), &pod("q", "10.0.0.2", own, "")].concat());
    let zone = |name| mesh.pod(name).locality.as_ref().map(|locality| locality.zone.to_string());
    assert_eq!([zone("p").as_deref(), zone("q").as_deref()], [Some("eu-1"), Some("eu-2")]);
}
