//! What objects of one namespace say about the pods of another: it is not done, and it is told.

use super::support::{Mesh, load};
use mesh::model::workload::Workload;

/// `bank/vault` at 10.0.0.5, enrolled, STRICT, behind no waypoint; its service is `bank/vault`.
const BANK: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: vault, namespace: bank, labels: {app: vault, istio.io/dataplane-mode: ambient}}
spec: {nodeName: a}
status: {podIP: 10.0.0.5}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: bank}
spec: {clusterIP: 10.96.0.5, selector: {app: vault}, ports: [{port: 80}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: bank}
spec: {mtls: {mode: STRICT}}
";

fn gateway(namespace: &str, status: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: wp, namespace: {namespace}}}\n\
         spec: {{gatewayClassName: culvert-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n\
         status: {{addresses: {status}}}\n"
    )
}

/// A service of namespace `evil` whose slice has `endpoint`.
fn endpoint(namespace: &str, labels: &str, endpoint: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: trap, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{clusterIP: 10.96.6.6, ports: [{{name: hbone, port: 15008}}, {{name: web, port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: trap, namespace: {namespace}, labels: {{kubernetes.io/service-name: trap}}}}\n\
         addressType: IPv4\nports: [{{name: hbone, port: 15008}}, {{name: web, port: 8080}}]\nendpoints: [{{{endpoint}}}]\n"
    )
}

fn vault(mesh: &Mesh) -> &Workload {
    &mesh.workloads["Kubernetes//Pod/bank/vault"]
}

#[test]
fn nobody_makes_another_namespaces_pod_an_instance_of_a_waypoint() {
    let of_gateway = "gateway.networking.k8s.io/gateway-name: wp";
    let slice = |of: &str, text: &str| gateway(of, "[]") + &endpoint(of, of_gateway, text);
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: evil}\n\
                 spec: {hosts: [e.example.com], resolution: STATIC, ports: [{number: 15008, name: tcp}], \
                 endpoints: [{address: 10.0.0.5}]}\n";
    for (how, objects, who) in [
        ("a slice", slice("evil", "addresses: [10.0.0.5]"), "EndpointSlice evil/trap"),
        (
            "a slice that names the pod",
            slice("evil", "addresses: [10.9.9.9], targetRef: {kind: Pod, name: vault, namespace: bank}"),
            "EndpointSlice evil/trap",
        ),
        ("its address", gateway("evil", "[{value: 10.0.0.5}]"), "Gateway evil/wp"),
        ("its service's address", gateway("evil", "[{value: 10.96.0.5}]"), "Gateway evil/wp"),
        (
            "its service's name",
            gateway("evil", "[{type: Hostname, value: vault.bank.svc.cluster.local}]"),
            "Gateway evil/wp",
        ),
        ("a ServiceEntry", gateway("evil", "[{type: Hostname, value: e.example.com}]") + entry, "ServiceEntry evil/e"),
    ] {
        let (mesh, problems) = load(&(BANK.to_owned() + &objects));
        assert!(vault(&mesh).is_enrolled(), "by {how}");
        assert_eq!(vault(&mesh).policies.len(), 1, "STRICT");
        let told = problems
            .iter()
            .any(|problem| problem.contains(who) && problem.contains("bank") && problem.contains("root namespace"));
        assert!(told, "by {how}: {problems:#?}");
    }
}

#[test]
fn a_root_namespace_and_its_own_may_make_a_pod_an_instance_of_a_waypoint() {
    let of_gateway = "gateway.networking.k8s.io/gateway-name: wp";
    for namespace in ["bank", "culvert-system", "istio-system"] {
        for objects in [
            gateway(namespace, "[]") + &endpoint(namespace, of_gateway, "addresses: [10.0.0.5]"),
            gateway(namespace, "[{value: 10.0.0.5}]"),
            gateway(namespace, "[{type: Hostname, value: vault.bank.svc.cluster.local}]"),
        ] {
            let (mesh, problems) = load(&(BANK.to_owned() + &objects));
            assert!(vault(&mesh).native_tunnel && !vault(&mesh).is_enrolled(), "{namespace}: {objects} {problems:?}");
            assert!(!problems.iter().any(|problem| problem.contains("root namespace")), "{problems:?}");
        }
    }
}

#[test]
fn a_gateway_at_another_namespaces_address_is_closed_for_those_who_use_it() {
    let user = "---\napiVersion: v1\nkind: Service\n\
                metadata: {name: shop, namespace: evil, labels: {istio.io/use-waypoint: wp}}\nspec: {clusterIP: 10.96.0.7}\n";
    for status in
        ["[{value: 10.0.0.5}]", "[{value: 10.96.0.5}]", "[{type: Hostname, value: vault.bank.svc.cluster.local}]"]
    {
        let (mesh, problems) = load(&[BANK, &gateway("evil", status), user].concat());
        let waypoint = mesh.services["evil/shop.evil.svc.cluster.local"].waypoint.as_ref().unwrap();
        assert_eq!(waypoint.destination, None, "{status}");
        let closed =
            problems.iter().find(|problem| problem.contains("Service evil/shop: waypoint evil/wp cannot be used"));
        assert!(closed.is_some_and(|problem| problem.contains("bank")), "{problems:#?}");
    }
}

#[test]
fn who_claims_an_address_last_does_not_close_the_gateway_that_has_it() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: wp, namespace: shop}\nspec: {nodeName: a}\n\
               status: {podIP: 10.0.0.9}\n";
    let claim = "---\napiVersion: v1\nkind: Service\nmetadata: {name: claim, namespace: evil}\n\
                 spec: {clusterIP: 10.0.0.9, ports: [{port: 15008}]}\n";
    let (mesh, _) = load(&[pod, &gateway("shop", "[{value: 10.0.0.9}]"), claim].concat());
    assert!(mesh.workloads["Kubernetes//Pod/shop/wp"].native_tunnel);
}

#[test]
fn an_endpoint_of_another_namespace_says_what_it_does_not_change() {
    let through = gateway("evil", "[]") + &endpoint("evil", "istio.io/use-waypoint: wp", "addresses: [10.0.0.5]");
    let nowhere = endpoint("evil", "istio.io/use-waypoint: nothere", "addresses: [10.0.0.5]");
    let plain = endpoint("evil", "", "addresses: [10.0.0.5]");
    let behind = BANK.replace("ambient}", "ambient, istio.io/use-waypoint: own}")
        + &gateway("bank", "[]").replace("name: wp,", "name: own, labels: {istio.io/waypoint-for: workload},");
    for (how, bank, objects, what) in [
        ("through a waypoint of its own", BANK, &through, "does not stand behind waypoint evil/wp"),
        ("through one that is not there", BANK, &nowhere, "does not stand behind waypoint evil/nothere"),
        ("past the pod's", &behind, &plain, "stays behind waypoint bank/own"),
    ] {
        let (mesh, problems) = load(&(bank.to_owned() + objects));
        let told: Vec<_> = problems.iter().filter(|problem| problem.contains("EndpointSlice evil/trap")).collect();
        assert!(
            told.len() == 1 && told[0].contains("Pod bank/vault") && told[0].contains(what),
            "{how}: {problems:#?}"
        );
        assert!(!mesh.services["evil/trap.evil.svc.cluster.local"].reach.root);
        assert!(vault(&mesh).services.iter().any(|served| &*served.service.namespace == "evil"), "it does get traffic");
    }
    let (_, problems) = load(&(BANK.to_owned() + &plain));
    assert!(!problems.iter().any(|problem| problem.contains("evil/trap")), "nothing to say: {problems:?}");
}
