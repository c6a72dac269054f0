//! Policies on requests that can be read, that can be read in several ways, and on connections without any.

use http::{HeaderMap, HeaderName, Method};
use mesh::model::identity::Identity;
use mesh::model::policy::{Action, Authorization, PolicyKey, Scope};
use mesh::model::rule::{Attribute, PathMatches, Rule, StringMatch, Test};
use mesh::policy::overrides::{METHOD_PARAM, Overridable, Overrides};
use mesh::policy::path::Readings;
use mesh::policy::pattern;
use mesh::policy::subject::{Http, Subject};
use mesh::policy::trace::trace;

use super::*;
use crate::request::query::Query;

fn policy(action: Action, tests: Vec<Test>) -> Authorization {
    let key = PolicyKey { namespace: "default".into(), name: "p".into() };
    let rule = Rule { when: tests.into(), ..Rule::default() };
    Authorization { key, scope: Scope::Targets, action, dry_run: false, rules: [rule].into() }
}

fn text(value: &str) -> Box<[StringMatch]> {
    [value.parse().unwrap()].into()
}

fn path(value: &str) -> PathMatches {
    pattern::parse(value).unwrap()
}

fn role() -> HeaderName {
    "x-role".parse().unwrap()
}

fn subject<'a>(client: &'a Identity, http: Option<Http<'a>>) -> Subject<'a> {
    let source = Some("10.0.0.1".parse().unwrap());
    let destination = Some("10.96.0.10".parse().unwrap());
    Subject { identity: Some(client), source, remote: source, destination, port: 80, http }
}

/// Whether a request is let in by one policy.
fn admits(policy: &Authorization, http: Option<Http<'_>>) -> bool {
    let client = Identity::new("td", "default", "client");
    judge([policy].into_iter(), &subject(&client, http)).refusal.is_none()
}

#[test]
fn what_cannot_be_known_refuses_and_never_admits() {
    for attribute in [
        Attribute::Path(path("/x")),
        Attribute::Host(text("x")),
        Attribute::Method(text("x")),
        Attribute::RequestPrincipal(text("x")),
        Attribute::Header(role(), text("x")),
        Attribute::ServerName(text("x")),
    ] {
        for negated in [false, true] {
            let tests = || vec![Test { attribute: attribute.clone(), negated }];
            assert!(!admits(&policy(Action::Allow, tests()), None), "ALLOW {attribute:?} {negated}");
            assert!(!admits(&policy(Action::Deny, tests()), None), "DENY {attribute:?} {negated}");
        }
    }
    let elsewhere = vec![Test::is(Attribute::Namespace(text("bank"))), Test::is(Attribute::Path(path("/x")))];
    assert!(admits(&policy(Action::Deny, elsewhere), None), "what is known not to match needs no more");
}

#[test]
fn without_http_an_allow_rule_that_asks_for_a_request_admits_nobody() {
    let mut either = policy(Action::Allow, vec![]);
    let of_connection = [Test::is(Attribute::DestinationPort([80].into()))];
    either.rules[0].to = [[Test::is(Attribute::Method(text("GET")))].into(), of_connection.into()].into();
    assert!(!admits(&either, None), "as at agents");
    let (headers, path) = (HeaderMap::new(), Readings::of("/"));
    let overrides = Overrides::default();
    let http = Http {
        method: &Method::POST,
        host: "shop",
        path: &path,
        headers: &headers,
        overrides: &overrides,
        token: None,
    };
    assert!(admits(&either, Some(http)), "of a request all is known");
}

#[test]
fn several_readings_refuse_and_admit_nowhere() {
    let mut headers = HeaderMap::new();
    headers.append("x-role", "guest".parse().unwrap());
    headers.append("x-role", "admin".parse().unwrap());
    let read = Readings::of("/public/..;/admin");
    let overrides = Overrides::default();
    let http = Http {
        method: &Method::GET,
        host: "shop.",
        path: &read,
        headers: &headers,
        overrides: &overrides,
        token: None,
    };
    for attribute in
        [Attribute::Header(role(), text("admin")), Attribute::Path(path("/admin")), Attribute::Host(text("shop"))]
    {
        for negated in [false, true] {
            let tests = || vec![Test { attribute: attribute.clone(), negated }];
            assert!(!admits(&policy(Action::Allow, tests()), Some(http)), "ALLOW {attribute:?} {negated}");
            assert!(!admits(&policy(Action::Deny, tests()), Some(http)), "DENY {attribute:?} {negated}");
        }
    }
}

