//! Pure. Whether one policy matches one connection or request or, where not everything is known, whether it may.
//!
//! Rules OR; of a rule `from`, `to` and `when` AND; alternatives OR, their tests AND, values OR; a negated test holds
//! when none of its values matches. Without identity no test of one holds and every negated one does.
//!
//! What is not known never widens access: an ALLOW admits only what certainly matches, a DENY refuses what may match.
//! Without HTTP (at agents, and for other protocols at waypoints) the attributes of requests are not known: there an
//! ALLOW rule that tests any of them matches nothing, whatever its alternatives are, and of a DENY rule
//! only the rest counts (`istio.security.Authorization`, and Istio's rules for TCP). Of a request it cannot be known
//! which of several readings its backend takes (`readings`).

use std::net::IpAddr;

use ipnet::IpNet;

use super::answer::{Answer, all, any};
use super::path::Readings;
use super::readings;
use super::subject::{Http, Subject};
use crate::model::policy::{Action, Authorization};
use crate::model::rule::{Alternative, Attribute, Rule, ServiceAccountMatch, StringMatch, Test};

/// Whether the policy matches: any rule does.
pub fn policy(policy: &Authorization, subject: &Subject<'_>) -> Answer {
    any(policy.rules.iter().map(|rule| self::rule(policy.action, rule, subject)))
}

/// Index of the first rule by which the policy takes effect: for an ALLOW one that certainly matches, otherwise one
/// that may match.
pub fn effective_rule(policy: &Authorization, subject: &Subject<'_>) -> Option<usize> {
    policy.rules.iter().position(|rule| match self::rule(policy.action, rule, subject) {
        Answer::Yes => true,
        Answer::Depends => policy.action != Action::Allow,
        Answer::No => false,
    })
}

/// Whether one rule of a policy with this action matches.
pub fn rule(action: Action, rule: &Rule, subject: &Subject<'_>) -> Answer {
    Judging { subject, unseen: Answer::Depends }.rule(action, rule)
}

/// Whether one test holds.
pub fn test(test: &Test, subject: &Subject<'_>) -> Answer {
    Judging { subject, unseen: Answer::Depends }.test(test)
}

/// The answer of the policy where requests are never read: an ALLOW rule that tests attributes of requests admits
/// nobody, and such a test does not keep a DENY rule from refusing. Only addresses that are not known yet give
/// `Depends`.
pub(super) fn without_requests(policy: &Authorization, subject: &Subject<'_>) -> Answer {
    let judging = Judging { subject, unseen: (policy.action != Action::Allow).into() };
    any(policy.rules.iter().map(|rule| judging.rule(policy.action, rule)))
}

/// The evaluation of rules for one subject.
struct Judging<'a> {
    subject: &'a Subject<'a>,
    /// The answer of a test of an attribute of a request, negated or not, if the request is not known.
    unseen: Answer,
}

impl Judging<'_> {
    fn rule(&self, action: Action, rule: &Rule) -> Answer {
        let answers = [&rule.from, &rule.to].into_iter().map(|alternatives| self.alternatives(alternatives));
        let answer = all(answers.chain(rule.when.iter().map(|test| self.test(test))));
        if answer == Answer::Yes && action == Action::Allow && rule.tests().any(|test| self.is_unseen(test)) {
            return self.unseen;
        }
        answer
    }

    fn alternatives(&self, alternatives: &[Alternative]) -> Answer {
        if alternatives.is_empty() {
            return Answer::Yes;
        }
        let filled = alternatives.iter().filter(|tests| !tests.is_empty());
        any(filled.map(|tests| all(tests.iter().map(|test| self.test(test)))))
    }

    /// Whether a test needs an attribute of the request and the request is not known.
    fn is_unseen(&self, test: &Test) -> bool {
        match &test.attribute {
            Attribute::ServerName(_) => true,
            Attribute::RemoteIp(_) => self.subject.remote.is_none(),
            attribute => self.subject.http.is_none() && attribute.is_of_http(),
        }
    }

    fn test(&self, test: &Test) -> Answer {
        if self.is_unseen(test) {
            return self.unseen;
        }
        let answer = self.compare(&test.attribute);
        if test.negated { answer.negated() } else { answer }
    }

    fn compare(&self, attribute: &Attribute) -> Answer {
        let Subject { identity, source, remote, destination, port, http } = *self.subject;
        match attribute {
            Attribute::Principal(values) => {
                let parts =
                    identity.map(|id| [&*id.trust_domain, "/ns/", &*id.namespace, "/sa/", &*id.service_account]);
                parts.is_some_and(|parts| values.iter().any(|value| value.matches_joined(&parts))).into()
            }
            Attribute::Namespace(values) => text(values, identity.map(|id| id.namespace.as_str())),
            Attribute::TrustDomain(values) => text(values, identity.map(|id| id.trust_domain.as_str())),
            Attribute::ServiceAccount(values) => {
                let same = |value: &ServiceAccountMatch| {
                    let is = |id| (&value.namespace, &value.service_account) == id;
                    identity.is_some_and(|id| is((&id.namespace, &id.service_account)))
                };
                values.iter().any(same).into()
            }
            Attribute::SourceIp(nets) => contains(nets, source),
            Attribute::RemoteIp(nets) => contains(nets, remote),
            Attribute::DestinationIp(nets) => contains(nets, destination),
            Attribute::DestinationPort(ports) => ports.contains(&port).into(),
            attribute => http.map_or(Answer::Depends, |http| compare_http(attribute, &http)),
        }
    }
}

