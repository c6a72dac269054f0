//! One AuthorizationPolicy, one verdict: agents and waypoints read it alike, and what is in error is never also
//! accepted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mesh::model::policy::{Action, PolicyKey, Scope};
use mesh::model::rule::{Attribute, Rule, Test};

use super::support::load;
use crate::objects::kind::{Body, Documents, Effect, Shared, TargetedPolicy};
use crate::objects::parse::{Parsed, parse};
use crate::objects::problem::Severity;

const TARGETS: &str = "targetRefs: [{group: '', kind: Service, name: shop}], ";

/// What follows `action` in a spec, and whether it is in order.
const SPECS: [(&str, bool); 44] = [
    ("rules: [{}]", true),
    ("rules: []", true),
    ("rules: null", true),
    ("provider: {name: x}", true),
    ("rules: [{from: [{source: {principals: ['spiffe://td/ns/a/sa/b']}}]}]", true),
    ("rules: [{from: [{source: {notPrincipals: ['*'], trustDomains: ['*.org']}}]}]", true),
    ("rules: [{from: [{source: {serviceAccounts: [a/b, c]}}]}]", true),
    ("rules: [{from: [{source: {ipBlocks: [10.0.0.1], notRemoteIpBlocks: ['fd00::/8']}}]}]", true),
    ("rules: [{from: [{source: {requestPrincipals: ['me/*']}}]}]", true),
    (
        "rules: [{to: [{operation: {hosts: ['*.example'], methods: [GET], paths: ['/a/{*}', /b*], ports: ['80']}}]}]",
        true,
    ),
    ("rules: [{when: [{key: 'request.headers[x-role]', values: [a], notValues: [b]}]}]", true),
    (
        "rules: [{when: [{key: 'request.headers[Host]', values: [a]}, {key: 'request.headers[:method]', values: [b]}]}]",
        true,
    ),
    ("rules: [{when: [{key: 'request.auth.claims[a][b]', values: [x]}]}]", true),
    ("rules: [{when: [{key: connection.sni, values: [x]}, {key: remote.ip, notValues: [10.0.0.0/8]}]}]", true),
    ("rule: [{}]", false),
    ("rules: {}", false),
    ("rules: [{form: []}]", false),
    ("rules: [{from: []}]", false),
    ("rules: [{from: [{}]}]", false),
    ("rules: [{from: [{source: {}}]}]", false),
    ("rules: [{from: [{source: {principal: [x]}}]}]", false),
    ("rules: [{from: [{source: {principals: ['a*b']}}]}]", false),
    ("rules: [{from: [{source: {principals: ['spiffe://']}}]}]", false),
    ("rules: [{from: [{source: {namespaces: ['']}}]}]", false),
    ("rules: [{from: [{source: {requestPrincipals: ['a*b']}}]}]", false),
    ("rules: [{from: [{source: {serviceAccounts: ['ns/*']}}]}]", false),
    ("rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/33]}}]}]", false),
    ("rules: [{to: []}]", false),
    ("rules: [{to: [{operation: {}}]}]", false),
    ("rules: [{to: [{operation: {path: [/x]}}]}]", false),
    ("rules: [{to: [{operation: {hosts: ['a*b']}}]}]", false),
    ("rules: [{to: [{operation: {methods: ['']}}]}]", false),
    ("rules: [{to: [{operation: {paths: ['/a*b']}}]}]", false),
    ("rules: [{to: [{operation: {paths: ['/a/../b']}}]}]", false),
    ("rules: [{to: [{operation: {paths: ['/a/{b}']}}]}]", false),
    ("rules: [{to: [{operation: {ports: ['http']}}]}]", false),
    ("rules: [{to: [{operation: {ports: [80]}}]}]", false),
    ("rules: [{when: [{key: source.ip}]}]", false),
    ("rules: [{when: [{key: source.planet, values: [earth]}]}]", false),
    ("rules: [{when: [{key: request.planet, values: [earth]}]}]", false),
    ("rules: [{when: [{key: 'request.headers[:path]', values: [/x]}]}]", false),
    ("rules: [{when: [{key: 'request.auth.claims[]', values: [x]}]}]", false),
    ("rules: [{when: [{key: experimental.envoy.filters.x, values: [x]}]}]", false),
    ("selector: {matchLabels: {app: a}}, targetRefs: [{kind: Service, name: shop}]", false),
];

fn text(annotations: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: default, annotations: {{{annotations}}}}}\nspec: {{{spec}}}\n"
    )
}

/// As an agent reads it, or as a waypoint does.
fn read(text: &str, documents: Documents) -> Parsed {
    parse(&Arc::from(Path::new("mesh.yaml")), text, &mut Shared::new(documents))
}

fn key() -> PolicyKey {
    PolicyKey { namespace: "default".into(), name: "p".into() }
}

/// What a waypoint makes of the object that the source hands to it.
fn at_waypoint(text: &str) -> Result<TargetedPolicy, String> {
    let parsed = read(text, Documents::OfWaypoints);
    let stand_ins = parsed.stand_ins.iter().map(|stand_in| &stand_in.object);
    let raw = parsed.objects.iter().chain(stand_ins).find_map(|object| object.document.as_ref());
    let raw = raw.expect("an object that is in error is handed on too: it refuses").to_json();
    let annotations: BTreeMap<String, String> = serde_json::from_value(raw["metadata"]["annotations"].clone()).unwrap();
    TargetedPolicy::read(key(), &annotations, &raw["spec"])
}

/// What an agent makes of it.
fn at_agent(text: &str) -> Option<Effect> {
    read(text, Documents::None).objects.iter().find_map(|object| match &object.body {
        Body::AuthorizationPolicy(policy) => Some(policy.effect.clone()),
        _ => None,
    })
}

