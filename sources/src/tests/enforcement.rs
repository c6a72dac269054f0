//! Which ports behind a waypoint are closed to what did not come through it: by what guards the waypoint, and by who
//! says so.

use super::support::{Mesh, load, pod};
use mesh::model::waypoint::{Enforcement, EnforcementMode};

const GATEWAY: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, LABELS}
spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{value: 10.0.0.9}]}
";
const NAMESPACE: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, LABELS}\n";

/// Headless service `shop` and pod `a` behind it, both behind waypoint `wp`, with labels or annotations for each of
/// service, pod, namespace and Gateway.
fn scene([service, pod_meta, namespace, gateway]: [&str; 4], more: &str) -> (Mesh, Vec<String>) {
    let all = |text: &str, meta: &str| {
        text.replace(", LABELS", &(if meta.is_empty() { String::new() } else { format!(", {meta}") }))
    };
    let service = match service {
        "" => "labels: {istio.io/use-waypoint: wp}".to_owned(),
        said => format!("labels: {{istio.io/use-waypoint: wp}}, annotations: {{{said}}}"),
    };
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: shop, {service}}}\n\
         spec: {{clusterIP: None, selector: {{app: a}}, ports: [{{port: 80}}]}}\n"
    );
    let labels = format!(", labels: {{app: a, istio.io/use-waypoint: wp, istio.io/dataplane-mode: ambient{pod_meta}}}");
    let text = [&service, &pod("a", "10.0.0.1", &labels, ""), &all(NAMESPACE, namespace), &all(GATEWAY, gateway), more];
    load(&text.concat())
}

fn of_service(mesh: &Mesh) -> Enforcement {
    mesh.service("shop").waypoint.as_ref().unwrap().enforcement.clone()
}

fn policy(kind: &str, namespace: &str, annotations: &str, target: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: {kind}\n\
         metadata: {{name: g, namespace: {namespace}, annotations: {{{annotations}}}}}\nspec: {{targetRefs: [{{{target}}}]}}\n"
    )
}

fn limit(namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: g, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n"
    )
}

#[test]
fn a_port_is_closed_when_something_at_its_waypoint_guards_it() {
    let service = "kind: Service, group: '', name: shop";
    let other = "kind: Service, group: '', name: other";
    let entry = "kind: ServiceEntry, group: networking.istio.io, name: shop";
    let gateway = "kind: Gateway, group: gateway.networking.k8s.io, name: wp";
    let class = "kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint";
    let route = "kind: HTTPRoute, group: gateway.networking.k8s.io, name: shop";
    let (access, tokens) = ("AuthorizationPolicy", "RequestAuthentication");
    let rate = "rateLimit: {requestsPerSecond: 5}";
    for (what, object, guard) in [
        ("nothing", String::new(), None),
        ("a policy on the service", policy(access, "default", "", service), Some("AuthorizationPolicy default/g")),
        ("one on another", policy(access, "default", "", other), None),
        ("one on an entry of the name", policy(access, "default", "", entry), Some("AuthorizationPolicy default/g")),
        ("one on the Gateway", policy(access, "default", "", gateway), Some("AuthorizationPolicy default/g")),
        ("one of another namespace on the service", policy(access, "evil", "", service), None),
        ("one that reaches over", policy(access, "evil", "", &format!("{service}, namespace: default")), None),
        ("one on the class", policy(access, "culvert-system", "", class), Some("AuthorizationPolicy culvert-system/g")),
        ("one on the class by a tenant", policy(access, "default", "", class), None),
        ("one on a route", policy(access, "default", "", route), None),
        ("one that is tried", policy(access, "default", "istio.io/dry-run: 'true'", service), None),
        ("one that is tried, in Go's words", policy(access, "default", "istio.io/dry-run: '1'", service), None),
        (
            "one that is not",
            policy(access, "default", "istio.io/dry-run: 'yes'", service),
            Some("AuthorizationPolicy default/g"),
        ),
        ("tokens", policy(tokens, "default", "", service), Some("RequestAuthentication default/g")),
        ("tokens at the Gateway", policy(tokens, "default", "", gateway), Some("RequestAuthentication default/g")),
        ("a target nobody can read", policy(tokens, "default", "", "kind: 7"), Some("RequestAuthentication default/g")),
        ("a limit of the namespace", limit("default", rate), Some("MeshPolicy default/g")),
        ("a limit of the mesh", limit("istio-system", rate), Some("MeshPolicy istio-system/g")),
        ("a limit elsewhere", limit("evil", rate), None),
        (
            "a limit on the service",
            limit("default", &format!("{rate}, targetRefs: [{{{service}}}]")),
            Some("MeshPolicy default/g"),
        ),
        ("a limit on another", limit("default", &format!("{rate}, targetRefs: [{{{other}}}]")), None),
        (
            "a limit by a root",
            limit("culvert-system", &format!("{rate}, targetRefs: [{{{service}, namespace: default}}]")),
            Some("MeshPolicy culvert-system/g"),
        ),
        (
            "a limit by another",
            limit("evil", &format!("{rate}, targetRefs: [{{{service}, namespace: default}}]")),
            None,
        ),
        ("a limit on a route", limit("default", &format!("{rate}, targetRefs: [{{{route}}}]")), None),
        ("no limit", limit("default", "retry: {attempts: 2}"), None),
    ] {
        let (mesh, _) = scene([""; 4], &object);
        let expected = guard.map_or(Enforcement::Unguarded, |guard| Enforcement::Guarded(guard.into()));
        assert_eq!(of_service(&mesh), expected, "{what}");
    }
}

