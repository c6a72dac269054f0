//! AuthorizationPolicy, judged as the agent judges.

use std::sync::Arc;

use super::support::{Mesh, accepted, load, pod};
use mesh::model::connection::Facts;
use mesh::model::policy::Scope;
use mesh::policy::authorize::{Applying, authorize, dry_run};

const PRINCIPALS: [&str; 4] = [
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shop/sa/job",
    "cluster.local/ns/cart/sa/web",
    "other.org/ns/shop/sa/web",
];

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn facts(principal: &str, source: &str, destination: &str) -> Facts {
    Facts {
        source: source.parse().unwrap(),
        source_identity: (!principal.is_empty()).then(|| format!("spiffe://{principal}").parse().unwrap()),
        destination: destination.parse().unwrap(),
        on_behalf_of: None,
    }
}

fn policies(mesh: &Mesh) -> Applying {
    mesh.authorizations.values().cloned().map(Arc::new).collect::<Vec<_>>().into()
}

/// Who is admitted by a policy, of `PRINCIPALS` and of somebody who proves nothing, all from 10.0.0.7 to 10.0.0.1:80.
fn admitted(spec: &str) -> Vec<&'static str> {
    let mesh = accepted(&policy("default", spec));
    let policies = policies(&mesh);
    let admits = |principal: &&str| authorize(&policies, &facts(principal, "10.0.0.7:1000", "10.0.0.1:80")).is_ok();
    PRINCIPALS.into_iter().chain([""]).filter(admits).collect()
}

fn allow(rules: &str) -> String {
    format!("{{action: ALLOW, rules: {rules}}}")
}

fn deny(rules: &str) -> String {
    format!("{{action: DENY, rules: {rules}}}")
}

const ALL: [&str; 5] = [PRINCIPALS[0], PRINCIPALS[1], PRINCIPALS[2], PRINCIPALS[3], ""];

#[test]
fn rules_that_are_empty_or_absent() {
    for (spec, expected) in [
        ("{}", &[][..]),
        ("{rules: []}", &[]),
        ("{rules: null}", &[]),
        ("{rules: [{}]}", &ALL),
        ("{action: ALLOW, rules: [{}]}", &ALL),
        ("{action: DENY, rules: [{}]}", &[]),
        ("{action: DENY}", &ALL),
        ("{action: AUDIT, rules: [{}]}", &ALL),
        ("{action: CUSTOM, provider: {name: x}, rules: [{}]}", &ALL),
        ("{targetRefs: [{kind: Service, group: '', name: x}]}", &ALL),
        ("{targetRef: {kind: Gateway, group: gateway.networking.k8s.io, name: x}, action: DENY, rules: [{}]}", &ALL),
    ] {
        assert_eq!(admitted(spec), expected, "{spec}");
    }
}