fn compare_http(attribute: &Attribute, http: &Http<'_>) -> Answer {
    let token = http.token;
    let claim = |path: &[Box<str>]| token.map(|token| token.claim(path)).unwrap_or_default();
    match attribute {
        Attribute::RequestPrincipal(values) => text(values, token.map(|token| token.principal())),
        Attribute::Audience(values) => texts(values, token.map_or(&[], |token| token.audiences())),
        Attribute::Presenter(values) => texts(values, &claim(&["azp".into()])),
        Attribute::Claim(path, values) => texts(values, &claim(path)),
        Attribute::Header(name, values) => readings::header(http.headers, name, values),
        Attribute::Host(values) => {
            let host = |host: &str| readings::host(host, values);
            readings::agree(host(http.host), &http.overrides.hosts, host)
        }
        Attribute::Method(values) => {
            let method = |method: &str| readings::method(method, values);
            readings::agree(method(http.method.as_str()), &http.overrides.methods, method)
        }
        Attribute::Path(paths) => {
            let other = |other: &str| readings::path(&Readings::of(other), paths);
            readings::agree(readings::path(http.path, paths), &http.overrides.paths, other)
        }
        Attribute::Principal(_)
        | Attribute::Namespace(_)
        | Attribute::ServiceAccount(_)
        | Attribute::TrustDomain(_)
        | Attribute::SourceIp(_)
        | Attribute::RemoteIp(_)
        | Attribute::DestinationIp(_)
        | Attribute::DestinationPort(_)
        | Attribute::ServerName(_) => Answer::Depends,
    }
}

fn text(values: &[StringMatch], found: Option<&str>) -> Answer {
    found.is_some_and(|found| values.iter().any(|value| value.matches(found))).into()
}

fn texts(values: &[StringMatch], found: &[String]) -> Answer {
    found.iter().any(|found| values.iter().any(|value| value.matches(found))).into()
}

