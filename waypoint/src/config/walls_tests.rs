//! Who may route and write rules for whom: objects in, plan and conditions out.

use http::{HeaderMap, Method};
use mesh::model::waypoint::Waypoint;
use serde_json::{Value, json};

use super::*;
use crate::config::security::Security;
use crate::request::query::Query;

fn service(name: &str, namespace: &str, address: u8) -> Arc<Service> {
    let mut service = Service::sample(name, namespace, &[[10, 96, 0, address].into()], &[(80, 8080), (81, 8081)]);
    service.waypoint = Some(Box::new(Waypoint::sample("infra", "wp", None)));
    service.ports[0].name = "http".into();
    service.ports[1].name = "second".into();
    Arc::new(service)
}

/// A waypoint in `infra` that `infra`, `bank` and `evil` use.
fn world() -> Services {
    Services::new([service("portal", "infra", 1), service("bank", "bank", 2), service("trap", "evil", 3)])
}

fn objects(values: &[Value]) -> Vec<Arc<Object>> {
    let read = |(place, value): (usize, &Value)| Arc::new(Object::from_json(value, "test.yaml:1", place).unwrap());
    values.iter().enumerate().map(read).collect()
}

fn plan_for(gateway: Option<(&str, &str)>, values: &[Value]) -> Plan {
    let gateway = gateway.map(|(namespace, name)| (namespace.into(), name.into()));
    compile(&objects(values), &world(), &gateway, &mut History::default())
}

fn plan_of(values: &[Value]) -> Plan {
    plan_for(Some(("infra", "wp")), values)
}

fn gateway(allowed: Value) -> Value {
    let second =
        json!({"name": "spare", "port": 15009, "protocol": "HBONE", "allowedRoutes": {"namespaces": {"from": "All"}}});
    let other =
        json!({"name": "web", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}});
    let mut listeners =
        vec![json!({"name": "mesh", "port": 15008, "protocol": "HBONE", "allowedRoutes": allowed}), other];
    if allowed == json!("two") {
        listeners[0]["allowedRoutes"] = json!({});
        listeners.push(second);
    }
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "wp", "namespace": "infra"},
        "spec": {"gatewayClassName": "culvert-waypoint", "listeners": listeners}})
}

