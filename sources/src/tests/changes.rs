//! Whatever changes in whatever order: the updates lead to what the files say, and no update is superfluous.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::support::{Mesh, pod};
use crate::Options;
use crate::objects::kind::{Object, Shared};
use crate::objects::parse::parse;
use crate::objects::world::World;
use mesh::model::update::Update;

const A: &str = ", labels: {app: a}";

fn object(api: &str, kind: &str, metadata: &str, rest: &str) -> String {
    format!("---\napiVersion: {api}\nkind: {kind}\nmetadata: {{{metadata}}}\n{rest}\n")
}

fn aged(text: &str, day: u8) -> String {
    text.replace("metadata: {", &format!("metadata: {{creationTimestamp: '2026-01-0{day}T00:00:00Z', "))
}

fn moved(text: &str) -> String {
    format!("# moved\n\n{text}")
}

/// What each file may say.
pub(super) fn variants() -> Vec<Vec<String>> {
    [pods(), services(), policies(), gateways(), guards(), trespassers()].concat()
}

fn pods() -> Vec<Vec<String>> {
    let in_shop = |text: String| text.replace("metadata: {name", "metadata: {namespace: shop, name");
    let of_gateway = ", labels: {gateway.networking.k8s.io/gateway-name: wp}";
    let namespace = |labels: &str| object("v1", "Namespace", &format!("name: default, labels: {{{labels}}}"), "");
    let node =
        |zone: &str| object("v1", "Node", &format!("name: a, labels: {{topology.kubernetes.io/zone: {zone}}}"), "");
    vec![
        vec![
            pod("a", "10.0.0.1", A, ""),
            pod("a", "10.0.0.2", A, ""),
            pod("a", "10.0.0.1", "", ""),
            pod("c", "10.0.0.1", "", ""),
        ],
        vec![
            pod("b", "10.0.0.1", A, ""),
            aged(&pod("b", "10.0.0.1", A, ""), 1),
            pod("b", "10.0.0.3", "", ""),
            moved(&pod("b", "10.0.0.1", A, "")),
        ],
        vec![
            pod("a", "10.0.0.4", A, ""),
            aged(&pod("d", "10.0.0.1", "", ""), 2),
            in_shop(pod("a", "10.0.0.5", A, "")),
            in_shop(pod("s", "10.0.0.1", A, "")),
            in_shop(pod("s", "10.96.0.1", A, "")),
        ],
        vec![
            in_shop(pod("t", "10.0.0.1", A, "")),
            object("v1", "Node", "name: n", "status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}"),
            object("v1", "Node", "name: n", "status: {addresses: [{type: InternalIP, address: 10.96.0.1}]}"),
        ],
        vec![pod("w", "10.0.0.9", of_gateway, ""), pod("w", "10.0.0.8", of_gateway, ""), pod("w", "10.0.0.9", "", "")],
        vec![namespace("istio.io/dataplane-mode: ambient"), namespace("istio.io/use-waypoint: wp"), namespace("x: y")],
        vec![node("eu-1"), node("eu-2")],
    ]
}

fn services() -> Vec<Vec<String>> {
    let service = |name: &str, labels: &str, spec: &str| {
        object("v1", "Service", &format!("name: {name}, labels: {{{labels}}}"), &format!("spec: {spec}"))
    };
    let slice = |endpoints: &str| {
        object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "name: s, labels: {kubernetes.io/service-name: a}",
            &format!("addressType: IPv4\nports: [{{name: '', port: 7}}]\nendpoints: {endpoints}"),
        )
    };
    let entry = |name: &str, endpoint: &str| {
        object(
            "networking.istio.io/v1",
            "ServiceEntry",
            &format!("name: {name}"),
            &format!(
                "spec: {{hosts: [e.example.com], addresses: [10.96.0.1], resolution: STATIC, ports: [{{number: 80, name: http}}], \
                 endpoints: [{{address: {endpoint}}}, {{address: 192.0.2.1}}], workloadSelector: {{labels: {{app: a}}}}}}"
            ),
        )
    };
    let in_evil = |text: &str| text.replace("metadata: {name", "metadata: {namespace: evil, name");
    let plain = service("b", "", "{clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80}]}");
    vec![
        vec![
            service("a", "", "{clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80}]}"),
            service(
                "a",
                "istio.io/use-waypoint: none",
                "{clusterIP: 10.96.0.2, selector: {app: a}, ports: [{port: 81}]}",
            ),
            service("a", "gateway.networking.k8s.io/gateway-name: wp", "{clusterIP: None, selector: {app: b}}"),
        ],
        vec![
            service("c", "", "{clusterIP: 10.96.0.7, selector: {app: a}, ports: [{port: 80}]}"),
            service(
                "c",
                "istio.io/use-waypoint: wp",
                "{clusterIP: 10.96.0.8, selector: {app: a}, ports: [{port: 82}]}",
            ),
            service("c", "", "{type: ExternalName, externalName: c.example.com}"),
            moved(&service("c", "", "{clusterIP: 10.96.0.7, selector: {app: a}, ports: [{port: 80}]}")),
        ],
        vec![
            in_evil(&service("z", "", "{clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80}]}")),
            in_evil(&service("z", "", "{clusterIP: 10.0.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]}")),
            in_evil(&entry("z", "10.0.0.1")),
            in_evil(&entry("z", "10.96.0.1")),
        ],
        vec![plain.clone(), aged(&service("b", "", "{clusterIP: 10.96.0.1}"), 1), moved(&plain)],
        vec![
            slice("[{addresses: [10.0.0.1]}, {addresses: [192.0.2.1]}]"),
            slice("[{addresses: [10.0.0.1], targetRef: {kind: Pod, name: a}}, {addresses: [192.0.2.2]}]"),
            slice("[{addresses: [10.0.0.5], targetRef: {kind: Pod, name: a, namespace: shop}}]"),
        ],
        vec![entry("e", "10.0.0.1"), entry("e", "10.0.0.5")],
        vec![entry("f", "10.0.0.5"), aged(&entry("f", "10.0.0.2"), 1)],
    ]
}

