//! Pure. Compiles policies for the kernel, which decides about plaintext connections to a workload.
//!
//! Without a certificate there is no identity, so policies can match addresses and the port only. The kernel knows the
//! port when the SYN arrives, and with it the verdict, unless a policy tests addresses: those connections go to the
//! agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::answer::Answer;
use super::authorize::Applying;
use super::matcher;
use super::subject::Subject;
use crate::model::policy::{Action, Authorization, PlaintextRules, PlaintextVerdict};
use crate::model::rule::{Attribute, Test};

/// Compiles the rules for plaintext connections to one workload. A port behind a waypoint accepts no plaintext: a peer
/// without a certificate cannot prove that it is the waypoint.
pub fn compile(applying: &Applying) -> PlaintextRules {
    let Applying { policies, coverage, disputed } = applying;
    if *disputed {
        return PlaintextRules { default: PlaintextVerdict::Refuse, ports: Box::default() };
    }
    let verdict = |port| match coverage.bypassed(port, None) {
        Some(_) => PlaintextVerdict::Refuse,
        None => verdict(policies, port),
    };
    let named: BTreeSet<u16> = policies
        .iter()
        .flat_map(|p| &p.rules)
        .flat_map(|r| r.tests())
        .flat_map(named_ports)
        .copied()
        .chain(coverage.ports())
        .collect();
    // A port that no policy names stands for all of them.
    let unnamed = (1..=u16::MAX).find(|port| !named.contains(port));
    let default = unnamed.map_or(PlaintextVerdict::Refuse, verdict);
    let ports = named.into_iter().map(|port| (port, verdict(port))).filter(|(_, v)| *v != default).collect();
    PlaintextRules { default, ports }
}

fn named_ports(test: &Test) -> &[u16] {
    match &test.attribute {
        Attribute::DestinationPort(ports) => ports,
        _ => &[],
    }
}

