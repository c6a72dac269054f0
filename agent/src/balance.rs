//! Pure. Power of two choices by least active connections, among the endpoints that readiness, locality and passive
//! health checks leave.
//!
//! Two random choices cost the same for ten endpoints as for ten thousand. All endpoints are considered only when the
//! choices are unusable (not ready, avoided, tried before) or the service has a routing preference.

use std::sync::Arc;
use std::time::Duration;

use mesh::balance::health::Admitted;
use mesh::balance::locality;
use mesh::model::name::WorkloadUid;
use mesh::model::service::{BalanceMode, LoadBalancing};
use mesh::model::workload::{Health, Workload};
use mesh::state::endpoints::Endpoint;

/// The inputs of a pick besides the endpoints.
pub(crate) struct Request<'a> {
    /// The calling workload.
    pub(crate) source: &'a Workload,
    /// The load-balancing policy of the service.
    pub(crate) balancing: &'a LoadBalancing,
    /// The service port that was called; endpoints without it are left out.
    pub(crate) service_port: u16,
    /// Endpoints that were tried for this connection before.
    pub(crate) tried: &'a [WorkloadUid],
    /// The current time on the clock of `Load::failed`.
    pub(crate) now: Duration,
}

const TRIES: usize = 4;

/// Picks an endpoint. `random(n)` is uniform in `0..n`. Endpoints that passive health checks avoid are a last resort.
pub(crate) fn pick<'e>(
    endpoints: &'e [Arc<Endpoint>],
    request: &Request<'_>,
    random: &mut dyn FnMut(usize) -> usize,
) -> Option<&'e Arc<Endpoint>> {
    if endpoints.is_empty() {
        return None;
    }
    let flat = request.balancing.mode == BalanceMode::Any || request.balancing.routing_preference.is_empty();
    if flat {
        let mut draw = || {
            (0..TRIES).map(|_| &endpoints[random(endpoints.len())]).find(|e| {
                let ready = e.health == Health::Healthy || request.balancing.allow_unhealthy;
                ready && usable(e, request) && !e.load.is_avoided(request.now)
            })
        };
        if let (Some(a), Some(b)) = (draw(), draw()) {
            return Some(less_busy(a, b));
        }
    }
    among_all(endpoints, request, random)
}

fn among_all<'e>(
    endpoints: &'e [Arc<Endpoint>],
    request: &Request<'_>,
    random: &mut dyn FnMut(usize) -> usize,
) -> Option<&'e Arc<Endpoint>> {
    let within_reach = endpoints.iter().filter(|e| e.target_port(request.service_port).is_some());
    let within_reach =
        within_reach.filter_map(|e| Some((locality::rank(request.balancing, request.source, &e.workload)?, e)));
    // Tried endpoints count too: one failure is no reason to fall back to terminating ones.
    let admitted = Admitted::among(within_reach.clone().map(|(_, e)| e.health), request.balancing);
    // Health before locality: a close endpoint that does not answer is worth less than a distant one that does.
    let graded = within_reach
        .filter(|(_, e)| admitted.admits(e.health) && usable(e, request))
        .map(|(rank, e)| ((!e.load.is_avoided(request.now), rank), e));
    let mut best: Option<(bool, usize)> = None;
    let mut candidates: Vec<&Arc<Endpoint>> = Vec::new();
    for (grade, endpoint) in graded {
        if best.is_none_or(|b| grade > b) {
            best = Some(grade);
            candidates.clear();
        }
        if best == Some(grade) {
            candidates.push(endpoint);
        }
    }
    if candidates.is_empty() {
        return None;
    }
    let (a, b) = (candidates[random(candidates.len())], candidates[random(candidates.len())]);
    Some(less_busy(a, b))
}

fn usable(endpoint: &Endpoint, request: &Request<'_>) -> bool {
    endpoint.target_port(request.service_port).is_some() && !request.tried.contains(&endpoint.workload.uid)
}