fn policies() -> Vec<Vec<String>> {
    let policy = |kind: &str, namespace: &str, spec: &str| {
        object("security.istio.io/v1", kind, &format!("name: p, namespace: {namespace}"), &format!("spec: {spec}"))
    };
    let peer = |namespace: &str, spec: &str| policy("PeerAuthentication", namespace, spec);
    let access = |namespace: &str, spec: &str| policy("AuthorizationPolicy", namespace, spec);
    let of_a = "{selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: STRICT}}}";
    vec![
        vec![
            peer("default", "{mtls: {mode: STRICT}}"),
            peer("default", of_a),
            peer("istio-system", "{mtls: {mode: STRICT}}"),
        ],
        vec![peer("shop", of_a), peer("culvert-system", "{mtls: {mode: PERMISSIVE}}"), peer("culvert-system", of_a)],
        vec![
            access("default", "{}"),
            access("default", "{selector: {matchLabels: {app: a}}}"),
            access("istio-system", "{selector: {matchLabels: {app: a}}, rules: [{}]}"),
        ],
    ]
}

fn gateways() -> Vec<Vec<String>> {
    let gateway = |labels: &str, status: &str| {
        object(
            "gateway.networking.k8s.io/v1",
            "Gateway",
            &format!("name: wp, labels: {{{labels}}}"),
            &format!(
                "spec: {{gatewayClassName: special, listeners: [{{port: 15008, protocol: HBONE}}]}}\nstatus: {status}"
            ),
        )
    };
    let class = |controller: &str| {
        object(
            "gateway.networking.k8s.io/v1",
            "GatewayClass",
            "name: special",
            &format!("spec: {{controllerName: {controller}}}"),
        )
    };
    vec![
        vec![
            gateway("istio.io/waypoint-for: all", "{}"),
            gateway("", "{addresses: [{value: 10.0.0.9}]}"),
            gateway("istio.io/waypoint-for: workload", "{addresses: [{value: 10.0.0.8}]}"),
        ],
        vec![class("culvert.dev/waypoint"), class("example.com/other")],
    ]
}

/// What guards waypoints, and what says whether that closes a port.
fn guards() -> Vec<Vec<String>> {
    let security = |kind: &str, namespace: &str, target: &str| {
        let metadata = format!("name: g, namespace: {namespace}");
        object("security.istio.io/v1", kind, &metadata, &format!("spec: {{targetRefs: [{target}]}}"))
    };
    let (service, gateway) =
        ("{kind: Service, group: '', name: c}", "{kind: Gateway, group: gateway.networking.k8s.io, name: wp}");
    let class = "{kind: GatewayClass, group: gateway.networking.k8s.io, name: special}";
    let limit = |namespace: &str, spec: &str| {
        object(
            "culvert.dev/v1alpha1",
            "MeshPolicy",
            &format!("name: g, namespace: {namespace}"),
            &format!("spec: {spec}"),
        )
    };
    let namespace = |word: &str| {
        let metadata = format!("name: shop, annotations: {{culvert.dev/waypoint-enforcement: {word}}}");
        object("v1", "Namespace", &metadata, "")
    };
    let of_shop = |word: &str| {
        let metadata = format!(
            "name: h, namespace: shop, labels: {{istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: default, \
             culvert.dev/waypoint-enforcement: {word}}}"
        );
        object("v1", "Service", &metadata, "spec: {clusterIP: None, selector: {app: a}, ports: [{port: 80}]}")
    };
    vec![
        vec![
            security("AuthorizationPolicy", "default", service),
            security("AuthorizationPolicy", "default", gateway),
            security("AuthorizationPolicy", "istio-system", class),
            security("AuthorizationPolicy", "default", gateway)
                .replace("namespace: default", "namespace: default, annotations: {istio.io/dry-run: 'true'}"),
        ],
        vec![
            security("RequestAuthentication", "default", gateway),
            security("RequestAuthentication", "default", "{kind: 7}"),
            security("RequestAuthentication", "shop", service),
        ],
        vec![
            limit("default", "{rateLimit: {requestsPerSecond: 5}}"),
            limit("culvert-system", "{rateLimit: {requestsPerSecond: 5}}"),
            limit("culvert-system", "{retry: {attempts: 1}}"),
        ],
        vec![namespace("strict"), namespace("'off'"), namespace("policy")],
        vec![of_shop("strict"), of_shop("policy"), of_shop("'off'")],
    ]
}

