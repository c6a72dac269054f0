//! Service, EndpointSlice, ServiceEntry -> Service, and whose endpoints are whose.

use super::support::{Mesh, accepted, load, mesh, pod};
use mesh::model::service::{BalanceMode, Scope, Service};
use mesh::model::workload::{Health, Workload};

const SELECTED: &str = ", labels: {app: shop}";

fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\n\
         ports: {ports}\nendpoints: {endpoints}\n"
    )
}

/// Host name, and service port -> target port, of every service that a workload is an endpoint of.
fn endpoints(mesh: &Mesh, workload: &str) -> Vec<(String, Vec<(u16, u16)>)> {
    let workload = &mesh.workloads[workload];
    let ports = |ports: &[mesh::model::service::ServicePort]| {
        ports.iter().map(|port| (port.service_port, port.target_port)).collect()
    };
    workload.services.iter().map(|service| (service.service.hostname.to_string(), ports(&service.ports))).collect()
}

fn vips(service: &Service) -> Vec<String> {
    service.vips.iter().map(|vip| format!("{vip:?}")).collect()
}

#[test]
fn every_address_of_a_service_is_one_of_its_vips() {
    for (spec, status, expected) in [
        ("{clusterIP: 10.96.0.1}", "{}", &["Address(10.96.0.1)"][..]),
        (
            "{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1']}",
            "{}",
            &["Address(10.96.0.1)", "Address(fd00::1)"],
        ),
        ("{clusterIP: None, clusterIPs: [None]}", "{}", &[]),
        (
            "{type: LoadBalancer, clusterIP: 10.96.0.1, externalIPs: [192.0.2.7]}",
            "{loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: lb.example.com}]}}",
            &["Address(10.96.0.1)", "External(192.0.2.1)", "External(192.0.2.7)"],
        ),
        ("{}", "{}", &[]),
    ] {
        let text = format!("{}status: {status}\n", service("shop", spec));
        let mesh = accepted(&text);
        assert_eq!(vips(mesh.service("shop")), expected, "{spec}");
    }
}

#[test]
fn an_external_name_is_nothing_for_the_mesh() {
    let mesh = mesh(&service("shop", "{type: ExternalName, externalName: example.com}"));
    assert!(mesh.services.is_empty());
}

#[test]
fn pods_are_endpoints_of_the_services_that_select_them() {
    let mesh = mesh(
        &[
            service("shop", "{clusterIP: 10.96.0.1, selector: {app: shop}, ports: [{port: 80, targetPort: 8080}]}"),
            service("shop-v2", "{clusterIP: 10.96.0.2, selector: {app: shop, version: v2}, ports: [{port: 81}]}"),
            service("all", "{clusterIP: None, selector: {app: shop}}"),
            pod("a", "10.0.0.1", SELECTED, ""),
            pod("b", "10.0.0.2", ", labels: {app: shop, version: v2}", ""),
            pod("c", "10.0.0.3", ", labels: {app: cart}", ""),
        ]
        .concat(),
    );
    let all = || ("all.default.svc.cluster.local".to_owned(), vec![]);
    let shop = || ("shop.default.svc.cluster.local".to_owned(), vec![(80, 8080)]);
    let v2 = ("shop-v2.default.svc.cluster.local".to_owned(), vec![(81, 81)]);
    assert_eq!(endpoints(&mesh, "Kubernetes//Pod/default/a"), [all(), shop()]);
    assert_eq!(endpoints(&mesh, "Kubernetes//Pod/default/b"), [all(), v2, shop()]);
    assert_eq!(endpoints(&mesh, "Kubernetes//Pod/default/c"), []);
}

#[test]
fn a_named_target_port_is_looked_up_on_each_pod() {
    let containers = |port: u16| {
        format!(
            ", containers: [{{name: app, ports: [{{name: web, containerPort: {port}}}, {{containerPort: 1}}]}}], \
             initContainers: [{{name: i, ports: [{{name: adm, containerPort: 7}}]}}, \
             {{name: s, restartPolicy: Always, ports: [{{name: met, containerPort: 9}}]}}]"
        )
    };
    let mesh = mesh(
        &[
            service(
                "shop",
                "{clusterIP: 10.96.0.1, selector: {app: shop}, ports: [{name: http, port: 80, targetPort: web}, \
             {name: met, port: 90, targetPort: met}, {name: adm, port: 70, targetPort: adm}, \
             {name: dns, port: 53, protocol: UDP}]}",
            ),
            pod("a", "10.0.0.1", SELECTED, &containers(8080)),
            pod("b", "10.0.0.2", SELECTED, &containers(9090)),
        ]
        .concat(),
    );
    let published: Vec<_> =
        mesh.service("shop").ports.iter().map(|port| (port.service_port, port.target_port)).collect();
    assert_eq!(published, [(80, 0), (90, 0), (70, 0)]);
    assert_eq!(endpoints(&mesh, "Kubernetes//Pod/default/a")[0].1, [(80, 8080), (90, 9)]);
    assert_eq!(endpoints(&mesh, "Kubernetes//Pod/default/b")[0].1, [(80, 9090), (90, 9)]);
}

