//! Retries: when, how often, and when not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::backend::{Act, Backend, ok, status};
use super::rig::{Rig, SHOP, got, policy, route, shop};

fn post(body: &str) -> Request<Full<Bytes>> {
    Request::post("/").header("host", "shop").body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

#[tokio::test]
async fn a_get_is_tried_again_on_another_endpoint() {
    let rig = Rig::start(&shop("http", &[11, 12])).await;
    let first = Backend::start(&rig, 11, |_, _| status(503)).await;
    let second = Backend::start(&rig, 12, |_, _| ok("fine")).await;
    for _ in 0..20 {
        assert_eq!(rig.get("/").await.status, 200);
    }
    assert!(second.hits() >= 20, "every request ended there");
    assert!(first.hits() <= 5, "the failing one was left alone: {}", first.hits());
}

#[tokio::test]
async fn a_post_that_was_received_is_not_repeated_unless_the_route_says_so() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| status(503)).await;
    assert_eq!(rig.call(post("pay")).await.status, 503);
    assert_eq!(backend.hits(), 1);
    let keyed = Request::post("/").header("host", "shop").header("idempotency-key", "1");
    assert_eq!(rig.call(keyed.body(Full::new(Bytes::from("pay"))).unwrap()).await.status, 503);
    assert_eq!(backend.hits(), 4, "the caller says that it is safe: two retries");
    rig.write("r.yaml", &route("[{retry: {attempts: 1, codes: [503]}, backendRefs: [{name: shop, port: 80}]}]"));
    rig.eventually("routed", async || rig.admin("/config_dump/routes").await.contains("HTTPRoute/default/r")).await;
    let before = backend.hits();
    assert_eq!(rig.call(post("pay")).await.status, 503);
    assert_eq!(backend.hits() - before, 2);
    assert_eq!(&backend.last().body[..], b"pay", "the body was sent again");
}