fn contains(nets: &[IpNet], address: Option<IpAddr>) -> Answer {
    let Some(address) = address else { return Answer::Depends };
    let address = address.to_canonical();
    nets.iter().any(|net| net.contains(&address)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Identity;
    use crate::model::policy::{PolicyKey, Scope};

    fn with_tests(tests: impl Into<Alternative>) -> Authorization {
        with_rules(vec![Rule::of_source(tests)])
    }

    fn with_rules(rules: Vec<Rule>) -> Authorization {
        Authorization {
            key: PolicyKey { namespace: "default".into(), name: "p".into() },
            scope: Scope::Namespace,
            action: Action::Allow,
            rules: rules.into(),
            dry_run: false,
        }
    }

    fn judge(p: &Authorization, identity: Option<&str>, source: &str, port: u16) -> Answer {
        let identity = identity.map(|text| text.parse::<Identity>().unwrap());
        policy(
            p,
            &Subject {
                identity: identity.as_ref(),
                source: Some(source.parse().unwrap()),
                remote: None,
                destination: Some("10.0.0.9".parse().unwrap()),
                port,
                http: None,
            },
        )
    }

    const SHOP: Option<&str> = Some("spiffe://cluster.local/ns/default/sa/shop");

    #[test]
    fn a_policy_without_rules_matches_nothing() {
        assert_eq!(judge(&with_rules(vec![]), SHOP, "10.0.0.1", 80), Answer::No);
    }

    #[test]
    fn a_rule_that_asks_for_nothing_matches_everything() {
        assert_eq!(judge(&with_rules(vec![Rule::default()]), None, "10.0.0.1", 80), Answer::Yes);
    }

    #[test]
    fn an_alternative_without_tests_matches_nothing() {
        assert_eq!(judge(&with_tests(vec![]), SHOP, "10.0.0.1", 80), Answer::No);
    }

    #[test]
    fn tests_of_identity_need_one_and_negated_ones_do_not() {
        use Answer::{No, Yes};
        let texts = |text: &str| -> Box<[StringMatch]> { [text.parse().unwrap()].into() };
        let account = || ServiceAccountMatch { namespace: "default".into(), service_account: "shop".into() };
        for (test, identified, anonymous) in [
            (Test::is(Attribute::Namespace(texts("default"))), Yes, No),
            (Test::is(Attribute::Namespace(texts("def*"))), Yes, No),
            (Test::is_not(Attribute::Namespace(texts("default"))), No, Yes),
            (Test::is(Attribute::Principal(texts("cluster.local/ns/default/sa/shop"))), Yes, No),
            (Test::is(Attribute::Principal(texts("*/sa/shop"))), Yes, No),
            (Test::is(Attribute::Principal(texts("*"))), Yes, No),
            (Test::is_not(Attribute::Principal(texts("*"))), No, Yes),
            (Test::is(Attribute::TrustDomain(texts("*.local"))), Yes, No),
            (Test::is_not(Attribute::TrustDomain(texts("cluster.local"))), No, Yes),
            (Test::is(Attribute::ServiceAccount([account()].into())), Yes, No),
            (Test::is_not(Attribute::ServiceAccount([account()].into())), No, Yes),
        ] {
            let p = with_tests([test.clone()]);
            assert_eq!(judge(&p, SHOP, "10.0.0.1", 80), identified, "{test:?}");
            assert_eq!(judge(&p, None, "10.0.0.1", 80), anonymous, "{test:?}");
        }
    }

    #[test]
    fn addresses_and_ports_are_compared_as_ranges_and_numbers() {
        let net = |text: &str| -> Box<[IpNet]> { [text.parse().unwrap()].into() };
        let p = with_tests([
            Test::is(Attribute::SourceIp(net("10.0.0.0/24"))),
            Test::is_not(Attribute::SourceIp(net("10.0.0.7/32"))),
            Test::is(Attribute::DestinationPort([80, 443].into())),
        ]);
        assert_eq!(judge(&p, None, "10.0.0.1", 80), Answer::Yes);
        assert_eq!(judge(&p, None, "10.0.0.7", 80), Answer::No);
        assert_eq!(judge(&p, None, "10.0.1.1", 80), Answer::No);
        assert_eq!(judge(&p, None, "10.0.0.1", 81), Answer::No);
        assert_eq!(judge(&p, None, "::ffff:10.0.0.1", 80), Answer::Yes, "it is the same address");
        assert_eq!(judge(&p, None, "::ffff:10.0.0.7", 80), Answer::No);
    }

    #[test]
    fn an_unknown_address_decides_nothing_but_a_wrong_port_does() {
        let net = ["10.0.0.0/24".parse().unwrap()];
        let p =
            with_tests([Test::is(Attribute::SourceIp(net.into())), Test::is(Attribute::DestinationPort([80].into()))]);
        assert_eq!(policy(&p, &unknown(80)), Answer::Depends);
        assert_eq!(policy(&p, &unknown(81)), Answer::No);
    }

    fn unknown(port: u16) -> Subject<'static> {
        Subject { identity: None, source: None, remote: None, destination: None, port, http: None }
    }

    fn method(negated: bool) -> Test {
        Test { attribute: Attribute::Method(["GET".parse().unwrap()].into()), negated }
    }

    #[test]
    fn without_http_what_asks_for_requests_admits_nobody_and_refuses_more() {
        let port = |port: u16| Test::is(Attribute::DestinationPort([port].into()));
        let net = "10.0.0.0/8".parse().unwrap();
        for unseen in [
            method(false),
            method(true),
            Test::is(Attribute::RemoteIp([net].into())),
            Test::is_not(Attribute::ServerName(["x".parse().unwrap()].into())),
        ] {
            let judged = |rule: &Rule, action| {
                let p = Authorization { action, ..with_rules(vec![rule.clone()]) };
                (effective_rule(&p, &unknown(80)), without_requests(&p, &unknown(80)))
            };
            let alone = Rule { when: [unseen.clone()].into(), ..Rule::default() };
            let wrong = Rule { when: [unseen.clone(), port(81)].into(), ..Rule::default() };
            let beside = Rule { to: [[unseen.clone()].into(), [port(80)].into()].into(), ..Rule::default() };
            for (rule, denies) in [(&alone, true), (&wrong, false), (&beside, true)] {
                assert_eq!(judged(rule, Action::Allow), (None, Answer::No), "{rule:?}");
                assert_eq!(judged(rule, Action::Deny), (denies.then_some(0), denies.into()), "{rule:?}");
            }
        }
    }

    #[test]
    fn the_remote_address_is_judged_where_it_is_known() {
        let p = with_tests([Test::is(Attribute::RemoteIp(["10.0.0.0/8".parse().unwrap()].into()))]);
        let from = |address: &str| Subject { remote: Some(address.parse().unwrap()), ..unknown(80) };
        assert_eq!(policy(&p, &from("10.0.0.1")), Answer::Yes);
        assert_eq!(policy(&p, &from("11.0.0.1")), Answer::No);
    }
}