/// The endpoint with fewer connections per unit of capacity, compared by cross-multiplication.
fn less_busy<'e>(a: &'e Arc<Endpoint>, b: &'e Arc<Endpoint>) -> &'e Arc<Endpoint> {
    let cost =
        |e: &Endpoint, other: &Endpoint| u64::from(e.load.active() + 1) * u64::from(other.workload.capacity.max(1));
    if cost(b, a) < cost(a, b) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::service::{AppProtocol, Scope, ServicePort};

    fn endpoint(name: &str, change: impl FnOnce(&mut Workload)) -> Arc<Endpoint> {
        let mut workload = Workload::sample(name, "default", &["10.0.0.1".parse().unwrap()]);
        change(&mut workload);
        let port =
            ServicePort { name: "".into(), service_port: 80, target_port: 8080, app_protocol: AppProtocol::Unknown };
        let health = workload.health;
        Arc::new(Endpoint { workload: Arc::new(workload), ports: [port].into(), health, load: Arc::default() })
    }

    fn distribution(endpoints: &[Arc<Endpoint>], balancing: &LoadBalancing, tried: &[WorkloadUid]) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        let source = Workload { node: "n1".into(), ..Workload::sample("client", "default", &[]) };
        let request = Request { source: &source, balancing, service_port: 80, tried, now: Duration::ZERO };
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..1000 {
            if let Some(picked) = pick(endpoints, &request, &mut |n| random.usize(0..n)) {
                counts[endpoints.iter().position(|e| Arc::ptr_eq(e, picked)).unwrap()] += 1;
            }
        }
        counts
    }

    #[test]
    fn idle_endpoints_are_picked_evenly() {
        let endpoints: Vec<_> = (0..4).map(|i| endpoint(&format!("e{i}"), |_| {})).collect();
        for count in distribution(&endpoints, &LoadBalancing::default(), &[]) {
            assert!((180..320).contains(&count), "{count}");
        }
    }

    #[test]
    fn a_busy_endpoint_gets_less() {
        let endpoints = [endpoint("idle", |_| {}), endpoint("busy", |_| {})];
        let busy: Vec<_> = (0..10).map(|_| endpoints[1].load.start()).collect();
        let counts = distribution(&endpoints, &LoadBalancing::default(), &[]);
        assert!(counts[1] < 350 && counts[0] > 650, "{counts:?}");
        drop(busy);
    }

    #[test]
    fn what_is_not_ready_tried_or_without_the_port_is_never_picked() {
        let endpoints = [
            endpoint("sick", |w| w.health = Health::Unhealthy),
            endpoint("tried", |_| {}),
            Arc::new(Endpoint {
                workload: Arc::new(Workload::sample("portless", "default", &[])),
                ports: Box::default(),
                health: Health::Healthy,
                load: Arc::default(),
            }),
            endpoint("good", |_| {}),
        ];
        let tried = [endpoints[1].workload.uid.clone()];
        assert_eq!(distribution(&endpoints, &LoadBalancing::default(), &tried), [0, 0, 0, 1000]);
        assert_eq!(distribution(&endpoints[..3], &LoadBalancing::default(), &tried), [0, 0, 0]);
    }

    #[test]
    fn what_terminates_and_still_serves_is_picked_where_nothing_is_ready() {
        let ends = |w: &mut Workload| w.health = Health::Terminating;
        let endpoints =
            [endpoint("ends", ends), endpoint("sick", |w| w.health = Health::Unhealthy), endpoint("good", |_| {})];
        let any = LoadBalancing::default();
        assert_eq!(distribution(&endpoints, &any, &[]), [0, 0, 1000]);
        assert_eq!(distribution(&endpoints[..2], &any, &[]), [1000, 0]);
        // A ready endpoint that has just failed is still preferred.
        endpoints[2].load.failed(Duration::ZERO);
        assert_eq!(distribution(&endpoints, &any, &[]), [0, 0, 1000]);
        assert_eq!(distribution(&endpoints, &any, &[endpoints[2].workload.uid.clone()]), [0, 0, 0]);
        let all = LoadBalancing { allow_unhealthy: true, ..any };
        assert!(distribution(&endpoints[..2], &all, &[]).iter().all(|count| *count > 300));
    }

    #[test]
    fn with_local_traffic_only_a_ready_endpoint_elsewhere_does_not_count() {
        let here = |w: &mut Workload| (w.health, w.node) = (Health::Terminating, "n1".into());
        let endpoints = [endpoint("here", here), endpoint("there", |w| w.node = "n2".into())];
        let preference =
            |mode| LoadBalancing { routing_preference: [Scope::Node].into(), mode, allow_unhealthy: false };
        assert_eq!(distribution(&endpoints, &preference(BalanceMode::Strict), &[]), [1000, 0]);
        assert_eq!(distribution(&endpoints, &preference(BalanceMode::Failover), &[]), [0, 1000]);
    }

    #[test]
    fn an_avoided_endpoint_is_the_last_resort() {
        let endpoints = [endpoint("failed", |_| {}), endpoint("good", |_| {})];
        endpoints[0].load.failed(Duration::ZERO);
        assert_eq!(distribution(&endpoints, &LoadBalancing::default(), &[]), [0, 1000]);
        assert_eq!(distribution(&endpoints[..1], &LoadBalancing::default(), &[]), [1000]);
    }

    #[test]
    fn strict_locality_stays_on_the_node_even_when_nothing_is_there() {
        let endpoints = [endpoint("here", |w| w.node = "n1".into()), endpoint("there", |w| w.node = "n2".into())];
        let strict = LoadBalancing {
            routing_preference: [Scope::Node].into(),
            mode: BalanceMode::Strict,
            allow_unhealthy: false,
        };
        assert_eq!(distribution(&endpoints, &strict, &[]), [1000, 0]);
        assert_eq!(distribution(&endpoints[1..], &strict, &[]), [0]);
    }

    #[test]
    fn failover_leaves_the_node_only_when_it_must() {
        let endpoints = [endpoint("here", |w| w.node = "n1".into()), endpoint("there", |w| w.node = "n2".into())];
        let close = LoadBalancing {
            routing_preference: [Scope::Node].into(),
            mode: BalanceMode::Failover,
            allow_unhealthy: false,
        };
        assert_eq!(distribution(&endpoints, &close, &[]), [1000, 0]);
        endpoints[0].load.failed(Duration::ZERO);
        assert_eq!(distribution(&endpoints, &close, &[]), [0, 1000]);
    }

    #[test]
    fn capacity_is_a_weight() {
        let endpoints = [endpoint("one", |_| {}), endpoint("three", |w| w.capacity = 3)];
        let load: Vec<_> = (0..3).map(|_| endpoints[1].load.start()).collect();
        let counts = distribution(&endpoints, &LoadBalancing::default(), &[]);
        assert!(counts[0] > 600, "4 of 3 is busier than 1 of 1: {counts:?}");
        drop(load);
    }
}