#[test]
fn sources_are_compared_by_what_they_prove() {
    let [web, job, cart, other] = PRINCIPALS;
    for (source, expected) in [
        (format!("principals: [{web}]"), vec![web]),
        (format!("principals: ['spiffe://{web}']"), vec![web]),
        ("principals: ['cluster.local/ns/shop/*']".to_owned(), vec![web, job]),
        ("principals: ['*/sa/web']".to_owned(), vec![web, cart, other]),
        ("principals: ['*']".to_owned(), vec![web, job, cart, other]),
        (format!("notPrincipals: [{web}]"), vec![job, cart, other, ""]),
        ("notPrincipals: ['*']".to_owned(), vec![""]),
        ("namespaces: [shop]".to_owned(), vec![web, job, other]),
        ("namespaces: [sh*], notNamespaces: [shop]".to_owned(), vec![]),
        (format!("namespaces: [shop], notPrincipals: [{web}]"), vec![job, other]),
        ("serviceAccounts: [shop/web]".to_owned(), vec![web, other]),
        // Without a namespace: the policy's own, which none of them is in.
        ("serviceAccounts: [web]".to_owned(), vec![]),
        ("notServiceAccounts: [shop/web]".to_owned(), vec![job, cart, ""]),
        ("trustDomains: [other.org]".to_owned(), vec![other]),
        ("trustDomains: ['cluster*']".to_owned(), vec![web, job, cart]),
        ("trustDomains: ['*']".to_owned(), vec![web, job, cart, other]),
        ("trustDomains: ['*.org']".to_owned(), vec![other]),
        ("trustDomains: ['*.org'], namespaces: [cart]".to_owned(), vec![]),
        ("notTrustDomains: [cluster.local]".to_owned(), vec![other, ""]),
        (format!("trustDomains: [other.org], principals: [{web}, {other}]"), vec![other]),
        (format!("trustDomains: [other.org], principals: [{web}]"), vec![]),
        ("trustDomains: [other.org], principals: ['*']".to_owned(), vec![other]),
        ("trustDomains: [other.org], principals: ['o*', 'other.org/ns/cart/*']".to_owned(), vec![other]),
        ("ipBlocks: [10.0.0.0/24]".to_owned(), ALL.to_vec()),
        ("ipBlocks: [10.0.0.8]".to_owned(), vec![]),
        ("notIpBlocks: [10.0.0.7]".to_owned(), vec![]),
        (format!("ipBlocks: [10.0.0.0/24], principals: [{web}]"), vec![web]),
    ] {
        let rules = format!("[{{from: [{{source: {{{source}}}}}]}}]");
        assert_eq!(admitted(&allow(&rules)), expected, "{source}");
        let refused: Vec<&str> = ALL.into_iter().filter(|principal| !expected.contains(principal)).collect();
        assert_eq!(admitted(&deny(&rules)), refused, "DENY {source}");
    }
}

#[test]
fn alternatives_are_any_and_clauses_are_all() {
    let [web, job, cart, _] = PRINCIPALS;
    for (rules, expected) in [
        (format!("[{{from: [{{source: {{principals: [{web}]}}}}, {{source: {{principals: [{job}]}}}}]}}]"), vec![web, job]),
        (format!("[{{from: [{{source: {{principals: [{web}, {cart}]}}}}]}}, {{from: [{{source: {{principals: [{job}]}}}}]}}]"), vec![web, job, cart]),
        (format!("[{{from: [{{source: {{principals: [{web}]}}}}], to: [{{operation: {{ports: ['80']}}}}]}}]"), vec![web]),
        (format!("[{{from: [{{source: {{principals: [{web}]}}}}], to: [{{operation: {{ports: ['81']}}}}]}}]"), vec![]),
        ("[{to: [{operation: {ports: ['80', '81']}}]}]".to_owned(), ALL.to_vec()),
        ("[{to: [{operation: {notPorts: ['80']}}]}]".to_owned(), vec![]),
        ("[{when: [{key: source.namespace, values: [shop]}, {key: source.principal, notValues: ['other.org/*']}]}]".to_owned(), vec![web, job]),
        ("[{when: [{key: source.trustDomain, values: [cluster.local]}, {key: source.serviceAccount, values: [shop/web, cart/web]}]}]".to_owned(), vec![web, cart]),
        ("[{when: [{key: source.ip, values: [10.0.0.0/8], notValues: [10.0.0.8]}]}]".to_owned(), ALL.to_vec()),
        ("[{when: [{key: destination.ip, values: [10.0.0.1]}, {key: destination.port, values: ['80']}]}]".to_owned(), ALL.to_vec()),
        ("[{when: [{key: destination.port, notValues: ['80']}]}]".to_owned(), vec![]),
    ] {
        assert_eq!(admitted(&allow(&rules)), expected, "{rules}");
    }
}