#[test]
fn traffic_policies_become_a_preference() {
    use Scope::{Network, Node, Region, Subzone, Zone};
    for (spec, mode, preference, unhealthy) in [
        ("{}", BalanceMode::Any, &[][..], false),
        ("{internalTrafficPolicy: Cluster}", BalanceMode::Any, &[], false),
        ("{internalTrafficPolicy: Local}", BalanceMode::Strict, &[Node], false),
        ("{trafficDistribution: PreferClose}", BalanceMode::Failover, &[Network, Region, Zone], false),
        ("{trafficDistribution: PreferSameZone}", BalanceMode::Failover, &[Network, Region, Zone], false),
        (
            "{trafficDistribution: PreferSameNode}",
            BalanceMode::Failover,
            &[Network, Region, Zone, Subzone, Node],
            false,
        ),
        ("{publishNotReadyAddresses: true}", BalanceMode::Any, &[], true),
    ] {
        let mesh = accepted(&service("shop", spec));
        let balancing = &mesh.service("shop").load_balancing;
        assert_eq!(
            (balancing.mode, &*balancing.routing_preference, balancing.allow_unhealthy),
            (mode, preference, unhealthy)
        );
    }
}

#[test]
fn endpoint_slices_count_instead_of_the_selector() {
    let mesh = mesh(&[
        service("shop", "{clusterIP: 10.96.0.1, selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}"),
        slice(
            "shop-1",
            "shop",
            "[{name: http, port: 8081}]",
            "[{addresses: [10.0.0.2], targetRef: {kind: Pod, name: b, namespace: default}}, {addresses: [10.0.0.3]}, \
             {addresses: [192.0.2.1], conditions: {ready: true}, zone: eu-1, nodeName: n}, \
             {addresses: [192.0.2.2], conditions: {ready: false}}]",
        ),
        slice("shop-2", "shop", "[{name: other, port: 1}]", "[{addresses: [192.0.2.1]}]"),
        pod("a", "10.0.0.1", SELECTED, ""),
        pod("b", "10.0.0.2", "", ""),
        pod("c", "10.0.0.3", "", ""),
    ]
    .concat());
    let shop = [("shop.default.svc.cluster.local".to_owned(), vec![(80, 8081)])];
    let foreign = "Kubernetes/discovery.k8s.io/EndpointSlice/default/shop-1/192.0.2.1";
    assert_eq!(mesh.workloads.len(), 4, "{:?}", mesh.workloads.keys());
    assert_eq!(endpoints(&mesh, "Kubernetes//Pod/default/a"), []);
    assert_eq!(endpoints(&mesh, "Kubernetes//Pod/default/b"), shop);
    assert_eq!(endpoints(&mesh, "Kubernetes//Pod/default/c"), shop);
    assert_eq!(endpoints(&mesh, foreign), shop);
    let workload = &mesh.workloads[foreign];
    assert!(!workload.is_enrolled());
    assert_eq!(workload.health, Health::Healthy);
    assert_eq!(workload.locality.as_ref().map(|locality| locality.zone.as_str()), Some("eu-1"));
}