fn of_kind(kind: &str, namespace: &str, parent: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": "r", "namespace": namespace},
        "spec": {"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "trap", "namespace": "evil", "port": 80}]}]}})
}

fn route(namespace: &str, parent: Value) -> Value {
    of_kind("HTTPRoute", namespace, parent)
}

fn to_gateway() -> Value {
    json!({"name": "wp", "namespace": "infra"})
}

fn told(plan: &Plan, name: &str) -> (&'static str, &'static str, String) {
    let status = plan.statuses.iter().find(|status| &*status.name == name).unwrap();
    let accepted = status.conditions().find(|condition| condition.kind == "Accepted").unwrap();
    (accepted.status, accepted.reason, accepted.message.clone())
}

fn key(name: &str, namespace: &str) -> ServiceKey {
    Service::sample(name, namespace, &[], &[]).key
}

/// Which route a client's request falls under, and whether it was written by others than the service's own.
fn lands(plan: &Plan, service: (&str, &str), client: &str) -> (String, bool) {
    let routing = plan.services[&key(service.1, service.0)].ports[&80].routing(Some(&client.into()));
    let Routing::Http(table) = &**routing else { panic!("not HTTP") };
    let found = table.find(&Method::GET, "/", &HeaderMap::new(), &Query::new("")).unwrap();
    (found.rule.id.to_string(), found.rule.foreign)
}

fn is_taken(plan: &Plan, service: (&str, &str)) -> bool {
    lands(plan, service, "client").0.starts_with("HTTPRoute")
}

#[test]
fn a_gateway_admits_routes_of_its_own_namespace_unless_it_says_otherwise() {
    let labelled = |labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "evil", "labels": labels}});
    let selector = |labels: Value| json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": labels}}});
    for (allowed, labels, reason) in [
        (json!({}), json!({}), Some("NotAllowedByListeners")),
        (json!({"namespaces": {"from": "Same"}}), json!({}), Some("NotAllowedByListeners")),
        (json!({"namespaces": {"from": "None"}}), json!({}), Some("NotAllowedByListeners")),
        (json!({"namespaces": {"from": "Whoever"}}), json!({}), Some("NotAllowedByListeners")),
        (json!({"namespaces": {"from": "Selector"}}), json!({}), Some("NotAllowedByListeners")),
        (selector(json!({"team": "red"})), json!({"team": "blue"}), Some("NotAllowedByListeners")),
        (selector(json!({"team": "red"})), json!({"team": "red"}), None),
        (selector(json!({"kubernetes.io/metadata.name": "evil"})), json!({}), None),
        (
            selector(json!({"kubernetes.io/metadata.name": "good"})),
            json!({"kubernetes.io/metadata.name": "good"}),
            Some("NotAllowedByListeners"),
        ),
        (
            json!({"namespaces": {"from": "All"}, "kinds": [{"kind": "GRPCRoute"}]}),
            json!({}),
            Some("NotAllowedByListeners"),
        ),
        (json!({"namespaces": {"from": "All"}}), json!({}), None),
    ] {
        let plan = plan_of(&[gateway(allowed.clone()), labelled(labels), route("evil", to_gateway())]);
        let (status, found, message) = told(&plan, "r");
        assert_eq!((status, found), reason.map_or(("True", "Accepted"), |reason| ("False", reason)), "{allowed}");
        if reason.is_some() {
            assert!(message.contains("Gateway infra/wp") && message.contains("HTTPRoute evil/r"), "{message}");
        }
        assert_eq!(is_taken(&plan, ("infra", "portal")), reason.is_none(), "{allowed}");
    }
    let own = plan_of(&[gateway(json!({})), route("infra", to_gateway())]);
    assert!(
        is_taken(&own, ("infra", "portal")) && is_taken(&own, ("bank", "bank")),
        "the waypoint's owner routes for all"
    );
}

#[test]
fn a_waypoint_that_many_use_lets_none_of_them_route_for_another() {
    let all = || gateway(json!({"namespaces": {"from": "All"}}));
    let plan = plan_of(&[all(), route("evil", to_gateway())]);
    assert!(!is_taken(&plan, ("bank", "bank")), "bank has not asked for it");
    assert!(is_taken(&plan, ("evil", "trap")));
    assert!(is_taken(&plan, ("infra", "portal")), "the Gateway's owner has admitted it");
    let services = Services::new([service("bank", "bank", 2)]);
    let gateway_name = Some(("infra".into(), "wp".into()));
    let objects = objects(&[all(), route("evil", to_gateway())]);
    let plan = compile(&objects, &services, &gateway_name, &mut History::default());
    let (status, reason, message) = told(&plan, "r");
    assert_eq!((status, reason), ("False", "RefNotPermitted"));
    assert!(message.contains("Service bank/bank") && message.contains("HTTPRoute evil/r"), "{message}");
}

#[test]
fn section_and_port_of_a_parent_mean_one_listener_or_port() {
    let with = |mut parent: Value, section: Option<&str>, port: Option<u16>| {
        section.into_iter().for_each(|section| parent["sectionName"] = json!(section));
        port.into_iter().for_each(|port| parent["port"] = json!(port));
        parent
    };
    for (section, port, taken) in [
        (Some("nolistener"), None, false),
        (Some("mesh"), None, true),
        (Some("web"), None, false),
        (None, Some(15008), true),
        (None, Some(80), false),
        (Some("mesh"), Some(15009), false),
        (Some("spare"), Some(15009), true),
    ] {
        let plan = plan_of(&[gateway(json!("two")), route("infra", with(to_gateway(), section, port))]);
        assert_eq!(is_taken(&plan, ("infra", "portal")), taken, "{section:?} {port:?}");
        let wanted = if taken { ("True", "Accepted") } else { ("False", "NoMatchingParent") };
        let (status, reason, _) = told(&plan, "r");
        assert_eq!((status, reason), wanted, "{section:?} {port:?}");
    }
    let to_service = || json!({"group": "", "kind": "Service", "name": "bank"});
    for (section, port, taken) in [
        (Some("http"), Some(80), true),
        (Some("second"), Some(80), false),
        (Some("http"), Some(81), false),
        (Some("none"), Some(80), false),
        (Some("http"), None, true),
    ] {
        let plan = plan_of(&[route("bank", with(to_service(), section, port))]);
        assert_eq!(is_taken(&plan, ("bank", "bank")), taken, "{section:?} {port:?}");
        assert_eq!(told(&plan, "r").0, if taken { "True" } else { "False" }, "{section:?} {port:?}");
    }
}