#[test]
fn what_needs_requests_admits_nobody_and_refuses_more() {
    let [web, job, cart, other] = PRINCIPALS;
    let from_web = format!("from: [{{source: {{principals: [{web}]}}}}]");
    for (rules, allowed, after_deny) in [
        ("[{to: [{operation: {methods: [GET]}}]}]".to_owned(), vec![], vec![]),
        (format!("[{{{from_web}, to: [{{operation: {{methods: [GET]}}}}]}}]"), vec![], vec![job, cart, other, ""]),
        (
            format!("[{{{from_web}, to: [{{operation: {{paths: [/x], ports: ['80']}}}}]}}]"),
            vec![],
            vec![job, cart, other, ""],
        ),
        (
            format!("[{{{from_web}, to: [{{operation: {{hosts: [x]}}}}, {{operation: {{ports: ['81']}}}}]}}]"),
            vec![],
            vec![job, cart, other, ""],
        ),
        (format!("[{{{from_web}, to: [{{operation: {{hosts: [x], ports: ['81']}}}}]}}]"), vec![], ALL.to_vec()),
        ("[{from: [{source: {requestPrincipals: ['*']}}]}]".to_owned(), vec![], vec![]),
        (
            "[{from: [{source: {remoteIpBlocks: [10.0.0.0/8], namespaces: [cart]}}]}]".to_owned(),
            vec![],
            vec![web, job, other, ""],
        ),
        (
            format!("[{{{from_web}, when: [{{key: 'request.headers[x]', values: [y]}}]}}]"),
            vec![],
            vec![job, cart, other, ""],
        ),
        ("[{when: [{key: remote.ip, values: [10.0.0.1]}]}]".to_owned(), vec![], vec![]),
        (format!("[{{to: [{{operation: {{methods: [GET]}}}}]}}, {{{from_web}}}]"), vec![web], vec![]),
    ] {
        assert_eq!(admitted(&allow(&rules)), allowed, "ALLOW {rules}");
        assert_eq!(admitted(&deny(&rules)), after_deny, "DENY {rules}");
        let (_, problems) = load(&policy("default", &allow(&rules)));
        assert!(problems.iter().any(|problem| problem.contains("cannot be judged at L4")), "{problems:?}");
    }
}

#[test]
fn the_scope_is_the_selector_or_the_namespace() {
    let selector = "{selector: {matchLabels: {app: a}}}";
    for (namespace, spec, scope, attached) in [
        ("default", "{}", Scope::Namespace, false),
        ("istio-system", "{}", Scope::Global, false),
        ("culvert-system", "{}", Scope::Global, false),
        ("default", selector, Scope::WorkloadSelector, true),
        ("elsewhere", selector, Scope::WorkloadSelector, false),
        // Unlike a PeerAuthentication, it selects in every namespace.
        ("istio-system", selector, Scope::WorkloadSelector, true),
    ] {
        let mesh = accepted(&(policy(namespace, spec) + &pod("a", "10.0.0.1", ", labels: {app: a}", "")));
        assert_eq!(mesh.authorizations[&format!("{namespace}/p")].scope, scope, "{namespace} {spec}");
        assert_eq!(!mesh.pod("a").policies.is_empty(), attached, "{namespace} {spec}");
    }
}

#[test]
fn a_dry_run_is_judged_and_not_enforced() {
    let text = policy("default", "{}").replace("metadata: {", "metadata: {annotations: {istio.io/dry-run: 'true'}, ");
    let policies = policies(&accepted(&text));
    let facts = facts("", "10.0.0.7:1", "10.0.0.1:80");
    assert!(authorize(&policies, &facts).is_ok());
    assert!(dry_run(&policies, &facts).is_some_and(|verdict| verdict.is_err()));
}

#[test]
fn a_selector_that_selects_nothing_is_worth_knowing() {
    let (_, problems) = load(&policy("default", "{selector: {matchLabels: {app: a}}, rules: [{}]}"));
    assert_eq!(problems, ["mesh.yaml:2: AuthorizationPolicy default/p: spec.selector: selects no Pod"]);
}