#[test]
fn a_slice_says_of_its_service_alone_who_is_ready() {
    let ports = "[{name: http, port: 8080}]";
    let both = |name: &str| {
        service(
            name,
            "{clusterIP: 10.96.0.1, selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}",
        )
    };
    let endpoint = |address: &str, name: &str, conditions: &str| {
        format!("{{addresses: [{address}], conditions: {{{conditions}}}, targetRef: {{kind: Pod, name: {name}}}}}")
    };
    let listed = [
        endpoint("10.0.0.1", "a", "ready: false, serving: true, terminating: true"),
        endpoint("10.0.0.2", "b", "ready: false, serving: false, terminating: true"),
        endpoint("10.0.0.3", "c", "ready: true"),
        "{addresses: [192.0.2.1], conditions: {ready: false, serving: true, terminating: true}}".to_owned(),
    ];
    let ends = "{type: Ready, status: 'False'}";
    let mesh = mesh(
        &[
            both("sliced"),
            both("selecting").replace("10.96.0.1", "10.96.0.2"),
            slice("sliced-1", "sliced", ports, &format!("[{}]", listed.join(", "))),
            // What says the same of another family is not a second opinion.
            slice("sliced-2", "sliced", ports, &format!("[{}]", endpoint("10.0.0.1", "a", "ready: false"))),
            pod("a", "10.0.0.1", SELECTED, ""),
            pod("b", "10.0.0.2", SELECTED, ""),
            pod("c", "10.0.0.3", SELECTED, "").replace("status: {", &format!("status: {{conditions: [{ends}], ")),
        ]
        .concat(),
    );
    let health = |workload: &Workload, name: &str| {
        let hostname = format!("{name}.default.svc.cluster.local");
        let served = workload.services.iter().find(|served| *served.service.hostname == *hostname);
        served.map(|served| served.health)
    };
    use Health::{Healthy, Terminating, Unhealthy};
    for (name, sliced, selecting) in
        [("a", Some(Terminating), Some(Healthy)), ("b", None, Some(Healthy)), ("c", Some(Healthy), Some(Unhealthy))]
    {
        assert_eq!(health(mesh.pod(name), "sliced"), sliced, "{name}");
        assert_eq!(health(mesh.pod(name), "selecting"), selecting, "{name}");
    }
    let foreign = &mesh.workloads["Kubernetes/discovery.k8s.io/EndpointSlice/default/sliced-1/192.0.2.1"];
    assert_eq!(health(foreign, "sliced"), Some(Terminating));
}

#[test]
fn the_oldest_service_of_a_namespace_keeps_an_address_that_two_claim() {
    let claim = |name: &str, created: &str| {
        service(name, "{clusterIP: 10.96.0.1}")
            .replace("metadata: {", &format!("metadata: {{creationTimestamp: {created}, "))
    };
    let text = claim("young", "2026-01-02T00:00:00Z") + &claim("old", "2026-01-01T00:00:00Z");
    let (mesh, problems) = load(&text);
    assert_eq!(vips(mesh.service("old")), ["Address(10.96.0.1)"]);
    assert_eq!(vips(mesh.service("young")), [""; 0]);
    assert!(
        problems.contains(
            &"mesh.yaml:2: Service default/young: spec.clusterIP: 10.96.0.1 belongs to Service default/old, which keeps it: \
              between namespaces neither age nor files prove anything"
                .to_owned()
        ),
        "{problems:?}"
    );
}

#[test]
fn a_service_without_endpoints_is_a_warning() {
    let (_, problems) = load(&service("shop", "{clusterIP: 10.96.0.1, selector: {app: shop}}"));
    assert_eq!(
        problems,
        ["mesh.yaml:2: Service default/shop: has no endpoints: no Pod that is part of the mesh is selected, and no \
          EndpointSlice names one"]
    );
}

#[test]
fn a_service_entry_is_a_service_with_endpoints_of_its_own() {
    let entry = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let mesh = mesh(&[
        entry(
            "db",
            "{hosts: [db.example.com], addresses: [240.0.0.1, 192.0.2.0/24], location: MESH_EXTERNAL, resolution: STATIC, \
             ports: [{number: 5432, name: tcp, protocol: TCP}], subjectAltNames: ['spiffe://cluster.local/ns/db/sa/db'], \
             endpoints: [{address: 192.0.2.9, ports: {tcp: 15432}, weight: 3}, {address: 10.0.0.1}], \
             workloadSelector: {labels: {app: db}}}",
        ),
        entry("any", "{hosts: [any.example.com], addresses: [198.51.100.0/24], ports: [{number: 443, name: tls}]}"),
        pod("a", "10.0.0.1", "", ""),
        pod("b", "10.0.0.2", ", labels: {app: db}", ""),
    ]
    .concat());
    let db = &mesh.services["default/db.example.com"];
    assert_eq!(vips(db), ["External(240.0.0.1)", "Range(192.0.2.0/24)"]);
    assert!(!db.canonical);
    assert_eq!(db.subject_alt_names.len(), 1);
    assert_eq!(mesh.services["default/any.example.com"].load_balancing.mode, BalanceMode::Passthrough);
    let foreign = "Kubernetes/networking.istio.io/ServiceEntry/default/db/192.0.2.9";
    assert_eq!(endpoints(&mesh, foreign), [("db.example.com".to_owned(), vec![(5432, 15432)])]);
    assert_eq!(mesh.workloads[foreign].capacity, 3);
    for pod in ["a", "b"] {
        let expected = [("db.example.com".to_owned(), vec![(5432, 5432)])];
        assert_eq!(endpoints(&mesh, &format!("Kubernetes//Pod/default/{pod}")), expected, "{pod}");
    }
    assert_eq!(mesh.workloads.len(), 3);
}