/// What another namespace says about the pods and addresses of `default`.
fn trespassers() -> Vec<Vec<String>> {
    let slice = |endpoint: &str, labels: &str| {
        object(
            "v1",
            "Service",
            &format!("name: t, namespace: evil, labels: {{{labels}}}"),
            "spec: {clusterIP: 10.96.6.6}",
        ) + &object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "name: t, namespace: evil, labels: {kubernetes.io/service-name: t}",
            &format!("addressType: IPv4\nports: []\nendpoints: [{endpoint}]"),
        )
    };
    let gateway = |namespace: &str, address: &str| {
        object(
            "gateway.networking.k8s.io/v1",
            "Gateway",
            &format!("name: wp, namespace: {namespace}"),
            &format!("spec: {{gatewayClassName: istio-waypoint}}\nstatus: {{addresses: [{{{address}}}]}}"),
        )
    };
    vec![
        vec![
            slice("{addresses: [10.0.0.1]}", "gateway.networking.k8s.io/gateway-name: wp"),
            slice(
                "{addresses: [10.9.9.9], targetRef: {kind: Pod, name: a, namespace: default}}",
                "istio.io/use-waypoint: wp",
            ),
        ],
        vec![
            gateway("evil", "value: 10.0.0.1"),
            gateway("evil", "value: 10.96.0.7"),
            gateway("evil", "type: Hostname, value: c.default.svc.cluster.local"),
            gateway("istio-system", "value: 10.0.0.1"),
        ],
    ]
}

struct Files {
    world: World,
    shared: Shared,
    said: Vec<Vec<Object>>,
    mesh: Mesh,
}

impl Files {
    fn new(files: usize) -> Self {
        Self {
            world: World::new(Options::default()),
            shared: Shared::default(),
            said: vec![Vec::new(); files],
            mesh: Mesh::default(),
        }
    }

    fn say(&mut self, saying: &[(usize, &str)]) -> Vec<Update> {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for &(file, text) in saying {
            let path: Arc<Path> = Path::new(&format!("{file:02}.yaml")).into();
            let parsed = parse(&path, text, &mut self.shared);
            assert!(!parsed.is_broken(), "{:?}", parsed.problems);
            removed.append(&mut self.said[file]);
            added.extend(parsed.objects.iter().cloned());
            self.said[file] = parsed.objects;
        }
        self.world.change(&removed, &added)
    }

    /// Applies updates, of which each has to change something.
    fn apply(&mut self, updates: Vec<Update>) {
        for update in updates {
            let before = self.mesh.clone();
            let shown = format!("{update:?}");
            self.mesh.apply(vec![update]);
            assert!(before != self.mesh, "superfluous: {shown}");
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Vec<(usize, usize)>>> {
    let step = proptest::collection::btree_map(0..variants().len(), 0..6_usize, 1..4);
    proptest::collection::vec(step.prop_map(|step| step.into_iter().collect()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_series_of_changes_leads_to_what_the_files_say(steps in steps()) {
        let variants = variants();
        let mut files = Files::new(variants.len());
        let mut texts: Vec<&str> = vec![""; variants.len()];
        for step in steps {
            let saying: Vec<(usize, &str)> = step
                .into_iter()
                .map(|(file, variant)| (file, variants[file].get(variant).map_or("", String::as_str)))
                .collect();
            for &(file, text) in &saying {
                texts[file] = text;
            }
            let updates = files.say(&saying);
            files.apply(updates);

            // Who came first to an address decides between those who claim it, and only history knows.
            let mut fresh = Files { world: files.world.heir(), ..Files::new(variants.len()) };
            let all: Vec<(usize, &str)> = texts.iter().copied().enumerate().collect();
            let updates = fresh.say(&all);
            fresh.apply(updates);
            prop_assert_eq!(&files.mesh, &fresh.mesh);
            prop_assert_eq!(files.world.problems(), fresh.world.problems());
        }
    }
}

#[test]
fn a_change_of_one_pod_is_one_update() {
    let variants = variants();
    let mut files = Files::new(variants.len());
    let all: Vec<(usize, &str)> =
        variants.iter().enumerate().map(|(file, variants)| (file, variants[0].as_str())).collect();
    files.say(&all);
    files.say(&[(5, &variants[5][1])]);
    assert_eq!(files.say(&[(0, &variants[0][0])]).len(), 0);
    assert_eq!(files.say(&[(0, &format!("# moved\n\n{}", variants[0][0]))]).len(), 0);
    assert_eq!(
        files.say(&[(4, &variants[4][0].replace("10.0.0.9", "10.0.0.77"))]).len(),
        1,
        "the waypoint's pod: who use it know its service, not its pods"
    );
    let longer = variants[0][0].replace("nodeName: a", "nodeName: b");
    assert_eq!(files.say(&[(0, &longer)]).len(), 1);
}
