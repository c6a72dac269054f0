//! What a batch does to the next snapshot, and what it reports.

use std::net::IpAddr;

use ipnet::IpNet;

use super::store::{Applied, Store};
use crate::model::policy::{Action, Authorization, PolicyKey, Rule, Scope};
use crate::model::service::{Service, ServicePort, Vip};
use crate::model::update::Update;
use crate::model::workload::{TunnelProtocol, Workload, WorkloadService};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(name: &str, address: &str) -> Workload {
    Workload { node: "n1".into(), ..Workload::sample(name, "default", &[ip(address)]) }
}

fn shop(vip: &str) -> Service {
    Service::sample("shop", "default", &[ip(vip)], &[(80, 8080)])
}

fn serving(workload: Workload, service: &Service) -> Workload {
    let ports: Box<[ServicePort]> = service.ports.clone();
    Workload {
        services: [WorkloadService { service: service.key.clone(), ports, health: workload.health }].into(),
        ..workload
    }
}

fn upsert(workload: Workload) -> Update {
    Update::Workload(Box::new(workload))
}

#[test]
fn a_service_finds_endpoints_that_came_before_and_after_it() {
    let store = Store::new(None);
    let service = shop("10.96.0.1");
    store.apply([upsert(serving(pod("a", "10.0.0.1"), &service))]);
    store.apply([Update::Service(Box::new(service.clone()))]);
    store.apply([upsert(serving(pod("b", "10.0.0.2"), &service))]);
    let snapshot = store.snapshot();
    let entry = snapshot.service_at(&Default::default(), ip("10.96.0.1")).unwrap();
    let names: Vec<_> = entry.endpoints.iter().map(|e| e.workload.name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(entry.endpoints[0].target_port(80), Some(8080));
    assert_eq!(entry.endpoints[0].target_port(81), None);
}

#[test]
fn an_endpoint_keeps_its_load_when_its_workload_changes() {
    let store = Store::new(None);
    let service = shop("10.96.0.1");
    store.apply([Update::Service(Box::new(service.clone())), upsert(serving(pod("a", "10.0.0.1"), &service))]);
    let busy = store.snapshot().service(&service.key).unwrap().endpoints[0].load.start();
    store.apply([upsert(Workload { capacity: 7, ..serving(pod("a", "10.0.0.1"), &service) })]);
    assert_eq!(store.snapshot().service(&service.key).unwrap().endpoints[0].load.active(), 1);
    drop(busy);
}

#[test]
fn a_removed_workload_is_nowhere() {
    let store = Store::new(Some("n1".into()));
    let service = shop("10.96.0.1");
    let workload = serving(pod("a", "10.0.0.1"), &service);
    let uid = workload.uid.clone();
    let applied = store.apply([Update::Service(Box::new(service.clone())), upsert(workload)]);
    assert!(applied.local);
    assert_eq!(applied.mesh_added.len(), 2);
    let applied = store.apply([Update::WorkloadGone(uid.clone())]);
    assert_eq!(applied.mesh_removed, [IpNet::from(ip("10.0.0.1"))]);
    let snapshot = store.snapshot();
    assert!(snapshot.workload(&uid).is_none());
    assert!(snapshot.workload_at(&Default::default(), ip("10.0.0.1")).is_none());
    assert_eq!(snapshot.local().count(), 0);
    assert!(snapshot.service(&service.key).unwrap().endpoints.is_empty());
}

#[test]
fn an_address_given_to_the_next_pod_is_the_next_pods() {
    let store = Store::new(None);
    store.apply([upsert(pod("old", "10.0.0.1"))]);
    let old = store.snapshot().workload_at(&Default::default(), ip("10.0.0.1")).unwrap().uid.clone();
    let applied = store.apply([upsert(pod("new", "10.0.0.1")), Update::WorkloadGone(old)]);
    assert_eq!(applied, Applied { policies: false, ..Applied::default() });
    assert_eq!(&*store.snapshot().workload_at(&Default::default(), ip("10.0.0.1")).unwrap().name, "new");
}

#[test]
fn only_enrolled_workloads_and_services_are_the_meshs_addresses() {
    let store = Store::new(None);
    let plain = Workload { protocol: TunnelProtocol::None, ..pod("plain", "10.0.0.1") };
    assert!(store.apply([upsert(plain)]).mesh_added.is_empty());
    assert_eq!(store.apply([upsert(pod("plain", "10.0.0.1"))]).mesh_added, [IpNet::from(ip("10.0.0.1"))]);
    let unchanged = store.apply([upsert(Workload { capacity: 2, ..pod("plain", "10.0.0.1") })]);
    assert!(unchanged.mesh_added.is_empty() && unchanged.mesh_removed.is_empty());
}

#[test]
fn a_virtual_address_moves_between_services_of_one_batch_in_any_order() {
    let a = |vips: &[IpAddr]| Update::Service(Box::new(Service::sample("a", "default", vips, &[(80, 80)])));
    let b = |vips: &[IpAddr]| Update::Service(Box::new(Service::sample("b", "default", vips, &[(80, 80)])));
    let vip = ip("10.96.0.1");
    for order in [0, 1] {
        let store = Store::new(None);
        store.apply([a(&[vip]), b(&[])]);
        let mut batch = vec![a(&[]), b(&[vip])];
        if order == 1 {
            batch.reverse();
        }
        store.apply(batch);
        assert_eq!(&*store.snapshot().service_at(&Default::default(), vip).unwrap().service.name, "b");
    }
}

#[test]
fn the_longest_range_wins_and_an_exact_address_before_any_range() {
    let ranged = |name: &str, vips: &[&str]| {
        let mut service = Service::sample(name, "default", &[], &[(80, 80)]);
        service.vips = vips.iter().map(|v| v.parse().map(Vip::Range).unwrap_or_else(|_| Vip::Address(ip(v)))).collect();
        Update::Service(Box::new(service))
    };
    let store = Store::new(None);
    store.apply([ranged("wide", &["10.0.0.0/8"]), ranged("narrow", &["10.1.0.0/16"]), ranged("exact", &["10.1.2.3"])]);
    let found = |a: &str| {
        store.snapshot().service_at(&Default::default(), ip(a)).map(|e| e.service.name.to_string()).unwrap_or_default()
    };
    assert_eq!(found("10.9.9.9"), "wide");
    assert_eq!(found("10.1.9.9"), "narrow");
    assert_eq!(found("10.1.2.3"), "exact");
    assert_eq!(found("11.0.0.1"), "");
    let narrow = store.snapshot().service_at(&Default::default(), ip("10.1.9.9")).unwrap().service.key.clone();
    store.apply([Update::ServiceGone(narrow)]);
    assert_eq!(found("10.1.9.9"), "wide");
}

#[test]
fn policies_apply_by_scope() {
    let policy = |name: &str, namespace: &str, scope| {
        Update::Authorization(Box::new(Authorization {
            key: PolicyKey { namespace: namespace.into(), name: name.into() },
            scope,
            action: Action::Deny,
            rules: [Rule::default()].into(),
            dry_run: false,
        }))
    };
    let store = Store::new(Some("n1".into()));
    let selected = PolicyKey { namespace: "default".into(), name: "selected".into() };
    store.apply([
        policy("global", "culvert-system", Scope::Global),
        policy("mine", "default", Scope::Namespace),
        policy("other", "other", Scope::Namespace),
        policy("selected", "default", Scope::WorkloadSelector),
        policy("unselected", "default", Scope::WorkloadSelector),
        upsert(Workload { policies: [selected].into(), ..pod("a", "10.0.0.1") }),
    ]);
    let snapshot = store.snapshot();
    let workload = snapshot.local().next().unwrap();
    let names: Vec<_> = snapshot.policies_of(workload).iter().map(|p| p.key.name.to_string()).collect();
    assert_eq!(names, ["global", "mine", "selected"]);
    let applied =
        store.apply([Update::AuthorizationGone(PolicyKey { namespace: "default".into(), name: "mine".into() })]);
    assert!(applied.policies);
    assert_eq!(store.snapshot().policies_of(workload).len(), 2);
}

#[test]
fn a_snapshot_in_hand_does_not_change() {
    let store = Store::new(None);
    store.apply([upsert(pod("a", "10.0.0.1"))]);
    let before = store.snapshot();
    store.apply([upsert(pod("b", "10.0.0.2"))]);
    assert_eq!(before.counts().0, 1);
    assert_eq!(store.snapshot().counts().0, 2);
}
