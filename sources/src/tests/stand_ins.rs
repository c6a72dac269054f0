//! Policies that cannot be read: they refuse.

use super::support::{load, pod, read};
use crate::objects::problem::Severity;
use mesh::model::policy::{Action, Scope};

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: default\nspec:\n{spec}"
    )
}

/// Action, scope and number of rules of what is in effect instead of a policy with this `spec`.
fn instead(spec: &str) -> Option<(Action, Scope, usize)> {
    let text = policy(spec);
    assert!(read(&text).is_broken(), "{spec}");
    let (mesh, _) = load(&text);
    mesh.authorizations.get("default/p").map(|policy| (policy.action, policy.scope, policy.rules.len()))
}

#[test]
fn a_policy_that_cannot_be_read_refuses() {
    let nobody = Some((Action::Allow, Scope::Namespace, 0));
    let everybody = Some((Action::Deny, Scope::Namespace, 1));
    for (spec, expected) in [
        ("  rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]\n", nobody),
        ("  action: ALLOW\n  rules: [{from: [{source: {principal: [x]}}]}]\n", nobody),
        ("  action: DENY\n  rules: [{from: [{source: {ipBlocks: [bogus]}}]}]\n", everybody),
        ("  action: DENNY\n", everybody),
        ("  acton: DENY\n", everybody),
        ("  action: ALLOW\n  rules: [{from: [{source: {}}]}]\n", nobody),
        ("  action: ALLOW\n  rules: [{from: []}]\n", nobody),
        ("  action: ALLOW\n  rules: [{to: [{operation: {}}]}]\n", nobody),
        ("  action: ALLOW\n  rules: [{to: [{operation: {ports: ['http']}}]}]\n", nobody),
        ("  action: ALLOW\n  rules: [{to: [{operation: {ports: [80]}}]}]\n", nobody),
        ("  action: ALLOW\n  rules: [{when: [{key: source.planet, values: [earth]}]}]\n", nobody),
        ("  action: DENY\n  rules: [{when: [{key: source.planet, values: [earth]}]}]\n", everybody),
        ("  action: ALLOW\n  rules: [{when: [{key: source.ip}]}]\n", nobody),
        ("  action: ALLOW\n  rules: [{from: [{source: {principals: ['a*b']}}]}]\n", nobody),
        ("  action: ALLOW\n  rules: [{from: [{source: {serviceAccounts: ['ns/*']}}]}]\n", nobody),
        ("  action: ALLOW\n  rules: {}\n", nobody),
        ("  - action\n", everybody),
        ("  selector: {matchLabels: {app: a}}\n  rules: 1\n", Some((Action::Allow, Scope::WorkloadSelector, 0))),
        ("  selector: {matchExpressions: []}\n  action: DENY\n  rules: 1\n", everybody),
        ("  targetRefs: [{name: x}]\n  rules: 1\n", None),
        // Not even YAML.
        ("  action: ALLOW\n  rules: [{\n", everybody),
    ] {
        assert_eq!(instead(spec), expected, "{spec}");
    }
}

#[test]
fn what_stands_in_for_a_policy_keeps_its_selector() {
    let text = policy("  selector: {matchLabels: {app: a}}\n  action: DENY\n  rules: [{from: [{}]}]\n---\n");
    let (mesh, problems) =
        load(&(text + &pod("a", "10.0.0.1", ", labels: {app: a}", "") + &pod("b", "10.0.0.2", "", "")));
    assert_eq!((mesh.pod("a").policies.len(), mesh.pod("b").policies.len()), (1, 0));
    assert_eq!(
        problems,
        [
            "mesh.yaml:9: AuthorizationPolicy default/p: spec.rules[0].from[0]: missing field `source`",
            "mesh.yaml:1: AuthorizationPolicy default/p: while it cannot be read, a DENY that refuses everybody is in \
             effect in its place",
        ]
    );
}

#[test]
fn a_peer_authentication_that_cannot_be_read_is_strict() {
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRIKT}}\n---\n";
    let (mesh, problems) = load(&(text.to_owned() + &pod("a", "10.0.0.1", "", "")));
    assert_eq!(mesh.pod("a").policies[0].to_string(), "culvert-system/istio_converted_static_strict");
    assert_eq!(
        problems[0],
        "mesh.yaml:4: PeerAuthentication default/p: spec.mtls.mode: unknown variant `STRIKT`, expected one of `UNSET`, \
         `DISABLE`, `PERMISSIVE`, `STRICT`"
    );
}

#[test]
fn other_objects_that_cannot_be_read_are_left_out() {
    let (mesh, _) = load("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0}\n");
    assert!(mesh.workloads.is_empty());
    assert!(read("kind: Pod\n").problems.iter().all(|problem| problem.severity == Severity::Error));
}
