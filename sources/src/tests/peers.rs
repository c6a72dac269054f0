//! PeerAuthentication, judged as the agent judges.

use std::sync::Arc;

use super::support::{Mesh, accepted, load, pod};
use mesh::model::connection::Facts;
use mesh::model::identity::Identity;
use mesh::model::policy::{Authorization, Scope};
use mesh::policy::authorize::authorize;

fn peers(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// Whether pod `a` admits plaintext and mTLS on a port.
fn admits(mesh: &Mesh, port: u16) -> [bool; 2] {
    let keys = &mesh.pod("a").policies;
    let policies: Vec<Arc<Authorization>> =
        keys.iter().map(|key| Arc::new(mesh.authorizations[&key.to_string()].clone())).collect();
    let policies = policies.into();
    [None, Some(Identity::new("cluster.local", "x", "y"))].map(|source_identity| {
        let facts = Facts {
            source: "10.0.0.7:1000".parse().unwrap(),
            source_identity,
            destination: format!("10.0.0.1:{port}").parse().unwrap(),
            on_behalf_of: None,
        };
        authorize(&policies, &facts).is_ok()
    })
}

#[test]
fn strict_refuses_who_proves_nothing_and_the_nearest_level_counts() {
    let strict = "{mtls: {mode: STRICT}}";
    let permissive = "{mtls: {mode: PERMISSIVE}}";
    let of_a = |mode: &str| format!("{{selector: {{matchLabels: {{app: a}}}}, mtls: {{mode: {mode}}}}}");
    for (objects, plaintext) in [
        (vec![], true),
        (vec![("culvert-system", strict.to_owned())], false),
        (vec![("istio-system", strict.to_owned())], false),
        (vec![("elsewhere", strict.to_owned())], true),
        (vec![("default", strict.to_owned())], false),
        (vec![("istio-system", strict.to_owned()), ("default", permissive.to_owned())], true),
        (vec![("istio-system", strict.to_owned()), ("default", "{mtls: {mode: DISABLE}}".to_owned())], true),
        (vec![("istio-system", strict.to_owned()), ("default", "{mtls: {mode: UNSET}}".to_owned())], false),
        (vec![("istio-system", strict.to_owned()), ("default", "{}".to_owned())], false),
        (vec![("default", strict.to_owned()), ("default", of_a("PERMISSIVE"))], true),
        (vec![("default", permissive.to_owned()), ("default", of_a("STRICT"))], false),
        (vec![("default", strict.to_owned()), ("default", of_a("UNSET"))], false),
        (vec![("default", "{selector: {matchLabels: {app: b}}, mtls: {mode: STRICT}}".to_owned())], true),
        // A selector reaches no further than its namespace, not even in a root namespace.
        (vec![("istio-system", of_a("STRICT"))], true),
    ] {
        let objects: Vec<String> =
            objects.iter().enumerate().map(|(i, (namespace, spec))| peers(namespace, &format!("p{i}"), spec)).collect();
        let mesh = accepted(&format!("{}{}", pod("a", "10.0.0.1", ", labels: {app: a}", ""), objects.concat()));
        assert_eq!(admits(&mesh, 80), [plaintext, true], "{objects:?}");
    }
}

#[test]
fn a_port_may_have_a_mode_of_its_own() {
    let spec = |mode: &str, port_mode: &str| {
        format!(
            "{{selector: {{matchLabels: {{app: a}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{80: {{mode: {port_mode}}}}}}}"
        )
    };
    for (mode, port_mode, on_80, on_81) in [
        ("STRICT", "PERMISSIVE", true, false),
        ("STRICT", "DISABLE", true, false),
        ("STRICT", "UNSET", false, false),
        ("PERMISSIVE", "STRICT", false, true),
        ("PERMISSIVE", "PERMISSIVE", true, true),
        ("UNSET", "STRICT", false, true),
    ] {
        let mesh = accepted(
            &(pod("a", "10.0.0.1", ", labels: {app: a}", "") + &peers("default", "p", &spec(mode, port_mode))),
        );
        assert_eq!([admits(&mesh, 80)[0], admits(&mesh, 81)[0]], [on_80, on_81], "{mode} {port_mode}");
        assert!(admits(&mesh, 80)[1] && admits(&mesh, 81)[1]);
    }
}

#[test]
fn the_oldest_of_two_counts() {
    let aged = |name: &str, created: &str, mode: &str| {
        peers("default", name, &format!("{{mtls: {{mode: {mode}}}}}"))
            .replace("metadata: {", &format!("metadata: {{creationTimestamp: {created}, "))
    };
    let text = aged("a", "2026-01-02T00:00:00Z", "PERMISSIVE") + &aged("b", "2026-01-01T00:00:00Z", "STRICT");
    let mesh = accepted(&(text + &pod("a", "10.0.0.1", "", "")));
    assert_eq!(admits(&mesh, 80), [false, true]);
}

#[test]
fn the_policies_are_named_as_istio_names_them() {
    let mesh = accepted(
        &[
            pod("a", "10.0.0.1", ", labels: {app: a}", ""),
            peers("istio-system", "mesh", "{mtls: {mode: STRICT}}"),
            peers("default", "ports", "{selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: PERMISSIVE}}}"),
        ]
        .concat(),
    );
    let names: Vec<&str> = mesh.authorizations.keys().map(String::as_str).collect();
    assert_eq!(names, ["culvert-system/istio_converted_static_strict", "default/converted_peer_authentication_ports"]);
    assert!(mesh.authorizations.values().all(|policy| policy.scope == Scope::WorkloadSelector));
    assert_eq!(admits(&mesh, 80), [true, true]);
    assert_eq!(admits(&mesh, 81), [false, true]);
}

#[test]
fn ports_without_a_selector_only_tighten() {
    let object = peers("default", "p", "{mtls: {mode: STRICT}, portLevelMtls: {80: {mode: PERMISSIVE}}}");
    let (mesh, problems) = load(&(pod("a", "10.0.0.1", "", "") + &object));
    assert_eq!(admits(&mesh, 80), [false, true]);
    assert_eq!(
        problems,
        [
            "mesh.yaml:8: PeerAuthentication default/p: spec.portLevelMtls: needs a selector; only ports that are STRICT are \
          taken from it"
        ]
    );
    let object = peers("default", "p", "{portLevelMtls: {80: {mode: STRICT}}}");
    let (mesh, _) = load(&(pod("a", "10.0.0.1", "", "") + &object));
    assert_eq!([admits(&mesh, 80), admits(&mesh, 81)], [[false, true], [true, true]]);
}

#[test]
fn a_selector_that_selects_nothing_is_worth_knowing() {
    let (_, problems) = load(&peers("default", "p", "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}"));
    assert_eq!(problems, ["mesh.yaml:2: PeerAuthentication default/p: spec.selector: selects no Pod"]);
}