#[test]
fn what_is_only_tried_or_logged_is_told_and_refuses_nothing() {
    let client = Identity::new("td", "default", "client");
    let named = |name: &str, action, dry_run, namespace| {
        let mut policy = policy(action, vec![Test::is(Attribute::Namespace(text(namespace)))]);
        (policy.key.name, policy.dry_run) = (name.into(), dry_run);
        policy
    };
    let policies = [
        named("audit", Action::Audit, false, "default"),
        named("audit-other", Action::Audit, false, "bank"),
        named("deny", Action::Deny, true, "default"),
        named("deny-other", Action::Deny, true, "bank"),
        named("allow", Action::Allow, true, "default"),
        named("allow-other", Action::Allow, true, "bank"),
    ];
    let judged = judge(policies.iter(), &subject(&client, None));
    let names = |keys: &[PolicyKey]| keys.iter().map(|key| key.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&judged.audits), ["audit"]);
    assert_eq!(names(&judged.dry_run), ["deny", "allow-other"]);
    assert_eq!(judged.refusal, None);
}

#[test]
fn a_trace_tells_each_field_of_each_rule() {
    let from = Test::is_not(Attribute::Principal(text("td/ns/default/sa/other")));
    let mut policy = policy(Action::Deny, vec![Test::is(Attribute::Header(role(), text("a")))]);
    policy.rules[0].from = [[from].into()].into();
    let client = Identity::new("td", "default", "client");
    let told = "rule 0 (cannot be judged here): from[0].notPrincipals [td/ns/default/sa/other] of \
                \"td/ns/default/sa/client\": yes; when request.headers[x-role] [a] of no request: \
                cannot be judged here";
    assert_eq!(trace(&policy, &subject(&client, None))[0].to_string(), told);
}

type Lines<'a> = &'a [(&'static str, &'static str)];

/// An attribute of a request for `/public` at `shop` by GET, its value, what fields give in its place, and the other
/// value.
type Overridden = (fn(&str) -> Attribute, &'static str, Lines<'static>, &'static str, &'static str);

#[test]
fn what_fields_give_in_place_of_path_method_or_host_is_judged_too() {
    let of_path: fn(&str) -> Attribute = |value| Attribute::Path(path(value));
    let of_method: fn(&str) -> Attribute = |value| Attribute::Method(text(value));
    let of_host: fn(&str) -> Attribute = |value| Attribute::Host(text(value));
    let cases: [Overridden; 17] = [
        (of_path, "/public", &[("x-original-url", "/admin")], "", "/admin"),
        (of_path, "/public", &[("x-rewrite-url", "http://shop/admin?x")], "", "/admin"),
        (of_path, "/public", &[("x-forwarded-prefix", "/admin")], "", "/admin*"),
        (of_path, "/public", &[("x-forwarded-path", "/admin")], "", "/admin"),
        (of_path, "/public", &[("x-original-url", "/public"), ("x-original-url", "/admin")], "", "/admin"),
        (of_path, "/public", &[("x-original-url", "/admin;x=1")], "", "/admin"),
        (of_path, "/public", &[("x-original-url", "/adm%69n")], "", "/admin"),
        (of_path, "/public", &[("x-original-url", "//admin")], "", "/admin"),
        (of_path, "/public", &[("x-original-url", "/%2561dmin")], "", "/admin"),
        (of_path, "/public", &[("x-original-url", "/x/../admin")], "", "/admin"),
        (of_method, "GET", &[("x-http-method-override", "DELETE")], "", "DELETE"),
        (of_method, "GET", &[("x-http-method", "delete")], "", "DELETE"),
        (of_method, "GET", &[("x-method-override", "GET, DELETE")], "", "DELETE"),
        (of_method, "GET", &[], "_method=DELETE", "DELETE"),
        (of_method, "GET", &[], "a&%5Fmethod=DELETE", "DELETE"),
        (of_host, "shop", &[("x-forwarded-host", "admin.example")], "", "admin.example"),
        (of_host, "shop", &[("forwarded", "for=x;host=\"admin.example\"")], "", "admin.example"),
    ];
    for (attribute, value, lines, query, other) in cases {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let (read, query) = (Readings::of("/public"), Query::new(query));
        let is_admitted = |policy: &Authorization| {
            let judged = Overridable::by(policy.rules.iter());
            let overrides = Overrides::read(judged, "/public", &headers, query.all(METHOD_PARAM));
            let (method, host, overrides) = (&Method::GET, "shop", &overrides);
            admits(policy, Some(Http { method, host, path: &read, headers: &headers, overrides, token: None }))
        };
        let told = format!("{:?} {lines:?} {query:?}", attribute(other));
        let one = |action, value: &str, negated| policy(action, vec![Test { attribute: attribute(value), negated }]);
        assert!(!is_admitted(&one(Action::Deny, other, false)), "DENY of the other: {told}");
        assert!(!is_admitted(&one(Action::Deny, value, true)), "DENY of all but the first: {told}");
        assert!(!is_admitted(&one(Action::Allow, value, false)), "ALLOW of the first: {told}");
        assert!(!is_admitted(&one(Action::Allow, other, true)), "ALLOW of all but the other: {told}");
        assert!(is_admitted(&one(Action::Deny, "/nothing", false)), "what neither is, is not denied: {told}");
        let of_client = Test::is(Attribute::Namespace(text("default")));
        assert!(is_admitted(&policy(Action::Allow, vec![of_client])), "{told}");
    }
}
