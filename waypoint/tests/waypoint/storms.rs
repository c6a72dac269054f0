//! Dependencies that fail: what reaches each tier, how fast callers learn of it, how service returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use tokio::net::{TcpListener, TcpStream};

use super::backend::{Backend, ok, status};
use super::rig::{Rig, SHOP, TARGET, get, got, policy, service, shop};

type Sender = http2::SendRequest<http_body_util::Full<bytes::Bytes>>;

async fn ask(mut sender: Sender) -> u16 {
    let request = http::Request::get("http://tier/").body(http_body_util::Full::default()).unwrap();
    match sender.send_request(request).await {
        Ok(response) => got(response).await.status,
        Err(_) => 0,
    }
}

/// A tier that asks the next one for every request, and has no answer when that has none.
async fn tier(rig: &Rig, host: u8, next: Sender) -> Arc<AtomicUsize> {
    use hyper::service::service_fn;
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hits);
    let listener = TcpListener::bind((rig.net.ip(host), TARGET)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (next, hits) = (next.clone(), Arc::clone(&counted));
            let serve = service_fn(move |_request: http::Request<hyper::body::Incoming>| {
                let next = next.clone();
                hits.fetch_add(1, Ordering::SeqCst);
                async move {
                    let status = if ask(next).await == 200 { 200 } else { 503 };
                    let response = http::Response::builder().status(status);
                    response.body(http_body_util::Full::<bytes::Bytes>::default())
                }
            });
            let io = hyper_util::rt::TokioIo::new(tcp);
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .serve_connection(io, serve),
            );
        }
    });
    hits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_leaf_of_three_tiers_gets_no_storm() {
    let (middle_vip, leaf_vip) = ("10.96.0.20", "10.96.0.30");
    let tiers = shop("http2", &[11])
        + &service("middle", middle_vip, "http2", &[21])
        + &service("leaf", leaf_vip, "http2", &[31]);
    // What the breakers would hold back is let through, so that the budget alone is seen.
    let open = "{circuitBreaker: {endpoint: {consecutive: 0, successRate: 0}}}";
    let rig = Rig::start(&(tiers + &policy(open))).await;
    let leaf = Backend::start(&rig, 31, |_, _| status(503)).await;
    let middle = tier(&rig, 21, rig.two(leaf_vip).await).await;
    let front = tier(&rig, 11, rig.two(middle_vip).await).await;
    let sender = rig.two(SHOP).await;
    let (began, rate, seconds) = (Instant::now(), 150, 6);
    let mut calls = vec![];
    for n in 0..rate * seconds {
        tokio::time::sleep_until((began + Duration::from_secs(1) / rate * n).into()).await;
        calls.push(tokio::spawn(ask(sender.clone())));
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), 503);
    }
    let sent = (rate * seconds) as usize;
    let loads = [front.load(Ordering::SeqCst), middle.load(Ordering::SeqCst), leaf.hits()];
    eprintln!("{sent} requests sent; load on the tiers: {loads:?}");
    // A fifth more than the direct callers sent; the ten a second that are always allowed matter little at this rate.
    let mut before = sent;
    for load in loads {
        let most = before + before / 5 + 10 * seconds as usize;
        assert!((before..=most).contains(&load), "{load} after {before}: {loads:?}");
        before = load;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_dead_dependency_learn_it_at_once_and_one_probe_brings_it_back() {
    // Open for longer than a call takes: no endpoint is due for its probe before the other has failed five times.
    let patience = "{retry: {attempts: 0}, deadline: {default: 1100ms}, circuitBreaker: {endpoint: {open: {min: 2s}}}}";
    let rig = Rig::start_alone(&(shop("http", &[11, 12]) + &policy(patience))).await;
    // It takes connections and says nothing.
    let dead = Arc::new(AtomicBool::new(true));
    let (silent, most_at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for host in [11, 12] {
        let listener = TcpListener::bind((rig.net.ip(host), TARGET)).await.unwrap();
        let (dead, silent, most) = (Arc::clone(&dead), Arc::clone(&silent), Arc::clone(&most_at_once));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (dead, silent, most) = (Arc::clone(&dead), Arc::clone(&silent), Arc::clone(&most));
                tokio::spawn(async move {
                    if dead.load(Ordering::SeqCst) {
                        most.fetch_max(silent.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        hang(tcp).await;
                        silent.fetch_sub(1, Ordering::SeqCst);
                    } else {
                        serve(tcp).await;
                    }
                });
            }
        });
    }
    let call = async || {
        let began = Instant::now();
        let answer = rig.get("/").await;
        (answer.status, answer.header("x-culvert-error").to_owned(), began.elapsed())
    };
    // At most five failures in a row on each endpoint, and it is open.
    let mut slow = 0;
    loop {
        let (status, error, _) = call().await;
        if error == "circuit_open" {
            break;
        }
        assert_eq!((status, error.as_str()), (504, "deadline"));
        slow += 1;
        assert!(slow <= 10, "it never opened");
    }
    // The wait from connection to answer, of which a few are probes.
    most_at_once.store(0, Ordering::SeqCst);
    let calls = futures_util::future::join_all((0..300).map(async |n: u64| {
        tokio::time::sleep(Duration::from_millis(10 * n)).await;
        call().await
    }));
    let calls = calls.await;
    let probes = calls.iter().filter(|(status, ..)| *status == 504).count();
    let mut times: Vec<Duration> = calls.iter().filter(|call| call.1 == "circuit_open").map(|call| call.2).collect();
    times.sort();
    assert_eq!(probes + times.len(), 300, "{calls:?}");
    assert!((1..=8).contains(&probes), "{probes} probes in three seconds");
    let p99 = times[times.len() * 99 / 100];
    eprintln!("opened after {slow}; fast failures: median {:?}, p99 {p99:?}; {probes} probes", times[times.len() / 2]);
    assert!(times[times.len() / 2] < Duration::from_millis(20) && p99 < Duration::from_millis(100));
    assert!(most_at_once.load(Ordering::SeqCst) <= 2, "one probe for each endpoint");
    dead.store(false, Ordering::SeqCst);
    let recovered = Instant::now();
    while call().await.0 != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(recovered.elapsed() < Duration::from_secs(9), "it did not come back");
    }
}

