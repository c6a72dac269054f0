//! Balancing, breaking, limits: the incidents that a mesh exists to prevent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Act, Backend, ok, status};
use super::rig::{Rig, SHOP, get, got, policy, shop};

const PODS: [u8; 6] = [11, 12, 13, 14, 15, 16];

async fn six(rig: &Rig) -> Vec<Arc<Backend>> {
    let mut backends = vec![];
    for pod in PODS {
        backends.push(Backend::start(rig, pod, |_, _| Act { delay: Duration::from_millis(5), ..ok("fine") }).await);
    }
    backends
}

/// Calls at a steady rate for a while, whatever the answers take; returns how many were not 200.
async fn call(rig: &Rig, rate: u64, seconds: f64) -> usize {
    let senders: Vec<_> = futures_util::future::join_all((0..16).map(|_| rig.two(SHOP))).await;
    let gap = Duration::from_nanos(1_000_000_000 / rate);
    let began = Instant::now();
    let count = (seconds * rate as f64) as u32;
    let mut calls = vec![];
    for n in 0..count {
        tokio::time::sleep_until((began + gap * n).into()).await;
        let mut sender = senders[n as usize % senders.len()].clone();
        calls.push(tokio::spawn(async move {
            let request = http::Request::get("http://shop/").body(http_body_util::Full::default()).unwrap();
            match sender.send_request(request).await {
                Ok(response) => got(response).await.status != 200,
                Err(_) => true,
            }
        }));
    }
    let mut failed = 0;
    for call in calls {
        failed += usize::from(call.await.unwrap());
    }
    failed
}

fn counts(backends: &[Arc<Backend>]) -> Vec<usize> {
    backends.iter().map(|backend| backend.hits()).collect()
}

