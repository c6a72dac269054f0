//! Objects in, plan and conditions out.

use http::{HeaderMap, Method};
use mesh::model::waypoint::Waypoint;
use serde_json::{Value, json};

use super::*;
use crate::request::query::Query;
use crate::route::Found;

fn service(name: &str, namespace: &str, address: u8) -> Arc<Service> {
    let mut service = Service::sample(name, namespace, &[[10, 96, 0, address].into()], &[(80, 8080), (81, 8081)]);
    service.waypoint = Some(Box::new(Waypoint::sample("default", "wp", None)));
    service.ports[1].name = "second".into();
    Arc::new(service)
}

fn world() -> Services {
    let mut headless = Service::sample("headless", "default", &[], &[(80, 8080)]);
    headless.waypoint = service("x", "x", 1).waypoint.clone();
    let mut other = Service::sample("other", "default", &[[10, 96, 0, 9].into()], &[(80, 8080)]);
    other.waypoint = None;
    Services::new([
        service("shop", "default", 1),
        service("v2", "default", 2),
        service("cart", "team", 3),
        Arc::new(headless),
        Arc::new(other),
    ])
}

fn objects(values: &[Value]) -> Vec<Arc<Object>> {
    let read = |(place, value): (usize, &Value)| Arc::new(Object::from_json(value, "test.yaml:1", place).unwrap());
    values.iter().enumerate().map(read).collect()
}

fn plan_of(values: &[Value]) -> Plan {
    let gateway = Some(("default".into(), "wp".into()));
    compile(&objects(values), &world(), &gateway, &mut History::default())
}

fn route(kind: &str, name: &str, namespace: &str, parent: Value, rules: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "spec": {"parentRefs": [parent], "rules": rules}})
}

fn to_shop() -> Value {
    json!({"group": "", "kind": "Service", "name": "shop"})
}

fn to(name: &str) -> Value {
    json!([{"backendRefs": [{"name": name, "port": 80}]}])
}

fn reasons(plan: &Plan, name: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    let status = plan.statuses.iter().find(|status| &*status.name == name).unwrap();
    status.conditions().map(|condition| (condition.kind, condition.status, condition.reason)).collect()
}

fn key(name: &str, namespace: &str) -> ServiceKey {
    Service::sample(name, namespace, &[], &[]).key
}

fn routing(plan: &Plan, service: &str, port: u16, client: &str) -> Arc<Routing> {
    let ports = &plan.services[&key(service, "default")].ports;
    Arc::clone(ports[&port].routing(Some(&client.into())))
}

/// Which route a request of a client in this namespace falls under.
fn lands(plan: &Plan, service: &str, port: u16, client: &str, path: &str) -> Option<String> {
    match &*routing(plan, service, port, client) {
        Routing::Http(table) => {
            let found: Option<Found<'_>> = table.find(&Method::GET, path, &HeaderMap::new(), &Query::new(""));
            found.map(|found| found.rule.id.to_string())
        }
        Routing::Tcp(rule) => Some(rule.id.to_string()),
    }
}

#[test]
fn without_routes_a_service_is_its_own_backend() {
    let plan = plan_of(&[]);
    assert_eq!(lands(&plan, "shop", 80, "team", "/x").as_deref(), Some("Service/default/shop#0"));
    assert!(!plan.services.contains_key(&key("other", "default")), "it names no waypoint");
}

#[test]
fn producer_and_consumer_routes_never_mix() {
    let plan = plan_of(&[
        route("HTTPRoute", "producer", "default", to_shop(), to("v2")),
        route(
            "HTTPRoute",
            "consumer",
            "team",
            json!({"group": "", "kind": "Service", "name": "shop", "namespace": "default"}),
            json!([{"matches": [{"path": {"value": "/only"}}], "backendRefs": [{"name": "cart", "port": 80}]}]),
        ),
    ]);
    assert_eq!(lands(&plan, "shop", 80, "default", "/only").as_deref(), Some("HTTPRoute/default/producer#0"));
    assert_eq!(lands(&plan, "shop", 80, "team", "/only").as_deref(), Some("HTTPRoute/team/consumer#0"));
    assert_eq!(lands(&plan, "shop", 80, "team", "/else"), None, "a consumer's route stands alone: 404");
    assert_eq!(lands(&plan, "v2", 80, "default", "/").as_deref(), Some("Service/default/v2#0"), "no chaining");
}

