//! `culvert-waypoint check` and `explain`, as a user calls them.

use std::path::Path;

use serde_json::Value;

use super::programs;
use super::rig::{policy, route, service, shop};

fn waypoint(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = programs::command(env!("CARGO_BIN_EXE_culvert-waypoint")).unwrap();
    let out = command.arg(arguments[0]).arg("-f").arg(dir).args(&arguments[1..]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn directory(manifests: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("all.yaml"), manifests.replace("$NET", "10.7.1")).unwrap();
    dir
}

const GOOD: &str = "[{name: first, timeouts: {request: 3s}, backendRefs: [{name: shop, port: 80}]}]";

#[test]
fn good_manifests_check_well() {
    let dir = directory(&(shop("http", &[11]) + &route(GOOD) + &policy("{retry: {attempts: 4}}")));
    let (code, text, errors) = waypoint(dir.path(), &["check"]);
    assert_eq!(code, Some(0), "{text}{errors}");
    assert!(text.contains("√ HTTPRoute default/r") && text.contains("Accepted=True"), "{text}");
    let (code, text, _) = waypoint(dir.path(), &["check", "-o", "json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)));
}

#[test]
fn ports_on_which_no_server_speaks_first_are_named() {
    let note = "‼ Service default/shop port 80: appProtocol is not declared";
    let security = |kind: &str, spec: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: s, namespace: default}}\nspec: {{targetRefs: [{{group: '', kind: Service, name: shop}}], {spec}}}\n"
        )
    };
    let of_connections = security("AuthorizationPolicy", "rules: [{from: [{source: {namespaces: [default]}}]}]");
    let of_requests = security("AuthorizationPolicy", "rules: [{to: [{operation: {methods: [GET]}}]}]");
    for (protocol, more, named) in [
        ("undeclared", route(GOOD), true),
        ("undeclared", of_requests.clone(), true),
        ("undeclared", policy("{rateLimit: {requestsPerSecond: 5, burst: 5}}"), true),
        ("undeclared", of_connections, false),
        ("undeclared", String::new(), false),
        ("http", route(GOOD) + &of_requests, false),
    ] {
        let dir = directory(&(shop(protocol, &[11]) + &more));
        let (code, text, errors) = waypoint(dir.path(), &["check"]);
        assert_eq!((code, text.contains(note)), (Some(0), named), "{more}\n{text}{errors}");
    }
}

#[test]
fn each_wrong_object_gets_its_condition_and_message() {
    let security = |kind: &str, spec: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: s, namespace: default}}\nspec: {spec}\n"
        )
    };
    let other = |kind: &str, group: &str| {
        format!("---\napiVersion: {group}\nkind: {kind}\nmetadata: {{name: o, namespace: default}}\nspec: {{}}\n")
    };
    for (manifest, kind, expected) in [
        (
            route("[{backendRefs: [{name: absent, port: 80}]}]"),
            "HTTPRoute",
            "ResolvedRefs=False BackendNotFound: there is no Service default/absent",
        ),
        (route("[{backendRefs: [{kind: Disk, name: shop, port: 80}]}]"), "HTTPRoute", "ResolvedRefs=False InvalidKind"),
        (
            route(GOOD).replace("name: shop}]", "name: shop, port: 99}]"),
            "HTTPRoute",
            "Accepted=False NoMatchingParent: Service default/shop has no port 99",
        ),
        (route(GOOD).replace("name: shop}]", "name: nobody}]"), "HTTPRoute", "Accepted=False NoMatchingParent"),
        (route(&GOOD.replace("3s", "soon")), "HTTPRoute", "Accepted=False UnsupportedValue"),
        (
            route(
                "[{matches: [{path: {type: Telepathy, value: /}}], backendRefs: [{name: shop, port: 80}]}, {backendRefs: [{name: shop, port: 80}]}]",
            ),
            "HTTPRoute",
            "PartiallyInvalid=True UnsupportedValue: Dropped Rule",
        ),
        (
            route(
                "[{filters: [{type: RequestRedirect, requestRedirect: {port: 81}}], backendRefs: [{name: shop, port: 80}]}]",
            ),
            "HTTPRoute",
            "Accepted=False IncompatibleFilters",
        ),
        (policy("{retry: {atempts: 4}}"), "MeshPolicy", "Accepted=False Invalid: spec.retry: unknown field `atempts`"),
        (policy("{retry: {backoff: {jitter: none}}}"), "MeshPolicy", "cannot be switched off"),
        (
            policy("{retry: {attempts: 1}}") + &policy("{retry: {attempts: 2}}").replace("name: mesh,", "name: mesh2,"),
            "MeshPolicy",
            "Accepted=False Conflicted",
        ),
        (
            policy("{targetRefs: [{kind: Service, name: nobody, namespace: default}]}"),
            "MeshPolicy",
            "Accepted=False TargetNotFound",
        ),
        (
            security(
                "AuthorizationPolicy",
                "{targetRefs: [{kind: Service, name: shop}], rules: [{when: [{key: moon.phase, values: [full]}]}]}",
            ),
            "AuthorizationPolicy",
            "Accepted=False",
        ),
        (
            security("RequestAuthentication", "{targetRefs: [{kind: Service, name: shop}], jwtRules: [{issuer: me}]}"),
            "RequestAuthentication",
            "neither jwks nor a jwksUri",
        ),
        (other("VirtualService", "networking.istio.io/v1"), "VirtualService", "Accepted=False UnsupportedValue"),
        (other("TLSRoute", "gateway.networking.k8s.io/v1alpha2"), "TLSRoute", "Accepted=False UnsupportedValue"),
    ] {
        let dir = directory(&(shop("http", &[11]) + &manifest));
        let (code, text, errors) = waypoint(dir.path(), &["check"]);
        assert_eq!(code, Some(1), "{expected}: {text}{errors}");
        assert!(text.contains(&format!("× {kind} ")) && text.contains(expected), "{expected}: {text}");
    }
    let dir = directory("{ not yaml");
    assert_eq!(waypoint(dir.path(), &["check"]).0, Some(1));
}