#[test]
fn check_looks_at_every_waypoint() {
    let found = plan_for(None, &[gateway(json!({})), route("evil", to_gateway())]);
    assert_eq!(told(&found, "r").1, "NotAllowedByListeners");
    let mut ingress = gateway(json!({}));
    ingress["spec"]["gatewayClassName"] = json!("envoy");
    let found = plan_for(None, &[ingress.clone(), route("evil", to_gateway())]);
    assert!(found.statuses.is_empty(), "another controller's business");
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "envoy"}, "spec": {"controllerName": "culvert.dev/waypoint"}});
    let found = plan_for(None, &[class, ingress, route("evil", to_gateway())]);
    assert_eq!(told(&found, "r").1, "NotAllowedByListeners", "a class by another name");
    let found = plan_of(&[route("infra", to_gateway())]);
    assert_eq!(told(&found, "r").1, "NoMatchingParent", "there is no such Gateway");
}

#[test]
fn routes_know_whether_they_are_of_the_services_own_namespace() {
    let to_bank = json!({"group": "", "kind": "Service", "name": "bank", "namespace": "bank"});
    let consumer = plan_of(&[route("evil", to_bank.clone())]);
    assert_eq!(lands(&consumer, ("bank", "bank"), "evil"), ("HTTPRoute/evil/r#0".to_owned(), true));
    assert_eq!(lands(&consumer, ("bank", "bank"), "client"), ("Service/bank/bank#0".to_owned(), false));
    let producer = plan_of(&[route("bank", to_bank)]);
    assert_eq!(lands(&producer, ("bank", "bank"), "evil"), ("HTTPRoute/bank/r#0".to_owned(), false));
    let shared = plan_of(&[gateway(json!({})), route("infra", to_gateway())]);
    assert!(lands(&shared, ("bank", "bank"), "client").1, "the Gateway's owner is not the bank");
    assert!(!lands(&shared, ("infra", "portal"), "client").1);
}

fn rule(name: &str, namespace: &str, most: u32, export_to: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "1999-01-01T00:00:00Z"},
        "spec": {"host": "bank.bank.svc.cluster.local", "exportTo": export_to,
            "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": most}, "tcp": {"connectTimeout": "7s"}}}}})
}

fn most(plan: &Plan, client: &str) -> u32 {
    plan.settings_for(&key("bank", "bank"), &client.into()).max_in_flight
}

#[test]
fn a_destination_rule_concerns_clients_of_its_own_namespace_or_those_of_its_service() {
    let all = || json!([]);
    let plan = plan_of(&[rule("theirs", "evil", 1, all())]);
    assert_eq!((most(&plan, "evil"), most(&plan, "client"), most(&plan, "bank")), (1, 8192, 8192));
    assert_eq!(plan.settings_of(&key("bank", "bank")).max_in_flight, 8192);
    let (status, _, message) = told(&plan, "theirs");
    assert!(status == "True" && message.contains("clients of namespace evil alone"), "{message}");

    let plan = plan_of(&[
        rule("theirs", "evil", 1, all()),
        rule("own", "bank", 5, all()),
        rule("root", "culvert-system", 9, all()),
    ]);
    assert_eq!((most(&plan, "evil"), most(&plan, "client"), most(&plan, "bank")), (1, 5, 5));
    assert!(plan.statuses.iter().all(|status| status.is_good()), "each namespace may have one");
    let plan = plan_of(&[rule("theirs", "evil", 1, all()), rule("root", "culvert-system", 9, all())]);
    assert_eq!((most(&plan, "evil"), most(&plan, "client")), (1, 9));

    let plan = plan_of(&[rule("own", "bank", 5, json!(["."])), rule("root", "culvert-system", 9, all())]);
    assert_eq!((most(&plan, "client"), most(&plan, "bank")), (9, 5), "exportTo");
    let plan = plan_of(&[rule("theirs", "evil", 1, json!(["~"]))]);
    assert_eq!(most(&plan, "evil"), 8192, "exported to nobody");

    let twice = plan_of(&[rule("one", "evil", 1, all()), rule("two", "evil", 2, all())]);
    assert_eq!((told(&twice, "two").1, most(&twice, "evil")), ("Conflicted", 1));
}