#[test]
fn routes_on_the_gateway_come_first() {
    let plan = plan_of(&[
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "wp", "namespace": "default"}, "spec": {"gatewayClassName": "culvert-waypoint"}}),
        route("HTTPRoute", "producer", "default", to_shop(), to("v2")),
        route("HTTPRoute", "all", "default", json!({"name": "wp"}), to("v2")),
        route("HTTPRoute", "foreign", "default", json!({"name": "ingress"}), to("v2")),
    ]);
    assert_eq!(lands(&plan, "shop", 80, "default", "/").as_deref(), Some("HTTPRoute/default/all#0"));
    assert!(plan.statuses.iter().all(|status| &*status.name != "foreign"), "another controller's business");
}

#[test]
fn a_port_or_its_name_narrows_the_parent() {
    for parent in [
        json!({"group": "", "kind": "Service", "name": "shop", "port": 81}),
        json!({"group": "", "kind": "Service", "name": "shop", "sectionName": "second"}),
    ] {
        let plan = plan_of(&[route("HTTPRoute", "r", "default", parent, to("v2"))]);
        assert_eq!(lands(&plan, "shop", 81, "x", "/").as_deref(), Some("HTTPRoute/default/r#0"));
        assert_eq!(lands(&plan, "shop", 80, "x", "/").as_deref(), Some("Service/default/shop#0"));
    }
}

#[test]
fn parents_that_do_not_fit_are_told_why() {
    for (parent, reason) in [
        (json!({"group": "", "kind": "Service", "name": "absent"}), "NoMatchingParent"),
        (json!({"group": "", "kind": "Service", "name": "shop", "port": 99}), "NoMatchingParent"),
        (json!({"group": "", "kind": "Service", "name": "headless"}), "NoMatchingParent"),
    ] {
        let plan = plan_of(&[route("HTTPRoute", "r", "default", parent, to("v2"))]);
        assert_eq!(reasons(&plan, "r")[0], ("Accepted", "False", reason));
    }
}

#[test]
fn grpc_wins_over_http_on_the_same_port() {
    let plan = plan_of(&[
        route("HTTPRoute", "http", "default", to_shop(), to("v2")),
        route("TCPRoute", "tcp", "default", to_shop(), to("v2")),
        route(
            "GRPCRoute",
            "grpc",
            "default",
            json!({"group": "", "kind": "Service", "name": "shop", "port": 80}),
            to("v2"),
        ),
    ]);
    assert_eq!(lands(&plan, "shop", 80, "x", "/a/b").as_deref(), Some("GRPCRoute/default/grpc#0"));
    assert_eq!(lands(&plan, "shop", 81, "x", "/a/b").as_deref(), Some("HTTPRoute/default/http#0"));
    assert_eq!(reasons(&plan, "tcp")[0], ("Accepted", "False", "Conflicted"));
    assert_eq!(reasons(&plan, "http")[0], ("Accepted", "True", "Accepted"), "it still has port 81");
}

