//! Policies on requests that can be read, that can be read in several ways, and on connections without any.

use http::{HeaderMap, HeaderName, Method};
use mesh::model::identity::Identity;
use mesh::model::policy::{Action, Authorization, PolicyKey, Scope};
use mesh::model::rule::{Attribute, PathMatches, Rule, StringMatch, Test};
use mesh::policy::path::Readings;
use mesh::policy::pattern;
use mesh::policy::subject::{Http, Subject};
use mesh::policy::trace::trace;

use super::*;

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
    let http = Http { method: &Method::POST, host: "shop", path: &path, headers: &headers, token: None };
    assert!(admits(&either, Some(http)), "of a request all is known");
}

#[test]
fn several_readings_refuse_and_admit_nowhere() {
    let mut headers = HeaderMap::new();
    headers.append("x-role", "guest".parse().unwrap());
    headers.append("x-role", "admin".parse().unwrap());
    let read = Readings::of("/public/..;/admin");
    let http = Http { method: &Method::GET, host: "shop.", path: &read, headers: &headers, token: None };
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