#[test]
fn what_guards_a_service_guards_no_workload_and_what_guards_the_gateway_both() {
    let all = "labels: {istio.io/waypoint-for: all}";
    let of = |target: &str| {
        let (mesh, _) = scene(["", "", "", all], &policy("AuthorizationPolicy", "default", "", target));
        [of_service(&mesh).is_closed(), mesh.pod("a").waypoint.as_ref().unwrap().enforcement.is_closed()]
    };
    assert_eq!(of("kind: Service, group: '', name: shop"), [true, false]);
    assert_eq!(of("kind: Gateway, group: gateway.networking.k8s.io, name: wp"), [true, true]);
}

#[test]
fn a_word_counts_wherever_it_stands_and_the_closest_first() {
    let said = |word: &str| format!("culvert.dev/waypoint-enforcement: '{word}'");
    let labelled = |word: &str| format!("labels: {{{}}}", said(word));
    let noted = |word: &str| format!("annotations: {{{}}}", said(word));
    for (words, expected) in [
        ([&said("strict"), "", "", ""], Enforcement::Strict("Service default/shop".into())),
        (["", "", &labelled("strict"), ""], Enforcement::Strict("Namespace default".into())),
        (["", "", &noted("strict"), ""], Enforcement::Strict("Namespace default".into())),
        (["", "", "", &noted("strict")], Enforcement::Strict("Gateway default/wp".into())),
        ([&said("off"), "", &labelled("strict"), ""], Enforcement::Off("Service default/shop".into())),
        ([&said("policy"), "", &labelled("strict"), ""], Enforcement::Unguarded),
        ([&said("of"), "", "", ""], Enforcement::Strict("Service default/shop".into())),
    ] {
        let (mesh, problems) = scene(words.map(|word| word), "");
        assert_eq!(of_service(&mesh), expected, "{words:?} {problems:?}");
    }
    let (_, problems) = scene([&said("of"), "", "", ""], "");
    let told = "\"of\" must be one of policy, strict, off; strict is assumed";
    assert!(problems.iter().any(|problem| problem.contains(told)), "{problems:?}");
    for (word, bypass, strict) in [("'off'", true, false), ("strict", false, true), ("policy", false, false)] {
        let (mesh, _) = scene(["", &format!(", culvert.dev/waypoint-enforcement: {word}"), "", ""], "");
        let pod = mesh.pod("a");
        assert_eq!((pod.may_bypass_waypoint, pod.strict_waypoint), (bypass, strict), "{word}");
    }
}

#[test]
fn the_gateway_of_another_namespace_opens_nothing() {
    let gateway = |namespace: &str, word: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
             metadata: {{name: far, namespace: {namespace}, annotations: {{culvert.dev/waypoint-enforcement: '{word}'}}}}\n\
             spec: {{gatewayClassName: culvert-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, \
             allowedRoutes: {{namespaces: {{from: All}}}}}}]}}\n"
        )
    };
    let guard = policy("AuthorizationPolicy", "default", "", "kind: Service, group: '', name: shop");
    for (namespace, word, closed) in
        [("infra", "off", true), ("infra", "strict", true), ("culvert-system", "off", false)]
    {
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: shop, labels: {{istio.io/use-waypoint: far, \
             istio.io/use-waypoint-namespace: {namespace}}}}}\nspec: {{clusterIP: 10.96.0.1}}\n"
        );
        let (mesh, _) = load(&[service.as_str(), &guard, &gateway(namespace, word)].concat());
        assert_eq!(of_service(&mesh).is_closed(), closed, "{namespace} {word}");
    }
}

#[test]
fn a_headless_service_whose_pods_are_closed_is_told() {
    let guard = policy("AuthorizationPolicy", "default", "", "kind: Service, group: '', name: shop");
    let told =
        |(_, problems): (Mesh, Vec<String>)| problems.into_iter().find(|problem| problem.contains("is headless"));
    let problem = told(scene([""; 4], &guard)).unwrap();
    for part in [
        "Service default/shop",
        "waypoint default/wp (AuthorizationPolicy default/g guards it)",
        "clusterIP",
        "culvert.dev/waypoint-enforcement: off",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(told(scene([""; 4], "")), None, "nothing guards it");
    assert_eq!(told(scene(["culvert.dev/waypoint-enforcement: 'off'", "", "", ""], &guard)), None);
    assert_eq!(told(scene(["", ", culvert.dev/waypoint-enforcement: 'off'", "", ""], &guard)), None, "the pod is open");
    let all = "labels: {istio.io/waypoint-for: all}";
    assert_eq!(told(scene(["", "", "", all], &guard)), None, "calls of the pods go through the same waypoint");
}

#[test]
fn a_policy_that_cannot_be_read_goes_on_guarding() {
    let unreadable = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: g}\n\
                      spec: {rulez: [], targetRefs: [{kind: Service, group: '', name: shop}]}\n";
    let metadata = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: g, labels: 7}\n\
                    spec: {targetRefs: [{kind: Service, group: '', name: shop}]}\n";
    let no_yaml = "---\napiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata:\n  name: g\nspec: [}\n";
    for (object, who) in [
        (unreadable, "AuthorizationPolicy default/g"),
        (metadata, "RequestAuthentication default/g"),
        (no_yaml, "MeshPolicy default/g"),
    ] {
        let (mesh, problems) = scene([""; 4], object);
        assert_eq!(of_service(&mesh), Enforcement::Guarded(who.into()), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("a guard of what stands behind")), "{problems:?}");
    }
}

#[test]
fn the_words_are_three() {
    for (text, mode) in
        [("policy", EnforcementMode::Policy), ("strict", EnforcementMode::Strict), ("off", EnforcementMode::Off)]
    {
        assert_eq!(text.parse(), Ok(mode));
        assert_eq!(mode.as_str(), text);
    }
    assert!("Strict".parse::<EnforcementMode>().is_err());
}