#[test]
fn backends_that_do_not_resolve_keep_their_weight() {
    let plan = plan_of(&[route(
        "HTTPRoute",
        "r",
        "default",
        to_shop(),
        json!([{"backendRefs": [
        {"name": "v2", "port": 80}, {"name": "absent", "port": 80}, {"name": "v2", "port": 99}, {"name": "v2"},
        {"kind": "Bucket", "name": "v2", "port": 80}]}]),
    )]);
    assert_eq!(reasons(&plan, "r"), [("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "BackendNotFound")]);
    let Routing::Http(table) = &*routing(&plan, "shop", 80, "x") else { panic!("not HTTP") };
    let Action::Forward(backends) = &table.entries().next().unwrap().rule.action else { panic!("no backends") };
    let good = backends.iter().filter(|backend| matches!(backend.target, BackendTarget::Service(..))).count();
    assert_eq!((backends.len(), good), (5, 1));
}

#[test]
fn what_cannot_be_carried_out_fails_instead_of_falling_through() {
    let rules = json!([
        {"matches": [{"path": {"value": "/secret"}}], "filters": [{"type": "ExtensionRef"}], "backendRefs": [{"name": "v2", "port": 80}]},
        {"matches": [{"path": {"type": "Glob", "value": "/x"}}], "backendRefs": [{"name": "v2", "port": 80}]},
        {"backendRefs": [{"name": "v2", "port": 80}]},
    ]);
    let plan = plan_of(&[route("HTTPRoute", "r", "default", to_shop(), rules)]);
    assert_eq!(reasons(&plan, "r")[2], ("PartiallyInvalid", "True", "UnsupportedValue"));
    let Routing::Http(table) = &*routing(&plan, "shop", 80, "x") else { panic!("not HTTP") };
    let found = table.find(&Method::GET, "/secret/1", &HeaderMap::new(), &Query::new("")).unwrap();
    assert!(matches!(found.rule.action, Action::Fail(_)));
    assert_eq!(lands(&plan, "shop", 80, "x", "/x").as_deref(), Some("HTTPRoute/default/r#2"));
}

#[test]
fn incompatible_filters_reject_the_route() {
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}});
    let prefix = json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}});
    for rule in [
        json!({"filters": [redirect], "backendRefs": [{"name": "v2", "port": 80}]}),
        json!({"filters": [redirect, prefix]}),
        json!({"matches": [{"path": {"type": "Exact", "value": "/a"}}], "filters": [prefix], "backendRefs": [{"name": "v2", "port": 80}]}),
        json!({"filters": [prefix, prefix], "backendRefs": [{"name": "v2", "port": 80}]}),
    ] {
        let plan = plan_of(&[route("HTTPRoute", "r", "default", to_shop(), json!([rule]))]);
        assert_eq!(reasons(&plan, "r")[0], ("Accepted", "False", "IncompatibleFilters"), "{rule}");
    }
}

#[test]
fn a_bad_edit_leaves_the_last_good_version_in_effect() {
    let gateway = Some(("default".into(), "wp".into()));
    let mut history = History::default();
    let good = route("HTTPRoute", "r", "default", to_shop(), to("v2"));
    let bad = route("HTTPRoute", "r", "default", to_shop(), json!([{"timeouts": {"request": "soon"}}]));
    let worse = route("HTTPRoute", "r", "default", to_shop(), json!("nonsense"));
    compile(&objects(&[good]), &world(), &gateway, &mut history);
    for broken in [bad, worse] {
        let plan = compile(&objects(&[broken]), &world(), &gateway, &mut history);
        assert_eq!(lands(&plan, "shop", 80, "x", "/").as_deref(), Some("HTTPRoute/default/r#0"));
        assert_eq!(reasons(&plan, "r")[0].1, "False");
        assert!(reasons(&plan, "r").iter().any(|reason| reason.0 == "PartiallyInvalid"));
    }
    let plan = compile(&[], &world(), &gateway, &mut history);
    assert_eq!(lands(&plan, "shop", 80, "x", "/").as_deref(), Some("Service/default/shop#0"));
}

