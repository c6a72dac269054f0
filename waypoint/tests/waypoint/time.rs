//! Deadlines, cancellation, per-try timeouts.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::backend::{Act, Backend, ok};
use super::rig::{Rig, SHOP, got, policy, route, shop};

fn slow(delay: Duration) -> Act {
    Act { delay, ..ok("late") }
}

#[tokio::test]
async fn a_route_timeout_answers_504_and_cancels_the_backend() {
    let rig = Rig::start(
        &(shop("http", &[11]) + &route("[{timeouts: {request: 200ms}, backendRefs: [{name: shop, port: 80}]}]")),
    )
    .await;
    let backend = Backend::start(&rig, 11, |_, _| slow(Duration::from_secs(5))).await;
    let began = Instant::now();
    let answer = rig.get("/").await;
    let took = began.elapsed();
    assert_eq!((answer.status, answer.header("x-culvert-error")), (504, "deadline"));
    assert!(took >= Duration::from_millis(195) && took < Duration::from_millis(600), "{took:?}");
    rig.eventually("cancelled", async || backend.cancelled.load(Ordering::SeqCst) == 1).await;
    assert!(began.elapsed() < Duration::from_millis(1000), "cancellation took {:?}", began.elapsed() - took);
    assert_eq!(backend.last().header("x-envoy-expected-rq-timeout-ms").parse::<u64>().unwrap() / 100, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_learns_of_the_end_within_ten_milliseconds() {
    for protocol in ["http", "http2"] {
        let rig = Rig::start(
            &(shop(protocol, &[11]) + &route("[{timeouts: {request: 150ms}, backendRefs: [{name: shop, port: 80}]}]")),
        )
        .await;
        let backend = Backend::start(&rig, 11, |_, _| slow(Duration::from_secs(5))).await;
        let mut delays = vec![];
        for turn in 1..=15 {
            let began = Instant::now();
            assert_eq!(rig.get("/").await.status, 504);
            let answered = began.elapsed();
            while backend.cancelled.load(Ordering::SeqCst) < turn {
                tokio::time::sleep(Duration::from_micros(200)).await;
                assert!(began.elapsed() < Duration::from_secs(2), "{protocol}: never cancelled");
            }
            delays.push(began.elapsed().saturating_sub(answered.max(Duration::from_millis(150))));
        }
        delays.sort();
        eprintln!("{protocol}: cancelled after the answer by {delays:?}");
        assert!(delays[delays.len() / 2] <= Duration::from_millis(10), "{protocol}: {delays:?}");
    }
}

#[tokio::test]
async fn grpc_timeouts_are_kept_and_shortened() {
    let rig = Rig::start(&(shop("grpc", &[11]) + &policy("{deadline: {request: 10s}}"))).await;
    let backend = Backend::start(&rig, 11, |_, _| slow(Duration::from_secs(5))).await;
    let mut sender = rig.two(SHOP).await;
    let request =
        Request::post("http://shop/a.B/C").header("content-type", "application/grpc").header("grpc-timeout", "300m");
    let began = Instant::now();
    let answer = got(sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "4"));
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    let told = waypoint::resilience::deadline::parse_grpc_timeout(backend.last().header("grpc-timeout")).unwrap();
    assert!(told <= Duration::from_millis(300) && told > Duration::from_millis(100), "{told:?}");
    rig.eventually("cancelled", async || backend.cancelled.load(Ordering::SeqCst) == 1).await;
}

/// A body that comes in pieces, one each 100 ms.
fn trickle(pieces: usize) -> http_body_util::combinators::BoxBody<Bytes, std::io::Error> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        for _ in 0..pieces {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = sender.send(Bytes::from_static(b"piece")).await;
        }
    });
    let frames = futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((Ok(http_body::Frame::data(piece)), receiver))
    });
    http_body_util::BodyExt::boxed(http_body_util::StreamBody::new(Box::pin(frames)))
}

#[tokio::test]
async fn an_upload_is_not_late_as_long_as_it_flows() {
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{deadline: {default: 400ms, idle: 700ms}}"))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("got it")).await;
    let call = async |pieces| {
        let io = hyper_util::rt::TokioIo::new(rig.connect(SHOP).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("/").header("host", "shop").body(trickle(pieces)).unwrap();
        got(sender.send_request(request).await.unwrap()).await
    };
    let answer = call(12).await;
    assert_eq!((answer.status, backend.last().body.len()), (200, 60), "1.2 seconds of upload");
    backend.now(|_, _| slow(Duration::from_secs(3)));
    let began = Instant::now();
    let answer = call(8).await;
    assert_eq!((answer.status, answer.header("x-culvert-error")), (504, "deadline"));
    let took = began.elapsed();
    assert!((1150..2200).contains(&took.as_millis()), "the time counts from the end of the upload: {took:?}");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_made_elsewhere() {
    let rig = Rig::start(
        &(shop("http", &[11, 12])
            + &route("[{timeouts: {request: 5s, backendRequest: 200ms}, backendRefs: [{name: shop, port: 80}]}]")),
    )
    .await;
    Backend::start(&rig, 11, |_, _| slow(Duration::from_secs(3))).await;
    Backend::start(&rig, 12, |_, _| ok("quick")).await;
    for _ in 0..6 {
        let began = Instant::now();
        assert_eq!(rig.get("/").await.text(), "quick");
        assert!(began.elapsed() < Duration::from_millis(900));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| slow(Duration::from_secs(30))).await;
    let mut sender = rig.one(SHOP).await;
    let calling = tokio::spawn(async move { sender.send_request(super::rig::get("/")).await.is_ok() });
    rig.eventually("arrived", async || backend.hits() == 1).await;
    calling.abort();
    rig.eventually("cancelled", async || backend.cancelled.load(Ordering::SeqCst) == 1).await;
    rig.eventually("logged", async || rig.log().contains("response_flags=\"DC\"")).await;
}

#[tokio::test]
async fn without_a_word_fifteen_seconds_are_the_limit_and_zero_is_none() {
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{deadline: {default: 300ms}}"))).await;
    Backend::start(&rig, 11, |_, _| slow(Duration::from_millis(800))).await;
    assert_eq!(rig.get("/").await.status, 504);
    rig.write("r.yaml", &route("[{timeouts: {request: 0s}, backendRefs: [{name: shop, port: 80}]}]"));
    rig.eventually("unlimited", async || rig.get("/").await.status == 200).await;
}
