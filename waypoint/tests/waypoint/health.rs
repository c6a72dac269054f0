//! Which endpoints get requests: time-outs that a route asks for, single endpoints, retries that a route asks for,
//! endpoints that are being deleted. All with the defaults.

use std::time::{Duration, Instant};

use super::backend::{Act, Backend, ok, status};
use super::rig::{Rig, get, policy, route, service, shop};

const BRIEF: &str = "[{matches: [{path: {type: PathPrefix, value: /brief}}], timeouts: {backendRequest: 150ms}, \
    backendRefs: [{name: shop, port: 80}]}, {backendRefs: [{name: shop, port: 80}]}]";

/// Answers after a while on one path, at once on others.
fn slow_in_part(_: usize, seen: &super::backend::Seen) -> Act {
    let delay = if seen.path().starts_with("/brief") { Duration::from_millis(400) } else { Duration::ZERO };
    Act { delay, ..ok("fine") }
}

#[tokio::test]
async fn a_time_out_that_the_route_asks_for_ejects_nobody() {
    for pods in [&[11][..], &[11, 12], &[11, 12, 13, 14, 15, 16]] {
        let rig = Rig::start(&(shop("http", pods) + &route(BRIEF))).await;
        for pod in pods {
            Backend::start(&rig, *pod, slow_in_part).await;
        }
        let calls = futures_util::future::join_all((0..30).map(|_| rig.get("/brief"))).await;
        for answer in calls {
            assert_eq!((answer.status, answer.header("x-culvert-error")), (504, "try_timeout"));
        }
        for _ in 0..6 {
            assert_eq!(rig.get("/other").await.status, 200, "{} pods", pods.len());
        }
        let dump = rig.admin("/config_dump/clusters").await;
        assert!(!dump.replace(' ', "").contains("\"ejected\":true"), "{dump}");
    }
}

#[tokio::test]
async fn retries_within_brief_time_outs_go_on_until_one_succeeds() {
    let rules = "[{timeouts: {backendRequest: 150ms}, retry: {attempts: 3, codes: [500], backoff: 10ms}, \
        backendRefs: [{name: shop, port: 80}]}]";
    let rig = Rig::start(&(shop("http", &[11]) + &route(rules))).await;
    let backend = Backend::start(&rig, 11, |hit, _| {
        let delay = if hit % 3 < 2 { Duration::from_millis(400) } else { Duration::ZERO };
        Act { delay, ..ok("fine") }
    })
    .await;
    for round in 1..=6 {
        assert_eq!(rig.get("/").await.status, 200, "round {round}");
        assert_eq!(backend.hits(), 3 * round);
    }
}

#[tokio::test]
async fn a_dead_endpoint_is_found_and_let_back_when_it_answers_whatever_it_answers() {
    // Nobody listens yet.
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{retry: {attempts: 0}}"))).await;
    rig.eventually("found dead", async || rig.get("/").await.header("x-culvert-error") == "circuit_open").await;
    let backend = Backend::start(&rig, 11, |_, _| status(500)).await;
    rig.eventually("let back", async || rig.get("/").await.header("x-culvert-error").is_empty()).await;
    let before = backend.hits();
    for _ in 0..50 {
        let answer = rig.get("/").await;
        assert_eq!((answer.status, answer.header("x-culvert-error")), (500, ""), "a single one is never ejected");
    }
    assert_eq!(backend.hits(), before + 50);
    backend.now(|_, _| ok("fine"));
    assert_eq!(rig.get("/").await.status, 200);
}

#[tokio::test]
async fn of_two_that_were_dead_and_answer_badly_one_is_left() {
    let rig = Rig::start(&(shop("http", &[11, 12]) + &policy("{retry: {attempts: 0}}"))).await;
    rig.eventually("found dead", async || rig.get("/").await.header("x-culvert-error") == "circuit_open").await;
    let backends =
        [Backend::start(&rig, 11, |_, _| status(500)).await, Backend::start(&rig, 12, |_, _| status(500)).await];
    rig.eventually("let back", async || rig.get("/").await.status == 500).await;
    // The second is probed and stays ejected: then the first is the last one.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let answer = rig.get("/").await;
        assert_eq!((answer.status, answer.header("x-culvert-error")), (500, ""));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(backends.iter().any(|backend| backend.hits() > 50));
}

#[tokio::test]
async fn retries_that_routes_ask_for_are_made_when_eleven_callers_need_them_at_once() {
    let rules = "[{retry: {attempts: 3, codes: [500], backoff: 10ms}, backendRefs: [{name: shop, port: 80}]}]";
    let failing = |_: usize, seen: &super::backend::Seen| {
        use std::collections::HashMap;
        use std::sync::{LazyLock, Mutex};
        static TRIES: LazyLock<Mutex<HashMap<String, usize>>> = LazyLock::new(Mutex::default);
        let mut tries = TRIES.lock().unwrap();
        let tried = tries.entry(seen.path()).or_default();
        *tried += 1;
        if *tried <= 3 { status(500) } else { ok("fine") }
    };
    let rig = Rig::start(&(shop("http", &[11]) + &route(rules))).await;
    Backend::start(&rig, 11, failing).await;
    let paths: Vec<String> = (0..11).map(|n| format!("/{n}")).collect();
    let calls = futures_util::future::join_all(paths.iter().map(|path| rig.get(path))).await;
    assert_eq!(calls.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200; 11]);
}

