//! Policies on requests that can be read, that can be read in several ways, and on connections without any.

use http::{HeaderMap, Method};
use mesh::model::identity::Identity;

use super::*;
use crate::request::path::Readings;

fn test(attribute: Attribute, values: &[Pattern], negated: bool) -> Test {
    Test { attribute, values: values.into(), loose: Box::default(), negated }
}

fn policy(action: Action, tests: Vec<Test>) -> Policy {
    let rule = Rule { when: tests.into(), ..Rule::default() };
    Policy { name: "default/p".into(), action, dry_run: false, rules: [rule].into() }
}

fn text(value: &str) -> Vec<Pattern> {
    vec![Pattern::text(value).unwrap()]
}

/// Whether a request is let in by one policy.
fn admits(policy: &Policy, http: Option<Http<'_>>) -> bool {
    let source = Identity::new("td", "default", "client");
    let request = Request {
        source: Some(&source),
        source_ip: "10.0.0.1".parse().unwrap(),
        destination: "10.96.0.10:80".parse().unwrap(),
        http,
        claims: None,
    };
    judge([policy].into_iter(), &request).refusal.is_none()
}

#[test]
fn what_cannot_be_known_refuses_and_never_admits() {
    let header = Attribute::Header("x-role".parse().unwrap());
    for attribute in [
        Attribute::Path,
        Attribute::Host,
        Attribute::Method,
        Attribute::RequestPrincipal,
        header,
        Attribute::ServerName,
    ] {
        for negated in [false, true] {
            let tests = || vec![test(attribute.clone(), &text("x"), negated)];
            assert!(!admits(&policy(Action::Allow, tests()), None), "ALLOW {attribute:?} {negated}");
            assert!(!admits(&policy(Action::Deny, tests()), None), "DENY {attribute:?} {negated}");
        }
    }
    let elsewhere = vec![test(Attribute::Namespace, &text("bank"), false), test(Attribute::Path, &text("/x"), false)];
    assert!(admits(&policy(Action::Deny, elsewhere), None), "what is known not to match needs no more");
}

#[test]
fn several_readings_refuse_and_admit_nowhere() {
    let mut headers = HeaderMap::new();
    headers.append("x-role", "guest".parse().unwrap());
    headers.append("x-role", "admin".parse().unwrap());
    let path = Readings::of("/public/..;/admin");
    let http = Http { method: &Method::GET, host: "shop.", path: &path, headers: &headers };
    let header = Attribute::Header("x-role".parse().unwrap());
    for (attribute, value) in [(header, "admin"), (Attribute::Path, "/admin"), (Attribute::Host, "shop")] {
        for negated in [false, true] {
            let tests = || vec![test(attribute.clone(), &text(value), negated)];
            assert!(!admits(&policy(Action::Allow, tests()), Some(http)), "ALLOW {attribute:?} {negated}");
            assert!(!admits(&policy(Action::Deny, tests()), Some(http)), "DENY {attribute:?} {negated}");
        }
    }
}

#[test]
fn a_trace_tells_each_field_of_each_rule() {
    let from = test(Attribute::Principal, &text("td/ns/default/sa/other"), true);
    let mut policy = policy(Action::Deny, vec![test(Attribute::Header("x-role".parse().unwrap()), &text("a"), false)]);
    policy.rules[0].from = [[from].into()].into();
    let source = Identity::new("td", "default", "client");
    let request = Request {
        source: Some(&source),
        source_ip: "10.0.0.1".parse().unwrap(),
        destination: "10.96.0.10:80".parse().unwrap(),
        http: None,
        claims: None,
    };
    let told = "rule 0 (cannot be judged here): from[0].not principals: yes, \
                when request.headers[x-role]: cannot be judged here";
    assert_eq!(policy.trace(&request), told);
}
