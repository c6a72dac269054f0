//! Which waypoint something has, and what becomes of it while there is none.

use super::support::{Mesh, accepted, load, pod};
use mesh::model::waypoint::{Waypoint, WaypointDestination};
use mesh::model::workload::TunnelProtocol;

const SERVICE: &str =
    "---\napiVersion: v1\nkind: Service\nmetadata: {name: shop, labels: {LABELS}}\nspec: {clusterIP: 10.96.0.1}\n";
const NAMESPACE: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {LABELS}}\n";
const READY: &str = "status: {addresses: [{type: IPAddress, value: 10.0.0.9}]}\n";

fn gateway(namespace: &str, labels: &str, listener: &str, status: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: wp, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{gatewayClassName: culvert-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE{listener}}}]}}\n{status}"
    )
}

fn everything(service: &str, pod_labels: &str, namespace: &str, more: &str) -> Mesh {
    let pod = pod("a", "10.0.0.1", &format!(", labels: {{{pod_labels}}}"), "");
    accepted(&[&SERVICE.replace("LABELS", service), &pod, &NAMESPACE.replace("LABELS", namespace), more].concat())
}

/// `-` for none, `closed` for one that cannot be used, else where it is.
fn shown(waypoint: Option<&Waypoint>) -> String {
    match waypoint.map(|waypoint| waypoint.destination.as_ref()) {
        None => "-".to_owned(),
        Some(None) => "closed".to_owned(),
        Some(Some(WaypointDestination::Address { address, .. })) => address.to_string(),
        Some(Some(WaypointDestination::Service { hostname, .. })) => hostname.to_string(),
    }
}

#[test]
fn a_label_of_its_own_comes_before_the_namespaces() {
    let all = gateway("default", "istio.io/waypoint-for: all", "", READY);
    let wp = "istio.io/use-waypoint: wp";
    let none = "istio.io/use-waypoint: none";
    let missing = "istio.io/use-waypoint: missing";
    for (service, pod, namespace, expected) in [
        ("", "", "", ["-", "-"]),
        (wp, "", "", ["10.0.0.9", "-"]),
        ("", wp, "", ["-", "10.0.0.9"]),
        ("", "", wp, ["10.0.0.9", "10.0.0.9"]),
        (none, "", wp, ["-", "10.0.0.9"]),
        ("", none, wp, ["10.0.0.9", "-"]),
        (missing, wp, wp, ["closed", "10.0.0.9"]),
        ("", "gateway.networking.k8s.io/gateway-name: wp", wp, ["10.0.0.9", "-"]),
    ] {
        let mesh = everything(service, pod, namespace, &all);
        let found = [shown(mesh.service("shop").waypoint.as_deref()), shown(mesh.pod("a").waypoint.as_deref())];
        assert_eq!(found, expected, "service {service}, pod {pod}, namespace {namespace}");
    }
}

#[test]
fn a_waypoint_takes_the_traffic_it_is_for() {
    for (waypoint_for, expected) in [
        ("", ["10.0.0.9", "-"]),
        ("istio.io/waypoint-for: service", ["10.0.0.9", "-"]),
        ("istio.io/waypoint-for: workload", ["-", "10.0.0.9"]),
        ("istio.io/waypoint-for: all", ["10.0.0.9", "10.0.0.9"]),
        ("istio.io/waypoint-for: none", ["-", "-"]),
        ("istio.io/waypoint-for: typo", ["10.0.0.9", "10.0.0.9"]),
    ] {
        let mesh = everything("", "", "istio.io/use-waypoint: wp", &gateway("default", waypoint_for, "", READY));
        let found = [shown(mesh.service("shop").waypoint.as_deref()), shown(mesh.pod("a").waypoint.as_deref())];
        assert_eq!(found, expected, "{waypoint_for}");
    }
}

#[test]
fn a_waypoint_that_cannot_be_used_is_kept_closed() {
    let usual = gateway("default", "", "", READY);
    for (what, gateway, expected) in [
        ("missing", String::new(), "closed"),
        ("of another class", usual.replace("culvert-waypoint", "nginx"), "closed"),
        ("of Istio's class", usual.replace("culvert-waypoint", "istio-waypoint"), "10.0.0.9"),
        ("without an address", gateway("default", "", "", ""), "closed"),
        ("not programmed", usual.clone() + "  #\n", "10.0.0.9"),
        (
            "not programmed",
            gateway(
                "default",
                "",
                "",
                "status: {addresses: [{value: 10.0.0.9}], conditions: [{type: Programmed, status: 'False'}]}\n",
            ),
            "closed",
        ),
        (
            "at a service that is not there",
            gateway(
                "default",
                "",
                "",
                "status: {addresses: [{type: Hostname, value: wp.default.svc.cluster.local}]}\n",
            ),
            "closed",
        ),
        (
            "at a service",
            gateway(
                "default",
                "",
                "",
                "status: {addresses: [{type: Hostname, value: shop.default.svc.cluster.local}]}\n",
            ),
            "shop.default.svc.cluster.local",
        ),
    ] {
        let mesh = everything("istio.io/use-waypoint: wp", "", "", &gateway);
        assert_eq!(shown(mesh.service("shop").waypoint.as_deref()), expected, "{what}");
    }
    let (_, problems) = load(&NAMESPACE.replace("LABELS", "istio.io/use-waypoint: wp"));
    assert_eq!(
        problems,
        [
            "mesh.yaml:2: Namespace default: waypoint default/wp cannot be used, traffic is refused: there is no such Gateway \
          of a waypoint class"
        ]
    );
}