#[test]
fn a_consumer_cannot_lift_the_limits_of_a_service() {
    let plan = plan_of(&[rule("theirs", "evil", 100_000, json!([])), rule("own", "bank", 5, json!([]))]);
    let theirs = plan.settings_for(&key("bank", "bank"), &"evil".into());
    assert_eq!((theirs.max_in_flight, theirs.connect_timeout.as_secs()), (5, 7));
    let policy = json!({"apiVersion": "culvert.dev/v1alpha1", "kind": "MeshPolicy",
        "metadata": {"name": "p", "namespace": "bank"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "bank"}], "circuitBreaker": {"service": {"maxInFlight": 3}}}});
    let plan = plan_of(&[rule("theirs", "evil", 100_000, json!([])), policy]);
    assert_eq!((most(&plan, "evil"), most(&plan, "client")), (3, 3));
}

#[test]
fn policies_apply_to_their_own_namespace_and_say_whom_they_missed() {
    let policy = |version: &str, kind: &str, namespace: &str, target: Value| {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": "p", "namespace": namespace},
            "spec": {"targetRefs": [target], "rules": []}})
    };
    let bank = json!({"group": "", "kind": "Service", "name": "bank", "namespace": "bank"});
    let class = json!({"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "culvert-waypoint"});
    let shared = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "wp", "namespace": "infra"});
    let absent = json!({"group": "", "kind": "Service", "name": "bank"});
    for (kind, target, reason) in [
        ("AuthorizationPolicy", &bank, "RefNotPermitted"),
        ("AuthorizationPolicy", &class, "RefNotPermitted"),
        ("AuthorizationPolicy", &shared, "RefNotPermitted"),
        ("AuthorizationPolicy", &absent, "TargetNotFound"),
        ("RequestAuthentication", &bank, "RefNotPermitted"),
        ("RequestAuthentication", &class, "RefNotPermitted"),
    ] {
        let mut policy = policy("security.istio.io/v1", kind, "evil", target.clone());
        if kind == "RequestAuthentication" {
            policy["spec"]["rules"].take();
        }
        let plan = plan_of(&[policy]);
        let (status, found, message) = told(&plan, "p");
        assert_eq!((status, found), ("False", reason), "{kind} {target}");
        assert!(reason != "RefNotPermitted" || message.contains(&format!("{kind} evil/p")), "{message}");
        let enforced = plan.services.values().map(|service| service.security.policies.len()).sum::<usize>();
        assert_eq!(enforced + plan.of_workloads.security.policies.len(), 0, "{kind} {target}");
    }
    for (version, kind) in
        [("culvert.dev/v1alpha1", "MeshPolicy"), ("gateway.networking.x-k8s.io/v1alpha1", "XBackendTrafficPolicy")]
    {
        let mut policy = policy(version, kind, "evil", bank.clone());
        policy["spec"].as_object_mut().unwrap().remove("rules");
        let plan = plan_of(&[policy]);
        let (status, found, message) = told(&plan, "p");
        assert_eq!((status, found), ("False", "RefNotPermitted"), "{kind}");
        assert!(message.contains(&format!("{kind} evil/p")) && message.contains("Service bank/bank"), "{message}");
    }
}