fn mesh_policy(name: &str, namespace: &str, spec: Value) -> Value {
    json!({"apiVersion": "culvert.dev/v1alpha1", "kind": "MeshPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn settings(plan: &Plan) -> Arc<Settings> {
    let Routing::Http(table) = &*routing(plan, "shop", 80, "x") else { panic!("not HTTP") };
    Arc::clone(&table.entries().next().unwrap().rule.settings)
}

#[test]
fn settings_come_from_the_most_specific_source() {
    let target = |kind: &str, group: &str, name: &str| json!([{"group": group, "kind": kind, "name": name}]);
    let attempts = |attempts: u32| json!({"attempts": attempts});
    let with = |targets: Value, count: u32| json!({"targetRefs": targets, "retry": attempts(count)});
    let rule = json!([{"name": "one", "retry": {"attempts": 6}, "backendRefs": [{"name": "v2", "port": 80}]}]);
    let plain = route("HTTPRoute", "r", "default", to_shop(), to("v2"));
    let mut values = vec![plain];
    for (policy, wanted) in [
        (mesh_policy("mesh", "culvert-system", json!({"retry": attempts(1)})), 1),
        (mesh_policy("ns", "default", json!({"retry": attempts(3)})), 3),
        (mesh_policy("gw", "default", with(target("Gateway", "gateway.networking.k8s.io", "wp"), 4)), 4),
        (mesh_policy("svc", "default", with(target("Service", "", "shop"), 5)), 5),
        (mesh_policy("route", "default", with(target("HTTPRoute", "gateway.networking.k8s.io", "r"), 7)), 7),
    ] {
        values.push(policy);
        assert_eq!(settings(&plan_of(&values)).retry_attempts, wanted);
    }
    values[0] = route("HTTPRoute", "r", "default", to_shop(), rule);
    assert_eq!(settings(&plan_of(&values)).retry_attempts, 6, "the rule's own field");
    assert!(!settings(&plan_of(&values)).retry_idempotent_only, "who writes a retry stanza means it");
}

#[test]
fn of_two_policies_on_one_target_the_older_wins() {
    let plan = plan_of(&[
        mesh_policy("first", "default", json!({"retry": {"attempts": 4}})),
        mesh_policy("second", "default", json!({"retry": {"attempts": 5}})),
        mesh_policy("absent", "default", json!({"targetRefs": [{"kind": "Service", "name": "absent"}]})),
        mesh_policy("jitter", "default", json!({"retry": {"backoff": {"jitter": "none"}}})),
    ]);
    assert_eq!(settings(&plan).retry_attempts, 4);
    assert_eq!(reasons(&plan, "second")[0], ("Accepted", "False", "Conflicted"));
    assert_eq!(reasons(&plan, "absent")[0], ("Accepted", "False", "TargetNotFound"));
    assert_eq!(reasons(&plan, "jitter")[0], ("Accepted", "False", "Invalid"));
}

#[test]
fn timeouts_of_zero_are_off() {
    let timed = |timeouts: Value| {
        let rules = json!([{"timeouts": timeouts, "backendRefs": [{"name": "v2", "port": 80}]}]);
        settings(&plan_of(&[route("HTTPRoute", "r", "default", to_shop(), rules)]))
    };
    let second = std::time::Duration::from_secs(1);
    let off = timed(json!({"request": "0s"}));
    assert_eq!((off.deadline_request, off.deadline_default), (None, None));
    let on = timed(json!({"request": "2s", "backendRequest": "1s"}));
    assert_eq!((on.deadline_request, on.per_try_timeout), (Some(2 * second), Some(second)));
}

#[test]
fn a_security_policy_that_cannot_be_read_refuses_everything() {
    let policy = |spec: Value| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "default"}, "spec": spec})
    };
    let target = json!([{"group": "", "kind": "Service", "name": "shop"}]);
    let plan =
        plan_of(&[policy(json!({"targetRefs": target, "rules": [{"when": [{"key": "unknown", "values": ["x"]}]}]}))]);
    assert_eq!(reasons(&plan, "p")[0], ("Accepted", "False", "Invalid"));
    let policies = &plan.services[&key("shop", "default")].security.policies;
    assert_eq!((policies.len(), policies[0].action), (1, mesh::model::policy::Action::Deny));
    assert!(plan.services[&key("v2", "default")].security.policies.is_empty());
    let selector = plan_of(&[policy(json!({"selector": {}, "rules": [{}]}))]);
    assert!(selector.services[&key("shop", "default")].security.policies.is_empty(), "the agents' business");
}