fn verdict(policies: &[Arc<Authorization>], port: u16) -> PlaintextVerdict {
    let subject = Subject { identity: None, source: None, remote: None, destination: None, port, http: None };
    let answers = |action: Action| {
        policies
            .iter()
            .filter(move |p| !p.dry_run && p.action == action)
            .map(move |p| matcher::without_requests(p, &subject))
            .collect::<Vec<_>>()
    };
    let (deny, allow) = (answers(Action::Deny), answers(Action::Allow));
    let never_allowed = !allow.is_empty() && allow.iter().all(|a| *a == Answer::No);
    if deny.contains(&Answer::Yes) || never_allowed {
        PlaintextVerdict::Refuse
    } else if deny.contains(&Answer::Depends) || !(allow.is_empty() || allow.contains(&Answer::Yes)) {
        PlaintextVerdict::Proxy
    } else {
        PlaintextVerdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::{PolicyKey, Scope};
    use crate::model::rule::{Rule, StringMatch};

    fn policy(action: Action, tests: impl Into<Box<[Test]>>) -> Arc<Authorization> {
        Arc::new(Authorization {
            key: PolicyKey { namespace: "default".into(), name: "p".into() },
            scope: Scope::Namespace,
            action,
            rules: [Rule::of_source(tests)].into(),
            dry_run: false,
        })
    }

    fn strict() -> Arc<Authorization> {
        policy(Action::Deny, [stranger()])
    }

    fn stranger() -> Test {
        Test::is_not(Attribute::Principal([StringMatch::Presence].into()))
    }

    #[test]
    fn what_is_disputed_takes_nothing() {
        let applying = Applying { disputed: true, ..Applying::default() };
        assert_eq!(compile(&applying), PlaintextRules { default: PlaintextVerdict::Refuse, ports: Box::default() });
    }

    #[test]
    fn no_policy_passes_all_plaintext() {
        assert_eq!(
            compile(&Applying::default()),
            PlaintextRules { default: PlaintextVerdict::Pass, ports: Box::default() }
        );
    }

    #[test]
    fn strict_refuses_all_plaintext() {
        assert_eq!(
            compile(&[strict()].into()),
            PlaintextRules { default: PlaintextVerdict::Refuse, ports: Box::default() }
        );
    }

    #[test]
    fn strict_except_one_port_passes_that_port() {
        let tests = [stranger(), Test::is_not(Attribute::DestinationPort([8080].into()))];
        let rules = compile(&[policy(Action::Deny, tests)].into());
        assert_eq!(rules.default, PlaintextVerdict::Refuse);
        assert_eq!(*rules.ports, [(8080, PlaintextVerdict::Pass)]);
    }

    #[test]
    fn a_rule_on_principals_refuses_plaintext_and_a_rule_on_addresses_leaves_it_to_the_agent() {
        let principals = policy(Action::Allow, [Test::is(Attribute::Principal([StringMatch::Presence].into()))]);
        assert_eq!(compile(&[principals].into()).default, PlaintextVerdict::Refuse);
        let net = "10.0.0.0/8".parse().unwrap();
        let addresses = policy(Action::Allow, [Test::is(Attribute::SourceIp([net].into()))]);
        assert_eq!(compile(&[Arc::clone(&addresses)].into()).default, PlaintextVerdict::Proxy);
        assert_eq!(
            compile(&[addresses, strict()].into()).default,
            PlaintextVerdict::Refuse,
            "a sure DENY needs no agent"
        );
    }

    #[test]
    fn what_asks_for_requests_refuses_plaintext_in_the_kernel() {
        let method = || Test::is(Attribute::Method(["GET".parse().unwrap()].into()));
        let port = || Test::is(Attribute::DestinationPort([8080].into()));
        let allow = compile(&[policy(Action::Allow, [method()])].into());
        assert_eq!((allow.default, allow.ports.len()), (PlaintextVerdict::Refuse, 0));
        let deny = compile(&[policy(Action::Deny, [method(), port()])].into());
        assert_eq!(deny.default, PlaintextVerdict::Pass);
        assert_eq!(*deny.ports, [(8080, PlaintextVerdict::Refuse)]);
        let mut either = (*policy(Action::Allow, [port()])).clone();
        either.rules[0].to = [[method()].into(), [port()].into()].into();
        assert_eq!(compile(&[Arc::new(either)].into()).default, PlaintextVerdict::Refuse, "and on no other port");
        let net = Test::is(Attribute::SourceIp(["10.0.0.0/8".parse().unwrap()].into()));
        assert_eq!(compile(&[policy(Action::Deny, [method(), net])].into()).default, PlaintextVerdict::Proxy);
    }

    #[test]
    fn a_dry_run_policy_decides_nothing() {
        let dry = Arc::new(Authorization { dry_run: true, ..(*strict()).clone() });
        assert_eq!(compile(&[dry].into()).default, PlaintextVerdict::Pass);
    }

    #[test]
    fn a_port_behind_a_waypoint_refuses_plaintext_and_the_others_do_not() {
        use crate::model::service::Service;
        use crate::model::update::Update;
        use crate::model::waypoint::Waypoint;
        use crate::model::workload::{Workload, WorkloadService};
        use crate::state::store::Store;

        let waypoint = Waypoint::sample("default", "wp", None);
        let shop = Service::sample("shop", "default", &[], &[(80, 8080)]);
        let served = WorkloadService {
            service: shop.key.clone(),
            ports: shop.ports.clone(),
            health: crate::model::workload::Health::Healthy,
        };
        let mut pod = Workload { services: [served].into(), ..Workload::sample("shop-1", "default", &[]) };
        let store = Store::new(None);
        store.apply([Update::Service(Box::new(Service { waypoint: Some(Box::new(waypoint)), ..shop }))]);
        let rules = compile(&Applying::to(&store.snapshot(), &pod));
        assert_eq!(rules.default, PlaintextVerdict::Pass);
        assert_eq!(*rules.ports, [(8080, PlaintextVerdict::Refuse)]);
        pod.may_bypass_waypoint = true;
        assert!(compile(&Applying::to(&store.snapshot(), &pod)).ports.is_empty());
    }
}