#[test]
fn a_tenant_cannot_forestall_a_root_namespace_by_its_age() {
    let policy = |name: &str, namespace: &str, attempts: u32, created: &str| {
        json!({"apiVersion": "culvert.dev/v1alpha1", "kind": "MeshPolicy",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created},
            "spec": {"targetRefs": [{"kind": "Service", "name": "bank", "namespace": "bank"}], "retry": {"attempts": attempts}}})
    };
    let plan = plan_of(&[
        policy("theirs", "bank", 9, "1999-01-01T00:00:00Z"),
        policy("operator", "culvert-system", 1, "2026-01-01T00:00:00Z"),
    ]);
    assert_eq!(plan.settings_of(&key("bank", "bank")).retry_attempts, 1);
    assert_eq!(told(&plan, "theirs").1, "Conflicted");
}

#[test]
fn no_filter_writes_what_only_the_mesh_may_say() {
    for name in [
        "x-forwarded-client-cert",
        "X-Forwarded-Client-Cert",
        "x_forwarded_client_cert",
        "x-mesh-source",
        "x-mesh-retried",
        "x-culvert-source",
        "x-envoy-peer-metadata",
        "transfer-encoding",
        "content-length",
        "connection",
        "host",
        "upgrade",
        "te",
    ] {
        for does in ["set", "add"] {
            for (filter, field) in [
                ("RequestHeaderModifier", "requestHeaderModifier"),
                ("ResponseHeaderModifier", "responseHeaderModifier"),
            ] {
                let headers = json!([{"name": name, "value": "URI=spiffe://root"}, {"name": "x-fine", "value": "1"}]);
                let filters = json!([{"type": filter, field: {does: headers}}]);
                let mut written = route("bank", json!({"group": "", "kind": "Service", "name": "bank"}));
                written["spec"]["rules"][0]["filters"] = filters.clone();
                written["spec"]["rules"][0]["backendRefs"][0]["filters"] = filters;
                let plan = plan_of(&[written]);
                let status = plan.statuses.iter().find(|status| &*status.name == "r").unwrap();
                let partly = status.conditions().find(|condition| condition.kind == "PartiallyInvalid").unwrap();
                assert_eq!(partly.reason, "UnsupportedValue", "{name}");
                assert!(partly.message.contains(&name.to_lowercase()), "{}", partly.message);
                let routing = plan.services[&key("bank", "bank")].ports[&80].routing(None);
                let Routing::Http(table) = &**routing else { panic!("not HTTP") };
                let rule = table.entries().next().unwrap().rule;
                let backend = rule.backend(0).expect("the rule itself goes on");
                let all = [
                    &rule.request_headers,
                    &rule.response_headers,
                    &backend.request_headers,
                    &backend.response_headers,
                ];
                let left = all.iter().flat_map(|changes| changes.set.iter().chain(&*changes.add));
                let left: Vec<_> = left.map(|(name, _)| name.as_str()).collect();
                assert_eq!(left, ["x-fine", "x-fine"], "{name}");
            }
        }
    }
}

#[test]
fn of_an_object_in_two_files_one_is_in_effect_and_the_other_is_told() {
    let to_bank = json!({"group": "", "kind": "Service", "name": "bank"});
    let (mut first, second) = (route("bank", to_bank.clone()), route("bank", to_bank));
    first["spec"]["rules"] = json!([{"name": "first", "backendRefs": [{"name": "bank", "port": 80}]}]);
    let plan = plan_of(&[first, second]);
    assert_eq!(lands(&plan, ("bank", "bank"), "client").0, "HTTPRoute/bank/r#first");
    let told: Vec<_> = plan.statuses.iter().map(|status| status.conditions().next().unwrap()).collect();
    assert_eq!(told.iter().filter(|condition| condition.status == "True").count(), 1);
    assert_eq!(told.iter().filter(|condition| condition.reason == "Conflicted").count(), 1);
}