#[test]
fn a_waypoint_is_found_by_its_service_or_its_pods() {
    let of_gateway = "gateway.networking.k8s.io/gateway-name: wp";
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: front, labels: {{{of_gateway}}}}}\nspec: {{clusterIP: 10.96.0.9}}\n"
    );
    let not_ready = pod("w1", "10.0.0.21", &format!(", labels: {{{of_gateway}}}"), "")
        .replace("10.0.0.21}", "10.0.0.21, conditions: [{type: Ready, status: 'False'}]}");
    let ready = pod("w2", "10.0.0.22", &format!(", labels: {{{of_gateway}}}"), "");
    let gateway = gateway("default", "", "", "");
    for (more, expected) in [
        (vec![&gateway, &service, &ready], "front.default.svc.cluster.local"),
        (vec![&gateway, &not_ready, &ready], "wp.default.gateway.cluster.local"),
        (vec![&gateway, &not_ready], "wp.default.gateway.cluster.local"),
    ] {
        let more: String = more.into_iter().map(String::as_str).collect();
        let mesh = everything("istio.io/use-waypoint: wp", "", "", &more);
        assert_eq!(shown(mesh.service("shop").waypoint.as_deref()), expected);
    }
}

#[test]
fn a_waypoint_in_another_namespace_has_to_admit_the_one_that_uses_it() {
    let there = "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra";
    for (listener, namespace, expected) in [
        ("", "", "closed"),
        (", allowedRoutes: {namespaces: {from: Same}}", "", "closed"),
        (", allowedRoutes: {namespaces: {from: All}}", "", "10.0.0.9"),
        (", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}", "", "closed"),
        (", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}", "team: a", "10.0.0.9"),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [a, b]}]}}}",
            "team: b",
            "10.0.0.9",
        ),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}}",
            "team: b",
            "closed",
        ),
    ] {
        let mesh = everything(there, "", namespace, &gateway("infra", "", listener, READY));
        assert_eq!(shown(mesh.service("shop").waypoint.as_deref()), expected, "{listener} {namespace}");
        assert_eq!(mesh.service("shop").waypoint.as_ref().map(|waypoint| waypoint.namespace.as_str()), Some("infra"));
    }
}

#[test]
fn the_port_is_the_hbone_listeners() {
    let gateway = gateway("default", "", "", READY).replace("port: 15008", "port: 16000");
    let mesh = everything("istio.io/use-waypoint: wp", "", "", &gateway);
    assert_eq!(mesh.service("shop").waypoint.as_ref().map(|waypoint| waypoint.hbone_port), Some(16000));
}

#[test]
fn every_pod_of_a_gateway_is_an_instance_that_speaks_hbone_itself() {
    let label = ", labels: {gateway.networking.k8s.io/gateway-name: wp, istio.io/dataplane-mode: ambient}";
    let pods = pod("w1", "10.0.0.21", label, "") + &pod("w2", "10.0.0.22", label, "");
    let mesh = everything("istio.io/use-waypoint: wp", "", "", &(gateway("default", "", "", "") + &pods));
    for name in ["w1", "w2"] {
        let instance = mesh.pod(name);
        assert!(instance.native_tunnel && !instance.is_enrolled(), "{name}");
        assert_eq!(instance.protocol, TunnelProtocol::Hbone);
        assert_eq!(&*instance.services[0].service.hostname, "wp.default.gateway.cluster.local");
        assert_eq!(instance.services[0].ports[0].target_port, 15008);
    }
    assert!(mesh.services.contains_key("default/wp.default.gateway.cluster.local"));
    assert!(!mesh.pod("a").native_tunnel);
    let mesh = everything("", "", "", &pods);
    assert!(mesh.pod("w1").is_enrolled(), "without its Gateway it is a pod like any other");
}

#[test]
fn the_pods_behind_the_service_of_a_gateway_are_instances_and_so_is_what_has_its_address_or_istios_mark() {
    let service = "---\napiVersion: v1\nkind: Service\n\
         metadata: {name: front, labels: {gateway.networking.k8s.io/gateway-name: wp}}\n\
         spec: {clusterIP: 10.96.0.9, selector: {app: front}}\n";
    let front = pod("w1", "10.0.0.21", ", labels: {app: front}", "");
    let marked = pod("w2", "10.0.0.22", ", labels: {networking.istio.io/tunnel: http}", "");
    let mesh = everything("", "", "", &[&gateway("default", "", "", ""), service, &front, &marked].concat());
    assert!(mesh.pod("w1").native_tunnel && mesh.pod("w2").native_tunnel);
    let addressed = pod("w3", "10.0.0.9", ", labels: {istio.io/dataplane-mode: ambient}", "");
    let mesh = everything("", "", "", &(gateway("default", "", "", READY) + &addressed));
    assert!(mesh.pod("w3").native_tunnel && !mesh.pod("a").native_tunnel);
}

#[test]
fn an_annotation_admits_what_did_not_come_through_the_waypoint() {
    let annotated = |value: &str| {
        let text =
            pod("b", "10.0.0.2", &format!(", annotations: {{culvert.dev/allow-waypoint-bypass: '{value}'}}"), "");
        load(&text)
    };
    assert!(annotated("true").0.pod("b").may_bypass_waypoint);
    assert!(!annotated("false").0.pod("b").may_bypass_waypoint);
    let (mesh, problems) = annotated("yes");
    assert!(!mesh.pod("b").may_bypass_waypoint && problems[0].contains("allow-waypoint-bypass"), "{problems:?}");
}