async fn hang(tcp: TcpStream) {
    let mut sink = tokio::io::sink();
    let mut tcp = tcp;
    let _ = tokio::io::copy(&mut tcp, &mut sink).await;
}

async fn serve(tcp: TcpStream) {
    let service = hyper::service::service_fn(async |_request: http::Request<hyper::body::Incoming>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
    });
    let _ =
        hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(tcp), service).await;
}

#[tokio::test]
async fn a_client_that_policy_refuses_spoils_nothing_for_others() {
    let rig = Rig::start(&(shop("http", &[]) + &super::rig::pod("shop-11", "shop", 11, "ambient"))).await;
    let backend = Backend::start_enrolled(&rig, 11, |_, _| ok("fine")).await;
    *backend.refuses.lock() = Some(super::rig::identity("other"));
    let authority =
        transport::hbone::Authority::Address(std::net::SocketAddr::new(SHOP.parse().unwrap(), super::rig::PORT));
    let stream = rig.connect_as("other", authority).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut refused, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..20 {
        let answer = got(refused.send_request(get("/")).await.unwrap()).await;
        assert_eq!((answer.status, answer.header("x-culvert-error")), (403, "denied_by_peer"));
        assert_eq!(rig.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_single_pod_that_refuses_connections_is_not_asked_by_everybody() {
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{retry: {attempts: 0}}"))).await;
    let mut sender = rig.one(SHOP).await;
    let mut errors = vec![];
    for _ in 0..20 {
        let answer = got(sender.send_request(get("/")).await.unwrap()).await;
        assert_eq!(answer.status, 503);
        errors.push(answer.header("x-culvert-error").to_owned());
    }
    assert_eq!(errors.iter().filter(|error| *error == "connect").count(), 5, "{errors:?}");
    assert!(errors[5..].iter().all(|error| error == "circuit_open"), "{errors:?}");
    let answer = got(sender.send_request(get("/")).await.unwrap()).await;
    assert!(["1", "2"].contains(&answer.header("retry-after")), "{answer:?}");
    let _backend = Backend::start(&rig, 11, |_, _| ok("back")).await;
    rig.eventually("back", async || rig.get("/").await.status == 200).await;
}