#[test]
fn what_a_policy_says_in_vain_is_an_error_and_closes_its_target() {
    let target = json!([{"group": "", "kind": "Service", "name": "shop"}]);
    let judged = |spec: Value, annotations: Value| {
        let mut spec = spec;
        spec["targetRefs"] = target.clone();
        let plan = plan_of(&[json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "default", "annotations": annotations}, "spec": spec})]);
        let policy = Arc::clone(&plan.services[&key("shop", "default")].security.policies[0]);
        (reasons(&plan, "p")[0].1 == "True", policy)
    };
    for spec in [
        json!({"action": "DENY", "rules": [{"from": [{"source": {}}]}]}),
        json!({"rules": [{"from": [{"source": {}}]}]}),
        json!({"rules": [{"from": [{}]}]}),
        json!({"rules": [{"from": []}]}),
        json!({"rules": [{"to": [{"operation": {}}]}]}),
        json!({"rules": [{"to": [{}]}]}),
        json!({"rules": [{"to": []}]}),
        json!({"action": "DENY", "rules": [{"from": [{"source": {"principal": ["x"]}}]}]}),
        json!({"action": "DENY", "rule": [{}]}),
        json!({"action": "deny", "rules": [{}]}),
        json!({"rules": [{"from": [{"source": {"principals": ["a*b"]}}]}]}),
        json!({"rules": [{"from": [{"source": {"namespaces": [""]}}]}]}),
        json!({"rules": [{"to": [{"operation": {"paths": ["/a*b"]}}]}]}),
        json!({"rules": [{"to": [{"operation": {"ports": ["0"]}}]}]}),
        json!({"rules": [{"to": [{"operation": {"ports": ["http"]}}]}]}),
        json!({"rules": [{"from": [{"source": {"serviceAccounts": ["a/b/c"]}}]}]}),
        json!({"rules": [{"when": [{"key": "request.headers[:path]", "values": ["/x"]}]}]}),
        json!({"rules": [{"when": [{"key": "request.auth.claims[]", "values": ["/x"]}]}]}),
        json!({"selector": {"matchLabels": {"app": "shop"}}, "rules": [{}]}),
    ] {
        let (accepted, policy) = judged(spec.clone(), json!({}));
        assert!(!accepted, "{spec}");
        assert_eq!((policy.action, policy.rules.len()), (mesh::model::policy::Action::Deny, 1), "{spec}");
        assert!(policy.rules[0].from.is_empty() && policy.rules[0].to.is_empty(), "{spec}");
    }
    for (value, dry) in [("true", true), ("True", true), ("1", true), ("t", true), ("yes", false), ("false", false)] {
        assert_eq!(judged(json!({"rules": [{}]}), json!({"istio.io/dry-run": value})).1.dry_run, dry, "{value}");
    }
    let (accepted, policy) =
        judged(json!({"rules": [{"from": [{"source": {"principals": ["spiffe://td/ns/a/sa/b"]}}]}]}), json!({}));
    let principal = mesh::model::rule::Attribute::Principal(["td/ns/a/sa/b".parse().unwrap()].into());
    assert_eq!((accepted, &policy.rules[0].from[0][0].attribute), (true, &principal));
}

#[test]
fn five_thousand_routes_compile_quickly_with_shared_settings() {
    let values: Vec<Value> = (0..5000)
        .map(|n| {
            let rules = json!([{"matches": [{"path": {"value": format!("/team{n}")}}], "backendRefs": [{"name": "v2", "port": 80}]}]);
            route("HTTPRoute", &format!("r{n}"), "default", to_shop(), rules)
        })
        .collect();
    let plan = plan_of(&values);
    assert_eq!(lands(&plan, "shop", 80, "x", "/team4321/a").as_deref(), Some("HTTPRoute/default/r4321#0"));
    let Routing::Http(table) = &*routing(&plan, "shop", 80, "x") else { panic!("not HTTP") };
    let mut entries = table.entries();
    let first = entries.next().unwrap();
    assert!(entries.all(|entry| Arc::ptr_eq(&entry.rule.settings, &first.rule.settings)));
}