#[tokio::test]
async fn a_request_that_never_left_is_always_tried_elsewhere() {
    // Nobody listens at 11.
    let rig = Rig::start(&shop("http", &[11, 12])).await;
    let backend = Backend::start(&rig, 12, |_, _| ok("fine")).await;
    for n in 0..20 {
        assert_eq!(rig.call(post(&n.to_string())).await.status, 200);
    }
    assert_eq!(backend.hits(), 20);
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_sent_once() {
    let rig = Rig::start(
        &(shop("http", &[11])
            + &route("[{retry: {attempts: 3, codes: [503]}, backendRefs: [{name: shop, port: 80}]}]")),
    )
    .await;
    let backend = Backend::start(&rig, 11, |_, _| status(503)).await;
    assert_eq!(rig.call(post(&"x".repeat(65_000))).await.status, 503);
    assert_eq!(backend.hits(), 4);
    assert_eq!(rig.call(post(&"x".repeat(70_000))).await.status, 503);
    assert_eq!(backend.hits(), 5, "more than 64 KiB are not kept");
}

#[tokio::test]
async fn waits_grow_and_are_spread() {
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{retry: {attempts: 3, backoff: {base: 50ms}}, circuitBreaker: {endpoint: {consecutive: 0, successRate: 0}}}"))).await;
    let times = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    Backend::start(&rig, 11, move |_, _| {
        noted.lock().push(Instant::now());
        status(502)
    })
    .await;
    let mut gaps = vec![];
    for _ in 0..4 {
        times.lock().clear();
        assert_eq!(rig.get("/").await.status, 502);
        let times = times.lock().clone();
        assert_eq!(times.len(), 4);
        let between: Vec<u128> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert!(between[0] >= 50 && between[1] >= 100 && between[2] >= 200, "{between:?}");
        assert!(between[0] < 160 && between[1] < 260 && between[2] < 460, "{between:?}");
        gaps.push(between[1]);
    }
    gaps.dedup();
    assert!(gaps.len() > 1, "no jitter: {gaps:?}");
}

/// The distance of Kolmogorov and Smirnov between a sample and the uniform distribution from 0 to 1.
fn distance(mut sample: Vec<f64>) -> f64 {
    sample.sort_by(f64::total_cmp);
    let count = sample.len() as f64;
    let apart =
        |(index, value): (usize, &f64)| (value - index as f64 / count).abs().max((index + 1) as f64 / count - value);
    sample.iter().enumerate().map(apart).fold(0.0, f64::max)
}

/// Most of the moments that lie within `window`.
fn most_within(mut moments: Vec<Duration>, window: Duration) -> usize {
    moments.sort();
    let near = |from: &Duration| moments.iter().filter(|at| **at >= *from && **at < *from + window).count();
    moments.iter().map(near).max().unwrap_or_default()
}

#[tokio::test]
async fn clients_that_failed_at_one_moment_do_not_come_back_at_one_moment() {
    const CLIENTS: usize = 200;
    let spread = "{circuitBreaker: {endpoint: {consecutive: 0, successRate: 0}}, deadline: {default: 60s}, \
         retry: {attempts: 1, perTryTimeout: 30s, backoff: {base: 2s, max: 2s}, budget: {percent: 100, minPerSecond: 10000}}}";
    let rig = Rig::start(&(shop("http2", &[11]) + &policy(spread))).await;
    let began = Instant::now();
    let times = Arc::new(parking_lot::Mutex::new(std::collections::HashMap::<String, Vec<Duration>>::new()));
    let noted = Arc::clone(&times);
    Backend::start(&rig, 11, move |_, seen| {
        let mut times = noted.lock();
        let known = times.entry(seen.header("x-key").to_owned()).or_default();
        known.push(began.elapsed());
        match seen.header("x-key").starts_with("told") {
            _ if known.len() > 1 => ok("fine"),
            true => Act { headers: vec![("retry-after", "4".to_owned())], ..status(503) },
            false => status(503),
        }
    })
    .await;
    let mut calls = vec![];
    for told in ["own", "told"] {
        let sender = rig.two(SHOP).await;
        for client in 0..CLIENTS {
            let mut sender = sender.clone();
            let request = Request::get("http://shop/").header("x-key", format!("{told}-{client}"));
            let request = request.body(Full::<Bytes>::default()).unwrap();
            calls.push(tokio::spawn(async move { got(sender.send_request(request).await.unwrap()).await.status }));
        }
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    let times = times.lock();
    for (who, least) in [("own", 2.0), ("told", 4.0)] {
        let tries: Vec<_> = times.iter().filter(|(key, _)| key.starts_with(who)).map(|(_, tries)| tries).collect();
        assert!(tries.len() == CLIENTS && tries.iter().all(|tries| tries.len() == 2), "{who}: {tries:?}");
        let gaps = tries.iter().map(|tries| (tries[1] - tries[0]).as_secs_f64());
        let waited: Vec<f64> = gaps.map(|gap| (gap - least) / 2.0).collect();
        assert!(waited.iter().all(|waited| *waited >= 0.0), "{who}: some came back before their time: {waited:?}");
        // An honest sample lies within 0.2 but once in millions; the rest is for a machine that is slow to run things.
        let apart = distance(waited);
        assert!(apart < 0.45, "{who}: {apart} from evenly spread over two seconds");
        // A tenth of the two seconds: a tenth of the clients, and not everybody.
        let together = most_within(tries.iter().map(|tries| tries[1]).collect(), Duration::from_millis(200));
        assert!(together < CLIENTS / 2, "{who}: {together} of {CLIENTS} came back within 200 ms");
        eprintln!("{who}: {apart:.3} from evenly spread, at most {together} of {CLIENTS} within 200 ms");
    }
}

#[tokio::test]
async fn the_budget_bounds_the_load_on_a_failing_service() {
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{circuitBreaker: {endpoint: {consecutive: 0, successRate: 0}}, retry: {budget: {minPerSecond: 0}, backoff: {base: 1ms, max: 1ms}}}"))).await;
    let backend = Backend::start(&rig, 11, |_, _| status(503)).await;
    let mut sender = rig.one(SHOP).await;
    for _ in 0..500 {
        assert_eq!(got(sender.send_request(super::rig::get("/")).await.unwrap()).await.status, 503);
    }
    let hits = backend.hits();
    assert!((590..=600).contains(&hits), "{hits} for 500 requests: a fifth more and no further");
}

#[tokio::test]
async fn a_backend_traffic_policy_answers_503_beyond_its_budget() {
    let constraint = "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: b, namespace: default}\n\
        spec: {targetRefs: [{group: '', kind: Service, name: shop}], retryConstraint: {budget: {percent: 0}, minRetryRate: {count: 1, interval: 1h}}}\n";
    let rig = Rig::start(&(shop("http", &[11]) + constraint)).await;
    let backend = Backend::start(&rig, 11, |_, _| status(502)).await;
    let mut errors = vec![];
    for _ in 0..4 {
        let answer = rig.get("/").await;
        errors.push((answer.status, answer.header("x-culvert-error").to_owned()));
    }
    assert_eq!(
        errors[1..],
        [(503, "retry_budget".to_owned()), (503, "retry_budget".to_owned()), (503, "retry_budget".to_owned())]
    );
    assert!(backend.hits() <= 5, "{}", backend.hits());
    rig.eventually("logged", async || rig.log().contains("response_flags=\"URX\"")).await;
}

#[tokio::test]
async fn what_a_hop_further_on_has_retried_is_not_multiplied() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let marked = |_: usize, _: &_| Act { headers: vec![("x-mesh-retried", "1".to_owned())], ..status(503) };
    let backend = Backend::start(&rig, 11, marked).await;
    let answer = rig.get("/").await;
    assert_eq!((answer.status, backend.hits()), (503, 1));
    backend.now(|_, _| status(503));
    let answer = rig.get("/").await;
    assert_eq!((answer.status, answer.header("x-mesh-retried"), backend.hits()), (503, "1", 4));
}

#[tokio::test]
async fn retry_after_is_honoured_and_never_past_the_deadline() {
    let rig = Rig::start(
        &(shop("http", &[11]) + &route("[{timeouts: {request: 3s}, backendRefs: [{name: shop, port: 80}]}]")),
    )
    .await;
    let backend = Backend::start(&rig, 11, |hit, _| match hit {
        0 => Act { headers: vec![("retry-after", "1".to_owned())], ..status(503) },
        1 => ok("fine"),
        _ => Act { headers: vec![("retry-after", "10".to_owned())], ..status(503) },
    })
    .await;
    let began = Instant::now();
    assert_eq!(rig.get("/").await.status, 200);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let began = Instant::now();
    assert_eq!(rig.get("/").await.status, 503);
    assert!(began.elapsed() < Duration::from_secs(1), "it cannot help within the deadline");
    assert_eq!(backend.hits(), 3);
}

#[tokio::test]
async fn grpc_status_codes_are_tried_again_from_headers_and_trailers() {
    let rig = Rig::start(&shop("grpc", &[11])).await;
    let kind = ("content-type", "application/grpc".to_owned());
    let backend = Backend::start(&rig, 11, move |hit, _| match hit {
        0 => Act { status: 200, headers: vec![kind.clone(), ("grpc-status", "14".to_owned())], ..Act::default() },
        1 => Act {
            status: 200,
            headers: vec![kind.clone()],
            trailers: vec![("grpc-status", "14".to_owned())],
            ..Act::default()
        },
        _ => Act {
            status: 200,
            headers: vec![kind.clone()],
            trailers: vec![("grpc-status", "0".to_owned())],
            ..Act::default()
        },
    })
    .await;
    let mut sender = rig.two(SHOP).await;
    let request = Request::post("http://shop/a.B/C").header("content-type", "application/grpc");
    let answer = got(sender.send_request(request.body(Full::new(Bytes::from("q"))).unwrap()).await.unwrap()).await;
    // Trailers that come in the same packet as the headers are seen; others belong to the caller.
    let status = answer
        .trailers
        .as_ref()
        .map_or(answer.header("grpc-status"), |trailers| trailers["grpc-status"].to_str().unwrap());
    assert!(
        backend.hits() == 3 && status == "0" || backend.hits() == 2 && status == "14",
        "{} {status}",
        backend.hits()
    );
    assert_eq!(&backend.last().body[..], b"q");
}

#[tokio::test]
async fn a_broken_connection_is_told_from_an_answer() {
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{retry: {attempts: 0}}"))).await;
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    Backend::start(&rig, 11, move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Act { hang_up: true, ..ok("") }
    })
    .await;
    let answer = rig.get("/").await;
    assert_eq!((answer.status, answer.header("x-culvert-error")), (503, "reset"));
    rig.eventually("logged", async || rig.log().contains("response_flags=\"UC\"")).await;
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}
