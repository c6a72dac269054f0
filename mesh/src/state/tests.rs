//! What a batch does to the next snapshot, and what it reports.

use std::net::IpAddr;

use ipnet::IpNet;

use super::store::{Applied, Store};
use crate::model::policy::{Action, Authorization, PolicyKey, Scope};
use crate::model::reserved::{Holder, Reserved};
use crate::model::rule::Rule;
use crate::model::service::{Exported, Reach, Service, ServiceKey, ServicePort, Vip};
use crate::model::update::Update;
use crate::model::workload::{Standing, TunnelProtocol, Workload, WorkloadService};

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
    let entry = snapshot.service_at(&Default::default(), ip("10.96.0.1"), &"default".into()).unwrap();
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
        assert_eq!(
            &*store.snapshot().service_at(&Default::default(), vip, &"default".into()).unwrap().service.name,
            "b"
        );
    }
}

#[test]
fn the_longest_range_wins_and_an_exact_address_before_any_range() {
    let ranged = |name: &str, vips: &[&str]| {
        let mut service = Service::sample(name, "default", &[], &[(80, 80)]);
        service.vips =
            vips.iter().map(|v| v.parse().map(Vip::Range).unwrap_or_else(|_| Vip::External(ip(v)))).collect();
        Update::Service(Box::new(service))
    };
    let store = Store::new(None);
    store.apply([ranged("wide", &["10.0.0.0/8"]), ranged("narrow", &["10.1.0.0/16"]), ranged("exact", &["10.1.2.3"])]);
    let found = |a: &str| {
        store
            .snapshot()
            .service_at(&Default::default(), ip(a), &"default".into())
            .map(|e| e.service.name.to_string())
            .unwrap_or_default()
    };
    assert_eq!(found("10.9.9.9"), "wide");
    assert_eq!(found("10.1.9.9"), "narrow");
    assert_eq!(found("10.1.2.3"), "exact");
    assert_eq!(found("11.0.0.1"), "");
    let narrow = store
        .snapshot()
        .service_at(&Default::default(), ip("10.1.9.9"), &"default".into())
        .unwrap()
        .service
        .key
        .clone();
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

fn claiming(namespace: &str, name: &str, vips: &[&str], reach: Reach) -> Update {
    let vips = vips.iter().map(|vip| vip.parse().map(Vip::Range).unwrap_or_else(|_| Vip::External(ip(vip))));
    let service = Service::sample(name, namespace, &[], &[(80, 80)]);
    Update::Service(Box::new(Service { vips: vips.collect(), canonical: false, reach, ..service }))
}

fn found(store: &Store, address: &str, client: &str) -> String {
    let (snapshot, network) = (store.snapshot(), Default::default());
    if snapshot.disputed_at(&network, ip(address), &client.into()).is_some() {
        return "disputed".to_owned();
    }
    let service = snapshot.service_at(&network, ip(address), &client.into());
    service.map(|entry| entry.service.key.namespace.to_string()).unwrap_or_default()
}

#[test]
fn a_claim_never_catches_what_is_the_meshs_whichever_came_first() {
    let root = || Reach { root: true, ..Reach::default() };
    let claims = || {
        let nets = ["0.0.0.0/0", "::/0", "10.0.0.0/24", "10.0.0.1", "10.96.0.1", "10.0.9.9", "10.0.0.7"];
        [claiming("default", "mine", &nets, Reach::default()), claiming("istio-system", "root", &nets, root())]
    };
    let infrastructure = || {
        let dispute = Reserved { address: ip("10.0.0.7"), by: Holder::Disputed("Pod a/a and Pod b/b".into()) };
        let node = Reserved { address: ip("10.0.9.9"), by: Holder::Node("n1".into()) };
        let pod6 = Workload::sample("six", "default", &[ip("fd00::1")]);
        [
            upsert(pod("a", "10.0.0.1")),
            upsert(pod6),
            Update::Service(Box::new(Service::sample("shop", "bank", &[ip("10.96.0.1")], &[(80, 80)]))),
            Update::Reserved(Box::new(dispute)),
            Update::Reserved(Box::new(node)),
        ]
    };
    for claims_first in [true, false] {
        let store = Store::new(None);
        if claims_first {
            store.apply(claims());
            assert_eq!(found(&store, "10.0.0.1", "default"), "default");
        }
        store.apply(infrastructure());
        store.apply(claims());
        for (address, expected) in [
            ("10.0.0.1", ""),
            ("::ffff:10.0.0.1", ""),
            ("fd00::1", ""),
            ("10.96.0.1", "bank"),
            ("10.0.9.9", ""),
            ("10.0.0.7", "disputed"),
            ("10.0.0.2", "default"),
            ("2001:db8::1", "default"),
        ] {
            assert_eq!(found(&store, address, "default"), expected, "{address} {claims_first}");
        }
    }
}

#[test]
fn a_claim_counts_by_whose_namespace_it_is() {
    let to = |namespaces: &[&str]| Reach {
        exported: Exported::To(namespaces.iter().map(|&namespace| namespace.into()).collect()),
        ..Reach::default()
    };
    let root = Reach { root: true, ..Reach::default() };
    let store = Store::new(None);
    store.apply([
        claiming(
            "aaa",
            "x",
            &["192.0.2.1", "192.0.2.2", "192.0.2.4", "198.51.100.0/24", "0.0.0.0/0"],
            Reach::default(),
        ),
        claiming("shop", "x", &["192.0.2.1", "203.0.113.0/24", "203.0.113.128/25"], Reach::default()),
        claiming("istio-system", "x", &["192.0.2.2", "203.0.113.0/24"], root),
        claiming("bank", "x", &["192.0.2.3"], to(&["shop"])),
        claiming("zzz", "x", &["192.0.2.4"], Reach::default()),
        claiming("hidden", "x", &["192.0.2.5"], to(&[])),
    ]);
    for (address, client, expected) in [
        ("192.0.2.1", "shop", "shop"),
        ("192.0.2.1", "aaa", "aaa"),
        ("192.0.2.1", "other", "disputed"),
        ("192.0.2.2", "aaa", "aaa"),
        ("192.0.2.2", "shop", "istio-system"),
        ("192.0.2.3", "shop", "bank"),
        ("192.0.2.3", "other", ""),
        ("192.0.2.4", "zzz", "zzz"),
        ("192.0.2.4", "shop", "disputed"),
        ("192.0.2.5", "hidden", ""),
        ("192.0.2.9", "shop", ""),
        ("192.0.2.9", "aaa", "aaa"),
        ("198.51.100.7", "shop", ""),
        ("203.0.113.200", "shop", "shop"),
        ("203.0.113.200", "bank", "istio-system"),
    ] {
        assert_eq!(found(&store, address, client), expected, "{address} for {client}");
    }
    store.apply([Update::ServiceGone(ServiceKey {
        namespace: "zzz".into(),
        hostname: "x.zzz.svc.cluster.local".into(),
    })]);
    assert_eq!(found(&store, "192.0.2.4", "shop"), "aaa");
}

#[test]
fn a_host_name_is_a_services_before_anybody_elses() {
    let entry = |namespace: &str, reach: Reach| {
        let Update::Service(service) = claiming(namespace, "x", &[], reach) else { panic!() };
        let key = ServiceKey { namespace: namespace.into(), hostname: "x.bank.svc.cluster.local".into() };
        Update::Service(Box::new(Service { key, ..*service }))
    };
    let store = Store::new(None);
    let named = |client: &str| {
        let snapshot = store.snapshot();
        let found = snapshot.service_named(&"x.bank.svc.cluster.local".into(), &client.into());
        found.map(|entry| entry.service.key.namespace.to_string()).unwrap_or_default()
    };
    store.apply([entry("aaa", Reach::default())]);
    assert_eq!(named("shop"), "aaa");
    store.apply([entry("evil", Reach::default())]);
    assert_eq!([named("shop"), named("evil")], ["", "evil"]);
    store.apply([entry("istio-system", Reach { root: true, ..Reach::default() })]);
    assert_eq!([named("shop"), named("evil")], ["istio-system", "evil"]);
    store.apply([Update::Service(Box::new(Service::sample("x", "bank", &[], &[])))]);
    assert_eq!([named("shop"), named("evil"), named("istio-system")], ["bank", "bank", "bank"]);
}

#[test]
fn a_range_is_taken_from_the_kernel_only_for_those_for_whom_it_counts() {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let store = Store::new(Some("n1".into()));
    let applied = store.apply([claiming("default", "x", &["0.0.0.0/0"], Reach::default())]);
    assert!(applied.mesh_added.is_empty(), "{applied:?}");
    let applied = store.apply([upsert(pod("a", "10.0.0.1"))]);
    assert!(applied.mesh_added.contains(&net("0.0.0.0/0")), "{applied:?}");
    let uid = store.snapshot().local().next().unwrap().uid.clone();
    let applied = store.apply([Update::WorkloadGone(uid)]);
    assert!(applied.mesh_removed.contains(&net("0.0.0.0/0")), "{applied:?}");
    let root = Reach { root: true, ..Reach::default() };
    let applied = store.apply([claiming("istio-system", "x", &["198.51.100.0/24"], root)]);
    assert_eq!(applied.mesh_added, [net("198.51.100.0/24")]);
}

#[test]
fn a_disputed_workload_is_found_by_no_address_and_an_endpoint_displaces_no_pod() {
    let store = Store::new(None);
    let endpoint = |address: &str| Workload {
        uid: "e".into(),
        standing: Standing::Endpoint,
        protocol: TunnelProtocol::None,
        ..pod("e", address)
    };
    store.apply([upsert(pod("a", "10.0.0.1")), upsert(endpoint("10.0.0.1"))]);
    store.apply([upsert(Workload { standing: Standing::Disputed, ..pod("d", "10.0.0.2") })]);
    let at = |address: &str| store.snapshot().workload_at(&Default::default(), ip(address)).map(|w| w.name.to_string());
    assert_eq!([at("10.0.0.1").as_deref(), at("10.0.0.2").as_deref()], [Some("a"), None]);
    let dispute = Reserved { address: ip("10.0.0.2"), by: Holder::Disputed("Pod a and Pod b".into()) };
    let applied = store.apply([Update::Reserved(Box::new(dispute))]);
    assert!(applied.mesh_added.is_empty(), "enrolled: the mesh's already");
    store.apply([Update::ReservedGone(ip("10.0.0.2"))]);
    assert!(store.snapshot().disputed_at(&Default::default(), ip("10.0.0.2"), &"a".into()).is_none());
}