#[tokio::test]
async fn a_budget_that_is_set_holds_retries_that_a_route_asks_for() {
    let rules = "[{retry: {attempts: 3, codes: [500], backoff: 1ms}, backendRefs: [{name: shop, port: 80}]}]";
    for budget in ["{minPerSecond: 0}", "{percent: 20, minPerSecond: 0}"] {
        let held = policy(&format!("{{retry: {{budget: {budget}}}}}"));
        let rig = Rig::start(&(shop("http", &[11]) + &route(rules) + &held)).await;
        let backend = Backend::start(&rig, 11, |_, _| status(500)).await;
        for _ in 0..100 {
            assert_eq!(rig.get("/").await.status, 500);
        }
        assert!((100..=120).contains(&backend.hits()), "{budget}: {}", backend.hits());
    }
}

#[tokio::test]
async fn a_storm_is_held_where_a_route_asks_for_retries_and_nobody_set_a_budget() {
    let rules = "[{retry: {attempts: 5, codes: [500], backoff: 1ms}, backendRefs: [{name: shop, port: 80}]}]";
    let rig = Rig::start(&(shop("http", &[11]) + &route(rules))).await;
    let backend = Backend::start(&rig, 11, |_, _| status(500)).await;
    let (mut sent, began) = (0, Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        futures_util::future::join_all((0..32).map(|_| rig.call(get("/")))).await;
        sent += 32;
    }
    let retries = backend.hits() - sent;
    let most = sent / 5 + 100 * (began.elapsed().as_secs() as usize + 2);
    assert!(retries <= most, "{retries} retries of {sent} requests, at most {most}");
}

#[tokio::test]
async fn what_is_being_deleted_and_still_serves_is_called_where_nothing_is_ready() {
    let endpoint = |host: u8, conditions: &str| format!("{{addresses: [$NET.{host}], conditions: {{{conditions}}}}}");
    let slice = |endpoints: &[String]| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: shop-1, namespace: default, \
             labels: {{kubernetes.io/service-name: shop}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
             endpoints: [{}]\n",
            endpoints.join(", ")
        )
    };
    let ends = endpoint(11, "ready: false, serving: true, terminating: true");
    let gone = endpoint(12, "ready: false, serving: false, terminating: true");
    let rig = Rig::start(&shop("http", &[])).await;
    let ending = Backend::start(&rig, 11, |_, _| ok("ending")).await;
    let ended = Backend::start(&rig, 12, |_, _| ok("ended")).await;
    let fresh = Backend::start(&rig, 13, |_, _| ok("fresh")).await;
    assert_eq!(rig.get("/").await.header("x-culvert-error"), "no_endpoint");
    rig.write("slice.yaml", &slice(&[ends.clone(), gone.clone()]));
    rig.eventually("called", async || rig.get("/").await.text() == "ending").await;
    for _ in 0..10 {
        assert_eq!(rig.get("/").await.text(), "ending");
    }
    rig.write("slice.yaml", &slice(&[ends, gone.clone(), endpoint(13, "ready: true")]));
    rig.eventually("replaced", async || rig.get("/").await.text() == "fresh").await;
    let before = ending.hits();
    for _ in 0..20 {
        assert_eq!(rig.get("/").await.text(), "fresh");
    }
    assert_eq!((ending.hits(), ended.hits()), (before, 0));
    assert!(fresh.hits() > 20);
    rig.write("slice.yaml", &slice(&[gone]));
    rig.eventually("refused", async || rig.get("/").await.header("x-culvert-error") == "no_endpoint").await;
}

#[tokio::test]
async fn a_pod_that_is_being_deleted_serves_until_another_is_ready() {
    let deleted = |pods: &[u8]| {
        service("late", "10.96.0.77", "http", pods)
            .replace("labels: {app: late,", "deletionTimestamp: '2026-01-01T00:00:00Z', labels: {app: late,")
    };
    let rig = Rig::start(&(shop("http", &[]) + &deleted(&[11]))).await;
    Backend::start(&rig, 11, |_, _| ok("ending")).await;
    Backend::start(&rig, 12, |_, _| ok("fresh")).await;
    let call = async || {
        let mut sender = rig.one("10.96.0.77").await;
        let request = http::Request::get("/").header("host", "late").body(http_body_util::Full::default()).unwrap();
        super::rig::got(sender.send_request(request).await.unwrap()).await
    };
    assert_eq!(call().await.text(), "ending");
    rig.write("fresh.yaml", &super::rig::pod("late-12", "late", 12, "none"));
    rig.eventually("replaced", async || call().await.text() == "fresh").await;
    for _ in 0..10 {
        assert_eq!(call().await.text(), "fresh");
    }
}
