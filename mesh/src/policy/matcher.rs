//! Pure. Does one policy match one connection; or, where addresses are not known yet, may it.
//!
//! Semantics of `istio.security.Authorization`: rules OR, clauses AND, matches OR, fields AND, values OR; a negative
//! field holds when none of its values fits; without identity no positive identity field holds and every negative does.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::connection::Facts;
use crate::model::identity::Identity;
use crate::model::policy::{Authorization, Clause, Match, Rule, ServiceAccountMatch, StringMatch};

/// What is known of a connection. Unknown addresses make the answer [`Answer::Depends`] where it hangs on them.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What the peer's certificate proved.
    pub identity: Option<&'a Identity>,
    /// Address of the peer.
    pub source: Option<IpAddr>,
    /// Address that was called.
    pub destination: Option<IpAddr>,
    /// Port that was called, on the workload.
    pub port: u16,
}

impl<'a> From<&'a Facts> for Subject<'a> {
    fn from(facts: &'a Facts) -> Self {
        Self {
            identity: facts.source_identity.as_ref(),
            source: Some(facts.source.ip().to_canonical()),
            destination: Some(facts.destination.ip().to_canonical()),
            port: facts.destination.port(),
        }
    }
}

/// Three-valued truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It matches.
    Yes,
    /// It does not.
    No,
    /// It hangs on what is not known here: an address, or a request.
    Depends,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Depends => "cannot be judged here",
        })
    }
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Whether all hold.
pub fn all(answers: impl Iterator<Item = Answer>) -> Answer {
    let mut result = Answer::Yes;
    for answer in answers {
        match answer {
            Answer::No => return Answer::No,
            Answer::Depends => result = Answer::Depends,
            Answer::Yes => {}
        }
    }
    result
}

/// Whether any holds.
pub fn any(answers: impl Iterator<Item = Answer>) -> Answer {
    let mut result = Answer::No;
    for answer in answers {
        match answer {
            Answer::Yes => return Answer::Yes,
            Answer::Depends => result = Answer::Depends,
            Answer::No => {}
        }
    }
    result
}

/// Whether it does not hold.
pub fn not(answer: Answer) -> Answer {
    match answer {
        Answer::Yes => Answer::No,
        Answer::No => Answer::Yes,
        Answer::Depends => Answer::Depends,
    }
}

/// Whether the policy matches: any rule does.
pub fn policy(policy: &Authorization, subject: Subject<'_>) -> Answer {
    any(policy.rules.iter().map(|rule| self::rule(rule, subject)))
}

fn rule(rule: &Rule, subject: Subject<'_>) -> Answer {
    all(rule.clauses.iter().map(|clause| self::clause(clause, subject)))
}

fn clause(clause: &Clause, subject: Subject<'_>) -> Answer {
    if clause.matches.is_empty() {
        return Answer::Yes;
    }
    // An empty match stands for attributes that could not be expressed at L4: it admits nobody.
    any(clause.matches.iter().filter(|m| **m != Match::default()).map(|m| one_match(m, subject)))
}

fn one_match(m: &Match, subject: Subject<'_>) -> Answer {
    let identity = subject.identity;
    let namespace = |values: &[StringMatch]| identity.is_some_and(|id| values.iter().any(|v| v.fits(&id.namespace)));
    let principal = |values: &[StringMatch]| {
        identity.is_some_and(|id| {
            let text = id.principal();
            values.iter().any(|v| v.fits(&text))
        })
    };
    let account = |values: &[ServiceAccountMatch]| {
        identity.is_some_and(|id| {
            values.iter().any(|v| v.namespace == id.namespace && v.service_account == id.service_account)
        })
    };
    let port = |values: &[u16]| values.contains(&subject.port);
    all([
        positive(&m.namespaces, |v| namespace(v).into()),
        negative(&m.not_namespaces, |v| namespace(v).into()),
        positive(&m.service_accounts, |v| account(v).into()),
        negative(&m.not_service_accounts, |v| account(v).into()),
        positive(&m.principals, |v| principal(v).into()),
        negative(&m.not_principals, |v| principal(v).into()),
        positive(&m.destination_ports, |v| port(v).into()),
        negative(&m.not_destination_ports, |v| port(v).into()),
        positive(&m.source_ips, |v| contains(v, subject.source)),
        negative(&m.not_source_ips, |v| contains(v, subject.source)),
        positive(&m.destination_ips, |v| contains(v, subject.destination)),
        negative(&m.not_destination_ips, |v| contains(v, subject.destination)),
    ]
    .into_iter())
}

fn positive<T>(values: &[T], fits: impl FnOnce(&[T]) -> Answer) -> Answer {
    if values.is_empty() { Answer::Yes } else { fits(values) }
}

