//! Pure. Which endpoints of a service are close enough to a source (`LoadBalancing.routing_preference`).

use crate::model::service::{BalanceMode, LoadBalancing, Scope};
use crate::model::workload::Workload;

/// The number of leading scopes in which source and endpoint agree; `None` if the endpoint must not be used at all.
pub fn rank(balancing: &LoadBalancing, source: &Workload, endpoint: &Workload) -> Option<usize> {
    let preference = &balancing.routing_preference;
    let agreeing = preference.iter().take_while(|scope| agree(**scope, source, endpoint)).count();
    match balancing.mode {
        BalanceMode::Strict => (agreeing == preference.len()).then_some(agreeing),
        BalanceMode::Failover => Some(agreeing),
        BalanceMode::Any | BalanceMode::Passthrough => Some(0),
    }
}

fn agree(scope: Scope, source: &Workload, endpoint: &Workload) -> bool {
    let locality = |w: &Workload| w.locality.as_deref().cloned().unwrap_or_default();
    let (a, b) = (locality(source), locality(endpoint));
    match scope {
        Scope::Region => a.region == b.region,
        Scope::Zone => a.region == b.region && a.zone == b.zone,
        Scope::Subzone => a == b,
        Scope::Node => source.node == endpoint.node && source.cluster == endpoint.cluster,
        Scope::Cluster => source.cluster == endpoint.cluster,
        Scope::Network => source.network == endpoint.network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::workload::Locality;

    fn at(node: &str, zone: &str) -> Workload {
        Workload {
            node: node.into(),
            locality: Some(Box::new(Locality { region: "r".into(), zone: zone.into(), subzone: Default::default() })),
            ..Workload::sample("w", "default", &[])
        }
    }

    fn balancing(mode: BalanceMode, scopes: &[Scope]) -> LoadBalancing {
        LoadBalancing { routing_preference: scopes.into(), mode, allow_unhealthy: false }
    }

    #[test]
    fn strict_drops_what_does_not_agree() {
        let local_only = balancing(BalanceMode::Strict, &[Scope::Node]);
        assert_eq!(rank(&local_only, &at("n1", "a"), &at("n1", "a")), Some(1));
        assert_eq!(rank(&local_only, &at("n1", "a"), &at("n2", "a")), None);
    }

    #[test]
    fn failover_ranks_by_leading_scopes() {
        let close = balancing(BalanceMode::Failover, &[Scope::Network, Scope::Region, Scope::Zone]);
        assert_eq!(rank(&close, &at("n1", "a"), &at("n2", "a")), Some(3));
        assert_eq!(rank(&close, &at("n1", "a"), &at("n2", "b")), Some(2));
    }

    #[test]
    fn without_a_mode_all_are_equal() {
        assert_eq!(rank(&LoadBalancing::default(), &at("n1", "a"), &at("n2", "b")), Some(0));
    }
}