#[test]
fn agents_and_waypoints_accept_and_refuse_the_same_policies() {
    for action in ["", "action: ALLOW, ", "action: DENY, "] {
        for (spec, good) in SPECS {
            let own = text("", &format!("{action}{spec}"));
            let targeted = text("", &format!("{action}{TARGETS}{spec}"));
            let both = [&own, &targeted].into_iter().filter(|text| text.matches("targetRefs").count() < 2);
            for text in both {
                for documents in [Documents::None, Documents::OfWaypoints] {
                    let parsed = read(text, documents);
                    assert_eq!(!parsed.is_broken(), good, "{text}{:?}", parsed.problems);
                }
                let judged = at_waypoint(text);
                assert_eq!(judged.is_ok(), good, "{text}{judged:?}");
                let error = read(text, Documents::None).problems.first().map(ToString::to_string).unwrap_or_default();
                let told = judged.err().unwrap_or_default();
                assert!(good || error.ends_with(&told), "the same message: {error} / {told}");
            }
        }
    }
}

#[test]
fn agents_and_waypoints_read_the_same_rules() {
    for (spec, _) in SPECS.into_iter().filter(|(_, good)| *good) {
        for (action, expected) in [("ALLOW", Action::Allow), ("DENY", Action::Deny)] {
            let text = text("istio.io/dry-run: 'T'", &format!("action: {action}, {spec}"));
            let TargetedPolicy { policy, .. } = at_waypoint(&text).unwrap();
            assert_eq!((policy.action, policy.dry_run, policy.scope), (expected, true, Scope::Targets), "{text}");
            let effect = Effect::Judged { action: policy.action, rules: policy.rules, dry_run: policy.dry_run };
            assert_eq!(at_agent(&text), Some(effect), "{text}");
        }
    }
}

#[test]
fn a_dry_run_is_what_parse_bool_takes_for_true() {
    for (value, dry) in [
        ("1", true),
        ("t", true),
        ("T", true),
        ("true", true),
        ("TRUE", true),
        ("True", true),
        ("tRUE", false),
        ("yes", false),
        ("on", false),
        ("0", false),
        ("false", false),
        ("", false),
    ] {
        let text = text(&format!("istio.io/dry-run: '{value}'"), "rules: [{}]");
        assert_eq!(at_waypoint(&text).unwrap().policy.dry_run, dry, "{value}");
        let Some(Effect::Judged { dry_run, .. }) = at_agent(&text) else { panic!("{text}") };
        assert_eq!(dry_run, dry, "{value}");
    }
}

#[test]
fn a_scheme_before_a_principal_is_left_out_and_told() {
    let spec = "rules: [{from: [{source: {principals: ['spiffe://td/ns/a/sa/b']}}]}]";
    let read = at_waypoint(&text("", spec)).unwrap();
    let principal = Test::is(Attribute::Principal(["td/ns/a/sa/b".parse().unwrap()].into()));
    assert_eq!(*read.policy.rules, [Rule::of_source([principal])]);
    let told = "spec.rules[0].from[0].source.principals: \"spiffe://td/ns/a/sa/b\" is read without spiffe://";
    assert_eq!(read.notes, [told]);
    let (_, problems) = load(&text("", spec));
    assert!(problems.iter().any(|problem| problem.ends_with(told)), "{problems:?}");
}

#[test]
fn an_empty_list_of_targets_names_none() {
    for targets in ["targetRefs: [], ", "targetRefs: null, ", "targetRef: null, "] {
        for (spec, rules) in [("action: DENY, rules: [{}]", 1), ("action: DENY, rules: [{form: []}]", 1)] {
            let (mesh, problems) = load(&text("", &format!("{targets}{spec}")));
            let policy = mesh.authorizations.get("default/p").unwrap_or_else(|| panic!("{targets}{spec} {problems:?}"));
            assert_eq!((policy.action, policy.rules.len()), (Action::Deny, rules), "{targets}{spec}");
        }
    }
}

#[test]
fn what_is_in_error_comes_to_waypoints_with_what_is_wrong() {
    for (metadata, name, expected) in [
        ("{name: p, annotations: {istio.io/dry-run: true}}", "p", "metadata.annotations.istio.io/dry-run: "),
        ("{name: p, creationTimestamp: never}", "p", "metadata.creationTimestamp: "),
        ("{name: P_1, namespace: shop}", "unnamed-", "metadata.name: "),
        ("{name: p}", "p", "spec.rules[0]: unknown field `form`"),
    ] {
        let rules = if expected.starts_with("spec") { "[{form: []}]" } else { "[{}]" };
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {metadata}\n\
             spec: {{{TARGETS}rules: {rules}}}\n"
        );
        let parsed = read(&text, Documents::OfWaypoints);
        assert_eq!((parsed.objects.len(), parsed.stand_ins.len()), (0, 1), "{text}");
        let object = &parsed.stand_ins[0].object;
        let document = object.document.as_deref().unwrap();
        let json = document.to_json();
        let found = json["metadata"]["name"].as_str().unwrap();
        assert!(found.starts_with(name) && found == object.meta.name.as_str(), "{text}{found}");
        assert_eq!(json["metadata"]["namespace"], object.meta.namespace.as_str());
        let error = document.error().unwrap();
        assert!(error.starts_with(expected), "{text}{error}");
        let problem = parsed.problems.iter().find(|problem| problem.severity == Severity::Error).unwrap();
        assert!(problem.to_string().ends_with(error), "{problem}");
    }
}