/// An AuthorizationPolicy on service `shop`.
fn authorization(metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: s, namespace: default{metadata}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: shop}}], {spec}}}\n"
    )
}

#[test]
fn a_policy_that_is_in_error_is_never_also_accepted() {
    for (metadata, rules, message) in [
        ("", "rules: [{from: [{source: {}}]}]", "spec.rules[0].from[0].source: is empty: it would match everything"),
        ("", "rules: [{from: [{source: {principal: [x]}}]}]", "unknown field `principal`"),
        (
            "",
            "rules: [{from: [{source: {principals: ['a*b']}}]}]",
            "spec.rules[0].from[0].source.principals[0]: \"a*b\"",
        ),
        ("", "rules: [{to: [{operation: {paths: ['/a/../b']}}]}]", "has a dot segment"),
        ("", "rules: [{when: [{key: request.planet, values: [x]}]}]", "\"request.planet\" is not a known key"),
        ("", "selector: {matchLabels: {app: shop}}", "selector and targetRefs exclude each other"),
        (", annotations: {istio.io/dry-run: true}", "rules: [{}]", "metadata.annotations.istio.io/dry-run: "),
        (", labels: {app: 1}", "rules: [{}]", "metadata.labels.app: "),
    ] {
        for action in ["ALLOW", "DENY"] {
            let policy = authorization(metadata, &format!("action: {action}, {rules}"));
            let dir = directory(&(shop("http", &[11]) + &policy));
            let (code, text, errors) = waypoint(dir.path(), &["check"]);
            let told = text.lines().filter(|line| line.contains(message)).count();
            assert_eq!((code, told), (Some(1), 2), "by the source and by the waypoint: {text}{errors}");
            assert!(text.contains("× AuthorizationPolicy") && !text.contains("√ AuthorizationPolicy"), "{text}");
        }
    }
}

#[test]
fn each_setting_is_explained_by_its_source() {
    let for_route = "---\napiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: rule, namespace: default}\n\
         spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: first}], retry: {codes: [500]}}\n";
    let for_service = "---\napiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: shop, namespace: default}\n\
         spec: {targetRefs: [{kind: Service, name: shop}], retry: {attempts: 7, perTryTimeout: 2s}}\n";
    let for_gateway = "---\napiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: wp, namespace: default}\n\
         spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], connect: {idle: 7s}}\n";
    let for_namespace = "---\napiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: ns, namespace: default}\n\
         spec: {connect: {timeout: 3s, idle: 4s}}\n";
    let budget = "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: b, namespace: default}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: shop}], retryConstraint: {budget: {percent: 11}}}\n";
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: default}\n\
         spec: {host: shop, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}}\n";
    let all = shop("http", &[11])
        + &service("v2", "10.96.0.20", "http", &[21])
        + &route(GOOD)
        + &policy("{retry: {attempts: 4, codes: [502]}, deadline: {idle: 9s}}");
    let dir = directory(&[&all, for_route, for_service, for_gateway, for_namespace, budget, rule].concat());
    let (code, text, errors) = waypoint(dir.path(), &["explain", "default/shop", "--route", "default/r", "-o", "json"]);
    assert_eq!(code, Some(0), "{errors}");
    let explained: Value = serde_json::from_str(&text).unwrap();
    let row = |subject: usize, name: &str| {
        let rows = explained[subject]["settings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        format!("{} from {}", row["value"].as_str().unwrap(), row["source"].as_str().unwrap())
    };
    for (subject, name, expected) in [
        (0, "retry.attempts", "7 from MeshPolicy default/shop"),
        (0, "retry.codes", "502 from MeshPolicy culvert-system/mesh"),
        (0, "deadline.idle", "9s from MeshPolicy culvert-system/mesh"),
        (0, "connect.timeout", "3s from MeshPolicy default/ns"),
        (0, "connect.idle", "7s from MeshPolicy default/wp"),
        (0, "retry.budget.percent", "11 from XBackendTrafficPolicy default/b"),
        (0, "circuitBreaker.endpoint.consecutive", "3 from DestinationRule default/d"),
        (0, "loadBalancing.algorithm", "peakEwma from built-in default"),
        (1, "retry.codes", "500 from MeshPolicy default/rule"),
        (1, "retry.attempts", "7 from MeshPolicy default/shop"),
        (1, "deadline.request", "3s from HTTPRoute/default/r#first"),
    ] {
        assert_eq!(row(subject, name), expected, "{name}");
    }
    let (code, text, _) = waypoint(dir.path(), &["explain", "default/v2"]);
    assert!(code == Some(0) && text.contains("4                            MeshPolicy culvert-system/mesh"), "{text}");
    let (code, _, errors) = waypoint(dir.path(), &["explain", "default/nobody"]);
    assert!(code == Some(1) && errors.contains("there is no Service default/nobody"), "{errors}");
}