/// Who refuses everything.
fn closed(plan: &Plan) -> Vec<String> {
    let refuses = |security: &Security| {
        let mut policies = security.policies.iter();
        let everything = [mesh::model::rule::Rule::default()];
        policies.any(|policy| policy.action == mesh::model::policy::Action::Deny && *policy.rules == everything)
    };
    let services = plan.services.values().filter(|service| refuses(&service.security));
    let mut closed: Vec<String> = services.map(|service| service.service.name.to_string()).collect();
    closed.extend(refuses(&plan.of_workloads.security).then(|| "workloads".to_owned()));
    closed.sort();
    closed
}

#[test]
fn a_policy_whose_target_is_none_refuses_whatever_it_may_be_for() {
    let all = ["bank", "portal", "trap", "workloads"];
    for (namespace, target, expected) in [
        ("bank", json!({"kind": "service", "name": "bank"}), &["bank"][..]),
        ("bank", json!({"group": "apps", "kind": "Deployment", "name": "bank"}), &["bank"]),
        ("bank", json!({"group": "v1", "kind": "Service", "name": "bank"}), &["bank"]),
        ("bank", json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "bank"}), &[]),
        ("bank", json!({"name": "other"}), &["bank"]),
        ("bank", json!({"kind": "Service"}), &["bank"]),
        ("bank", json!({"kind": "Service", "name": ""}), &["bank"]),
        ("bank", json!({"kind": 5, "name": "other"}), &["bank"]),
        ("bank", json!({"kind": "Service", "name": ["bank"]}), &["bank"]),
        ("bank", json!("bank"), &["bank"]),
        ("bank", json!({}), &["bank"]),
        // It may be for the waypoint too, which others use.
        ("infra", json!({"kind": "gateway", "name": "wp"}), &all),
        ("infra", json!({}), &all),
        ("infra", json!({"kind": "gateway", "name": "other"}), &[]),
        ("elsewhere", json!({"kind": "Service"}), &[]),
        ("elsewhere", json!({"kind": "gateway", "name": "wp"}), &[]),
        ("culvert-system", json!({"kind": "Gatewayclass", "name": "culvert-waypoint"}), &all),
        ("culvert-system", json!({}), &all),
        ("culvert-system", json!({"kind": "service", "name": "bank"}), &[]),
        // Somebody else's is never refused.
        ("evil", json!({"kind": "Thing", "name": "bank", "namespace": "bank"}), &[]),
    ] {
        for (kind, spec) in [
            (
                "AuthorizationPolicy",
                json!({"targetRefs": [target], "rules": [{"to": [{"operation": {"ports": ["1"]}}]}]}),
            ),
            ("AuthorizationPolicy", json!({"targetRef": target, "action": "DENY", "rules": []})),
            ("RequestAuthentication", json!({"targetRefs": [target], "jwtRules": []})),
        ] {
            let policy = json!({"apiVersion": "security.istio.io/v1", "kind": kind,
                "metadata": {"name": "p", "namespace": namespace}, "spec": spec});
            let plan = plan_of(&[policy]);
            assert_eq!(closed(&plan), expected, "{namespace} {kind} {spec}");
            assert_eq!(told(&plan, "p").0, "False", "{namespace} {kind} {spec}");
        }
    }
}

#[test]
fn a_policy_whose_target_cannot_be_read_any_more_stays_what_it_was() {
    let policy = |target: Value| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "bank"},
            "spec": {"targetRefs": [target], "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}})
    };
    let mut history = History::default();
    let gateway = Some(("infra".into(), "wp".into()));
    compile(&objects(&[policy(json!({"kind": "Service", "name": "bank"}))]), &world(), &gateway, &mut history);
    let plan = compile(&objects(&[policy(json!({"kind": "service"}))]), &world(), &gateway, &mut history);
    assert_eq!(closed(&plan), Vec::<String>::new());
    let of_bank = plan.services.values().find(|service| service.service.name.as_str() == "bank").unwrap();
    assert_eq!(of_bank.security.policies.len(), 1, "the last good version");
    assert_eq!(told(&plan, "p").0, "False");
    let gone = compile(&objects(&[]), &world(), &gateway, &mut history);
    assert!(gone.services.values().all(|service| service.security.policies.is_empty()));
}