#[tokio::test]
async fn a_slow_pod_of_six_loses_its_traffic_and_gets_it_back() {
    // A shorter memory than the default's ten seconds, so that the test need not wait a minute for the return.
    let rig = Rig::start_alone(&(shop("http", &PODS) + &policy("{loadBalancing: {slowStart: 0s, decay: 2s}}"))).await;
    let backends = six(&rig).await;
    assert_eq!(call(&rig, 300, 2.0).await, 0);
    backends[2].now(|_, _| Act { delay: Duration::from_millis(150), ..ok("slow") });
    call(&rig, 300, 1.0).await;
    let before = counts(&backends);
    assert_eq!(call(&rig, 300, 4.0).await, 0);
    let fraction = (backends[2].hits() - before[2]) as f64 / 1200.0;
    assert!(fraction <= 0.01, "{fraction}: {:?} after {before:?}", counts(&backends));
    backends[2].now(|_, _| Act { delay: Duration::from_millis(5), ..ok("fine") });
    call(&rig, 300, 10.0).await;
    let before = counts(&backends);
    call(&rig, 300, 2.0).await;
    let fraction = (backends[2].hits() - before[2]) as f64 / 600.0;
    assert!(fraction >= 0.08, "it did not come back: {fraction}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_seconds_are_enough_at_a_low_rate_and_at_a_high_one() {
    for (rate, settle, measure) in [(60, 2.0, 6.0), (600, 2.0, 3.0)] {
        let rig = Rig::start_alone(&(shop("http2", &PODS) + &policy("{loadBalancing: {slowStart: 0s}}"))).await;
        let backends = six(&rig).await;
        assert_eq!(call(&rig, rate, 1.5).await, 0);
        backends[4].now(|_, _| Act { delay: Duration::from_millis(100), ..ok("slow") });
        call(&rig, rate, settle).await;
        let before = counts(&backends);
        assert_eq!(call(&rig, rate, measure).await, 0);
        let sent = rate as f64 * measure;
        let fraction = (backends[4].hits() - before[4]) as f64 / sent;
        eprintln!("{rate}/s: share of the slow pod {:.2} %", fraction * 100.0);
        // One request in a hundred, or two in all where there are few.
        assert!(fraction <= 0.01 || fraction * sent <= 4.0, "{rate}/s: {fraction}");
    }
}

#[tokio::test]
async fn a_pod_that_fails_fast_costs_almost_nothing() {
    let rig =
        Rig::start(&(shop("http", &PODS) + &policy("{retry: {attempts: 0}, loadBalancing: {slowStart: 0s}}"))).await;
    let backends = six(&rig).await;
    assert_eq!(call(&rig, 300, 1.0).await, 0);
    backends[2].now(|_, _| status(500));
    let failed = call(&rig, 300, 5.0).await;
    assert!(failed * 200 <= 1500, "{failed} of 1500 failed without a single retry");
}

#[tokio::test]
async fn a_breaker_opens_after_five_failures_and_one_probe_closes_it() {
    let rig = Rig::start(
        &(shop("http", &[11, 12]) + &policy("{retry: {attempts: 0}, loadBalancing: {algorithm: roundRobin}}")),
    )
    .await;
    let bad = Backend::start(&rig, 11, |_, _| status(503)).await;
    let good = Backend::start(&rig, 12, |_, _| ok("fine")).await;
    let mut sender = rig.one(SHOP).await;
    let mut failures = 0;
    for _ in 0..200 {
        failures += usize::from(got(sender.send_request(get("/")).await.unwrap()).await.status != 200);
    }
    assert!((4..=6).contains(&failures), "{failures}: opened after five, or by the success rate");
    assert_eq!(bad.hits(), failures);
    assert!(
        rig.admin("/config_dump/clusters").await.contains("\"ejected\": true")
            || rig.admin("/config_dump/clusters").await.contains("\"ejected\":true")
    );
    bad.now(|_, _| ok("back"));
    let (before, began) = (bad.hits(), Instant::now());
    while bad.hits() < before + 5 {
        assert_eq!(got(sender.send_request(get("/")).await.unwrap()).await.status, 200, "a probe cost a request");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(began.elapsed() < Duration::from_secs(8), "it did not come back");
    }
    assert!(good.hits() > 0);
}

#[tokio::test]
async fn at_most_half_of_the_pods_are_ejected() {
    let rig =
        Rig::start(&(shop("http", &PODS) + &policy("{retry: {attempts: 0}, loadBalancing: {algorithm: roundRobin}}")))
            .await;
    let backends = six(&rig).await;
    for backend in &backends {
        backend.now(|_, _| status(503));
    }
    let failed = call(&rig, 200, 2.0).await;
    assert_eq!(failed, 400);
    let dump: serde_json::Value = serde_json::from_str(&rig.admin("/config_dump/clusters").await).unwrap();
    let cluster = if dump.is_array() { &dump[0] } else { &dump["clusters"][0] };
    assert_eq!(cluster["ejected"], 3, "{dump}");
}

#[tokio::test]
async fn a_service_takes_so_many_requests_and_no_more() {
    let rig = Rig::start(
        &(shop("http", &[11])
            + &policy("{circuitBreaker: {service: {maxInFlight: 2, maxPending: 2, maxWait: 100ms}}}")),
    )
    .await;
    Backend::start(&rig, 11, |_, _| Act { delay: Duration::from_millis(400), ..ok("fine") }).await;
    let calls = futures_util::future::join_all((0..8).map(|_| rig.get("/"))).await;
    let good = calls.iter().filter(|got| got.status == 200).count();
    assert_eq!(good, 2);
    assert!(calls.iter().all(|got| got.status == 200 || got.header("x-culvert-error") == "overflow"));
}

#[tokio::test]
async fn a_rate_limit_answers_429() {
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{rateLimit: {requestsPerSecond: 5, burst: 3}}"))).await;
    Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let mut sender = rig.one(SHOP).await;
    let mut statuses = vec![];
    for _ in 0..6 {
        let answer = got(sender.send_request(get("/")).await.unwrap()).await;
        statuses.push(answer.status);
        if answer.status == 429 {
            assert_eq!((answer.header("x-culvert-error"), answer.header("retry-after")), ("rate_limit", "1"));
        }
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{statuses:?}");
}

#[tokio::test]
async fn the_same_user_lands_on_the_same_pod() {
    let rig = Rig::start(
        &(shop("http", &PODS) + &policy("{loadBalancing: {algorithm: consistentHash, hashOn: {header: x-user}}}")),
    )
    .await;
    let backends = six(&rig).await;
    let mut used = 0;
    for user in 0..12 {
        let before = counts(&backends);
        for _ in 0..5 {
            let request = http::Request::get("/").header("host", "shop").header("x-user", user.to_string());
            assert_eq!(rig.call(request.body(http_body_util::Full::default()).unwrap()).await.status, 200);
        }
        let after = counts(&backends);
        let landed: Vec<usize> = (0..6).filter(|n| after[*n] != before[*n]).collect();
        assert_eq!(landed.len(), 1, "user {user}");
        used |= 1 << landed[0];
    }
    assert!(u32::count_ones(used) >= 3, "all users on few pods");
}