fn negative<T>(values: &[T], fits: impl FnOnce(&[T]) -> Answer) -> Answer {
    if values.is_empty() { Answer::Yes } else { not(fits(values)) }
}

fn contains(nets: &[IpNet], address: Option<IpAddr>) -> Answer {
    let Some(address) = address else { return Answer::Depends };
    nets.iter().any(|net| net.contains(&address)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::{Action, PolicyKey, Scope};

    fn with_match(m: Match) -> Authorization {
        with_rules(vec![Rule { clauses: [Clause { matches: [m].into() }].into() }])
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
            Subject {
                identity: identity.as_ref(),
                source: Some(source.parse().unwrap()),
                destination: Some("10.0.0.9".parse().unwrap()),
                port,
            },
        )
    }

    const SHOP: Option<&str> = Some("spiffe://cluster.local/ns/default/sa/shop");

    #[test]
    fn a_policy_without_rules_matches_nothing() {
        assert_eq!(judge(&with_rules(vec![]), SHOP, "10.0.0.1", 80), Answer::No);
    }

    #[test]
    fn a_rule_without_clauses_matches_everything() {
        assert_eq!(judge(&with_rules(vec![Rule::default()]), None, "10.0.0.1", 80), Answer::Yes);
    }

    #[test]
    fn a_clause_without_matches_holds_but_one_with_only_empty_matches_does_not() {
        let open = with_rules(vec![Rule { clauses: [Clause::default()].into() }]);
        assert_eq!(judge(&open, None, "10.0.0.1", 80), Answer::Yes);
        assert_eq!(judge(&with_match(Match::default()), SHOP, "10.0.0.1", 80), Answer::No);
    }

    #[test]
    fn identity_fields_need_an_identity_and_their_negatives_do_not() {
        let exact = |text: &str| -> Box<[StringMatch]> { [StringMatch::parse(text)].into() };
        let table: [(Match, Answer, Answer); 8] = [
            (Match { namespaces: exact("default"), ..Match::default() }, Answer::Yes, Answer::No),
            (Match { namespaces: exact("def*"), ..Match::default() }, Answer::Yes, Answer::No),
            (Match { not_namespaces: exact("default"), ..Match::default() }, Answer::No, Answer::Yes),
            (
                Match { principals: exact("cluster.local/ns/default/sa/shop"), ..Match::default() },
                Answer::Yes,
                Answer::No,
            ),
            (Match { principals: exact("*/sa/shop"), ..Match::default() }, Answer::Yes, Answer::No),
            (Match { principals: exact("*"), ..Match::default() }, Answer::Yes, Answer::No),
            (Match { not_principals: exact("*"), ..Match::default() }, Answer::No, Answer::Yes),
            (
                Match {
                    not_service_accounts: [ServiceAccountMatch {
                        namespace: "default".into(),
                        service_account: "shop".into(),
                    }]
                    .into(),
                    ..Match::default()
                },
                Answer::No,
                Answer::Yes,
            ),
        ];
        for (m, identified, anonymous) in table {
            let p = with_match(m.clone());
            assert_eq!(judge(&p, SHOP, "10.0.0.1", 80), identified, "{m:?}");
            assert_eq!(judge(&p, None, "10.0.0.1", 80), anonymous, "{m:?}");
        }
    }

    #[test]
    fn addresses_and_ports_are_compared_as_ranges_and_numbers() {
        let net = |text: &str| -> Box<[IpNet]> { [text.parse().unwrap()].into() };
        let p = with_match(Match {
            source_ips: net("10.0.0.0/24"),
            not_source_ips: net("10.0.0.7/32"),
            destination_ports: [80, 443].into(),
            ..Match::default()
        });
        assert_eq!(judge(&p, None, "10.0.0.1", 80), Answer::Yes);
        assert_eq!(judge(&p, None, "10.0.0.7", 80), Answer::No);
        assert_eq!(judge(&p, None, "10.0.1.1", 80), Answer::No);
        assert_eq!(judge(&p, None, "10.0.0.1", 81), Answer::No);
        assert_eq!(judge(&p, None, "::ffff:10.0.0.1", 80), Answer::No, "callers pass canonical addresses");
    }

    #[test]
    fn an_unknown_address_decides_nothing_but_a_wrong_port_does() {
        let p = with_match(Match {
            source_ips: ["10.0.0.0/24".parse().unwrap()].into(),
            destination_ports: [80].into(),
            ..Match::default()
        });
        let unknown = |port| Subject { identity: None, source: None, destination: None, port };
        assert_eq!(policy(&p, unknown(80)), Answer::Depends);
        assert_eq!(policy(&p, unknown(81)), Answer::No);
    }
}
