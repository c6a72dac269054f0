//! Pure. What the kernel may decide alone about plaintext connections to a workload.
//!
//! Without a certificate there is no identity, so only addresses and the port are left. The port is known when the SYN
//! arrives and so is the verdict, unless a policy looks at addresses: those connections go to the agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::authorize::Applying;
use super::matcher::{self, Answer, Subject};
use crate::model::policy::{Action, Authorization, PlaintextRules, PlaintextVerdict};

/// Compiles what judges the connections to one workload. A port behind a waypoint takes no plaintext: without a
/// certificate nobody is the waypoint.
pub fn compile(applying: &Applying) -> PlaintextRules {
    let Applying { policies, cover, disputed } = applying;
    if *disputed {
        return PlaintextRules { default: PlaintextVerdict::Refuse, ports: Box::default() };
    }
    let verdict = |port| match cover.bypassed(port, None) {
        Some(_) => PlaintextVerdict::Refuse,
        None => verdict(policies, port),
    };
    let named: BTreeSet<u16> = policies
        .iter()
        .flat_map(|p| &p.rules)
        .flat_map(|r| &r.clauses)
        .flat_map(|c| &c.matches)
        .flat_map(|m| m.destination_ports.iter().chain(&m.not_destination_ports))
        .copied()
        .chain(cover.ports())
        .collect();
    // A port that no policy names stands for all of them.
    let unnamed = (1..=u16::MAX).find(|port| !named.contains(port));
    let default = unnamed.map_or(PlaintextVerdict::Refuse, verdict);
    let ports = named.into_iter().map(|port| (port, verdict(port))).filter(|(_, v)| *v != default).collect();
    PlaintextRules { default, ports }
}

fn verdict(policies: &[Arc<Authorization>], port: u16) -> PlaintextVerdict {
    let subject = Subject { identity: None, source: None, destination: None, port };
    let answers = |action: Action| {
        policies
            .iter()
            .filter(move |p| !p.dry_run && p.action == action)
            .map(move |p| matcher::policy(p, subject))
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
    use crate::model::policy::{Clause, Match, PolicyKey, Rule, Scope, StringMatch};

    fn policy(action: Action, m: Match) -> Arc<Authorization> {
        Arc::new(Authorization {
            key: PolicyKey { namespace: "default".into(), name: "p".into() },
            scope: Scope::Namespace,
            action,
            rules: [Rule { clauses: [Clause { matches: [m].into() }].into() }].into(),
            dry_run: false,
        })
    }

    fn strict() -> Arc<Authorization> {
        policy(Action::Deny, Match { not_principals: [StringMatch::Presence].into(), ..Match::default() })
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
        let m = Match {
            not_principals: [StringMatch::Presence].into(),
            not_destination_ports: [8080].into(),
            ..Match::default()
        };
        let rules = compile(&[policy(Action::Deny, m)].into());
        assert_eq!(rules.default, PlaintextVerdict::Refuse);
        assert_eq!(*rules.ports, [(8080, PlaintextVerdict::Pass)]);
    }

    #[test]
    fn a_rule_on_principals_refuses_plaintext_and_a_rule_on_addresses_leaves_it_to_the_agent() {
        let principals =
            policy(Action::Allow, Match { principals: [StringMatch::Presence].into(), ..Match::default() });
        assert_eq!(compile(&[principals].into()).default, PlaintextVerdict::Refuse);
        let addresses =
            policy(Action::Allow, Match { source_ips: ["10.0.0.0/8".parse().unwrap()].into(), ..Match::default() });
        assert_eq!(compile(&[Arc::clone(&addresses)].into()).default, PlaintextVerdict::Proxy);
        assert_eq!(
            compile(&[addresses, strict()].into()).default,
            PlaintextVerdict::Refuse,
            "a sure DENY needs no agent"
        );
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