#[test]
fn an_object_in_two_files_is_an_error_that_names_both() {
    let object = |api: &str, kind: &str, rest: &str| {
        format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: twice, namespace: default}}\n{rest}\n")
    };
    let parents = "spec: {parentRefs: [{group: '', kind: Service, name: shop}], rules: [{backendRefs: [{name: shop, port: 80}]}]}";
    let target = "spec: {targetRefs: [{group: '', kind: Service, name: shop}]}";
    for (api, kind, rest) in [
        ("gateway.networking.k8s.io/v1", "HTTPRoute", parents),
        ("gateway.networking.k8s.io/v1", "GRPCRoute", parents),
        ("gateway.networking.k8s.io/v1alpha2", "TCPRoute", parents),
        ("gateway.networking.k8s.io/v1", "Gateway", "spec: {gatewayClassName: culvert-waypoint, listeners: []}"),
        ("security.istio.io/v1", "AuthorizationPolicy", target),
        ("security.istio.io/v1", "RequestAuthentication", target),
        ("networking.istio.io/v1", "DestinationRule", "spec: {host: shop}"),
        ("gateway.networking.x-k8s.io/v1alpha1", "XBackendTrafficPolicy", target),
        ("culvert.dev/v1alpha1", "MeshPolicy", "spec: {}"),
        ("v1", "Service", "spec: {clusterIP: 10.96.0.77, ports: [{port: 80}]}"),
        (
            "networking.istio.io/v1",
            "ServiceEntry",
            "spec: {hosts: [a.example], resolution: STATIC, ports: [{number: 80, name: http}]}",
        ),
        ("v1", "Namespace", ""),
    ] {
        let dir = directory(&shop("http", &[11]));
        std::fs::write(dir.path().join("one.yaml"), object(api, kind, rest)).unwrap();
        let (_, before, _) = waypoint(dir.path(), &["check"]);
        assert!(!before.contains("two.yaml"), "{before}");
        std::fs::write(dir.path().join("two.yaml"), object(api, kind, rest)).unwrap();
        let (code, text, _) = waypoint(dir.path(), &["check"]);
        assert_eq!(code, Some(1), "{kind}: {text}");
        let line = text.lines().find(|line| line.contains("two.yaml") && line.contains("one.yaml"));
        assert!(line.is_some_and(|line| line.contains("twice")), "{kind}: {text}");
    }
}

#[test]
fn check_tells_endpoints_that_are_never_dialled_and_routes_that_no_listener_admits() {
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: default}\n\
                 spec: {hosts: [e.example], addresses: [10.96.0.66], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 127.0.0.1}]}\n";
    let evil = route("[{backendRefs: [{name: shop, namespace: default, port: 80}]}]")
        .replace("name: r, namespace: default", "name: evil, namespace: evil")
        .replace("group: '', kind: Service, name: shop}], rules", "name: wp, namespace: default}], rules");
    let dir = directory(&(shop("http", &[]) + entry + &evil));
    let (code, text, _) = waypoint(dir.path(), &["check"]);
    assert!(text.contains("127.0.0.1 is a loopback address"), "{text}");
    assert!(
        text.contains("Accepted=False NotAllowedByListeners: Gateway default/wp does not admit HTTPRoute evil/evil"),
        "{text}"
    );
    assert_eq!(code, Some(1));
}
