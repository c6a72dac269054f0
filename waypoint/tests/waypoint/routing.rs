//! Routes as real requests meet them: filters, splits, mirrors, changes while traffic flows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::backend::{Act, Backend, ok};
use super::rig::{Rig, SHOP, get, got, route, service, shop};

async fn two_services(rules: &str) -> (Rig, Arc<Backend>, Arc<Backend>) {
    let rig = Rig::start(&(shop("http", &[11]) + &service("v2", "10.96.0.20", "http", &[21]) + &route(rules))).await;
    let one = Backend::start(&rig, 11, |_, _| ok("one")).await;
    let two = Backend::start(&rig, 21, |_, _| ok("two")).await;
    (rig, one, two)
}

#[tokio::test]
async fn filters_change_the_request_and_the_response() {
    let (rig, one, _) = two_services(
        "[{matches: [{path: {value: /api}}],
           filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: x-add, value: b}], remove: [x-gone]}},
                     {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: yes}]}},
                     {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}],
           backendRefs: [{name: shop, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: one}]}}]}]},
          {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301}}]}]",
    )
    .await;
    let request = Request::get("/api/x?q=1").header("host", "shop").header("x-add", "a").header("x-gone", "1");
    let answer = rig.call(request.body(Full::default()).unwrap()).await;
    assert_eq!((answer.status, answer.header("x-answer")), (200, "yes"));
    let seen = one.last();
    assert_eq!((seen.uri.as_str(), seen.header("host")), ("/v1/x?q=1", "inner.example"));
    assert_eq!((seen.header("x-set"), seen.header("x-backend"), seen.header("x-gone")), ("s", "one", ""));
    assert_eq!(seen.headers.get_all("x-add").iter().collect::<Vec<_>>(), ["a", "b"]);
    let answer = rig.get("/old?q=2").await;
    assert_eq!((answer.status, answer.header("location")), (301, "https://shop/new?q=2"));
    assert_eq!(rig.get("/else").await.status, 404);
}

#[tokio::test]
async fn cross_origin_requests_are_answered() {
    let (rig, one, _) = two_services(
        "[{filters: [{type: CORS, cors: {allowOrigins: ['https://*.example.com'], allowMethods: [GET, PUT], allowHeaders: [x-a], allowCredentials: true, maxAge: 60}}],
           backendRefs: [{name: shop, port: 80}]}]",
    )
    .await;
    let preflight = Request::options("/").header("host", "shop").header("origin", "https://a.example.com");
    let preflight = preflight.header("access-control-request-method", "PUT").body(Full::default()).unwrap();
    let answer = rig.call(preflight).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, "https://a.example.com"));
    assert_eq!(
        (answer.header("access-control-allow-methods"), answer.header("access-control-max-age")),
        ("GET, PUT", "60")
    );
    assert_eq!(one.hits(), 0);
    let simple = Request::get("/").header("host", "shop").header("origin", "https://a.example.com");
    let answer = rig.call(simple.body(Full::default()).unwrap()).await;
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
}

#[tokio::test]
async fn weights_split_and_bad_references_keep_their_weight() {
    let (rig, one, two) = two_services(
        "[{backendRefs: [{name: shop, port: 80, weight: 50}, {name: v2, port: 80, weight: 30}, {name: absent, port: 80, weight: 20}]}]",
    )
    .await;
    let mut sender = rig.one(SHOP).await;
    let mut bad = 0;
    for _ in 0..1000 {
        let answer = got(sender.send_request(get("/")).await.unwrap()).await;
        if answer.status == 500 {
            assert_eq!(answer.header("x-culvert-error"), "backend_invalid");
            bad += 1;
        }
    }
    assert!((430..570).contains(&one.hits()), "{}", one.hits());
    assert!((230..370).contains(&two.hits()), "{}", two.hits());
    assert!((140..260).contains(&bad), "{bad}");
}

#[tokio::test]
async fn a_mirror_gets_its_fraction_with_the_body_and_never_slows_anything() {
    let (rig, one, two) = two_services(
        "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 25}}], backendRefs: [{name: shop, port: 80}]}]",
    )
    .await;
    two.now(|_, _| Act { delay: Duration::from_secs(10), ..ok("shadow") });
    let mut sender = rig.one(SHOP).await;
    let began = Instant::now();
    for n in 0..200 {
        let request =
            Request::post("/m").header("host", "shop").body(Full::new(Bytes::from(format!("body {n}")))).unwrap();
        let answer = got(sender.send_request(request).await.unwrap()).await;
        assert_eq!((answer.status, answer.text()), (200, "one"));
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(one.hits(), 200);
    rig.eventually("mirrored", async || (25..80).contains(&two.hits())).await;
    assert!(two.seen.lock().iter().all(|seen| seen.body.starts_with(b"body ") && seen.uri == "/m"));
}

#[tokio::test]
async fn a_route_changes_under_load_without_one_failure_or_closed_connection() {
    let rules = |a: u32, b: u32| {
        route(&format!(
            "[{{backendRefs: [{{name: shop, port: 80, weight: {a}}}, {{name: v2, port: 80, weight: {b}}}]}}]"
        ))
    };
    let rig = Rig::start(&(shop("http", &[11]) + &service("v2", "10.96.0.20", "http", &[21]))).await;
    rig.write("r.yaml", &rules(90, 10));
    Backend::start(&rig, 11, |_, _| ok("one")).await;
    let two = Backend::start(&rig, 21, |_, _| ok("two")).await;
    rig.eventually("routed", async || rig.admin("/config_dump/routes").await.contains("HTTPRoute/default/r")).await;
    let (stop, ones, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut calling = vec![];
    for _ in 0..4 {
        let mut sender = rig.one(SHOP).await;
        let (stop, ones, failed) = (Arc::clone(&stop), Arc::clone(&ones), Arc::clone(&failed));
        calling.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // The same connection throughout: a closed one fails the next call.
                match sender.send_request(get("/")).await {
                    Ok(response) => {
                        let answer = got(response).await;
                        failed.fetch_add(usize::from(answer.status != 200), Ordering::Relaxed);
                        ones.fetch_add(usize::from(answer.text() == "one"), Ordering::Relaxed);
                    }
                    Err(_) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut slowest = Duration::ZERO;
    for turn in 0..10 {
        let to_two = turn % 2 == 0;
        rig.write("r.yaml", &if to_two { rules(0, 100) } else { rules(90, 10) });
        let written = Instant::now();
        if !to_two {
            tokio::time::sleep(Duration::from_millis(300)).await;
            continue;
        }
        // In effect when nobody is sent to the first any more.
        loop {
            let before = ones.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if ones.load(Ordering::Relaxed) == before {
                break;
            }
            assert!(written.elapsed() < Duration::from_secs(3), "the change had no effect");
        }
        slowest = slowest.max(written.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for call in calling {
        call.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert!(two.hits() > 100, "{}", two.hits());
    eprintln!("slowest change in effect after {slowest:?}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[tokio::test]
async fn grpc_routes_of_an_older_version_choose_by_service_and_method() {
    let kind = "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: GRPCRoute\nmetadata: {name: g, namespace: default}\n\
        spec: {parentRefs: [{group: '', kind: Service, name: shop}], rules: [\n\
          {matches: [{method: {service: shop.Cart, method: Get}}], backendRefs: [{name: v2, port: 80}]},\n\
          {matches: [{method: {service: shop.Cart}}], backendRefs: [{name: shop, port: 80}]}]}\n";
    let rig = Rig::start(&(shop("grpc", &[11]) + &service("v2", "10.96.0.20", "grpc", &[21]) + kind)).await;
    let answer = |name: &'static str| {
        let headers = vec![("content-type", "application/grpc".to_owned()), ("x-from", name.to_owned())];
        move |_: usize, _: &_| Act {
            headers: headers.clone(),
            trailers: vec![("grpc-status", "0".to_owned())],
            ..ok("m")
        }
    };
    Backend::start(&rig, 11, answer("one")).await;
    Backend::start(&rig, 21, answer("two")).await;
    let mut sender = rig.two(SHOP).await;
    for (path, from, status) in
        [("/shop.Cart/Get", "two", ""), ("/shop.Cart/Put", "one", ""), ("/shop.Bill/Get", "", "12")]
    {
        let request = Request::post(format!("http://shop{path}")).header("content-type", "application/grpc");
        let answer = got(sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await;
        assert_eq!(
            (answer.status, answer.header("x-from"), answer.header("grpc-status")),
            (200, from, status),
            "{path}"
        );
    }
}

#[tokio::test]
async fn tcp_routes_spread_connections_by_weight() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let kind = "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: t, namespace: default}\n\
        spec: {parentRefs: [{group: '', kind: Service, name: shop}], rules: [{backendRefs: [{name: shop, port: 80, weight: 0}, {name: v2, port: 80, weight: 3}]}]}\n";
    let rig = Rig::start(&(shop("tcp", &[11]) + &service("v2", "10.96.0.20", "tcp", &[21]) + kind)).await;
    let listener = tokio::net::TcpListener::bind((rig.net.ip(21), super::rig::TARGET)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = tcp.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    for n in 0..20_u8 {
        let mut stream = rig.connect(SHOP).await;
        stream.write_all(&[n; 100]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echoed = vec![];
        stream.read_to_end(&mut echoed).await.unwrap();
        assert_eq!(echoed, [n; 100]);
    }
    rig.eventually("counted", async || {
        let metrics = rig.metrics().await;
        let line = metrics.lines().find(|line| line.starts_with("istio_tcp_connections_closed_total"));
        line.is_some_and(|line| line.ends_with(" 20") && line.contains("destination_workload=\"v2-21\""))
    })
    .await;
}

/// Anonymous memory of the waypoint in KiB: what it has written. Code that is needed now and then comes and goes.
fn anonymous(rig: &Rig) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn hundreds_of_changes_good_and_bad_cost_no_request_and_no_memory() {
    let rig = Rig::start(&shop("http", &[11])).await;
    Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let mut sender = rig.one(SHOP).await;
    let good = "[{backendRefs: [{name: shop, port: 80}]}]";
    let mut settled = 0;
    for turn in 0..400_u32 {
        let text = match turn % 8 {
            0 => "{ not yaml".to_owned(),
            1 => route("[{timeouts: {request: soon}, backendRefs: [{name: shop, port: 80}]}]"),
            2 => "kind: HTTPRoute\nmetadata: 3\n".to_owned(),
            3 => "a: [".to_owned(),
            4 => String::new(),
            _ => route(&good.replace("port: 80", &format!("port: 80, weight: {}", turn + 1))),
        };
        rig.write("r.yaml", &text);
        tokio::time::sleep(Duration::from_millis(8)).await;
        let answer = got(sender.send_request(get("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200, "{turn}: {answer:?}");
        if turn == 100 {
            settled = anonymous(&rig);
        }
    }
    let after = anonymous(&rig);
    assert!(after < settled + 3072, "{settled} KiB after a hundred changes, {after} KiB after four hundred");
    rig.write("r.yaml", &route(good));
    rig.eventually("routed", async || rig.admin("/config_dump/routes").await.contains("HTTPRoute/default/r")).await;
}

/// What somebody may write into a directory of manifests: good, wrong, torn, and no text at all. None of it, read in
/// whole or not at all, sends a request for `shop` elsewhere.
fn anything(random: &mut fastrand::Rng, name: &str) -> Vec<u8> {
    let weight = random.u32(1..1_000_000);
    let rules = format!("[{{backendRefs: [{{name: shop, port: 80, weight: {weight}}}]}}]");
    let good = route(&rules).replace("name: r,", &format!("name: {name},"));
    match random.u8(0..10) {
        0..=3 => good.into_bytes(),
        4 => good.as_bytes()[..random.usize(0..good.len())].to_vec(),
        5 => good.replace("port: 80", "port: eighty").into_bytes(),
        6 => good.replace("[{backendRefs", "[{timeouts: {request: soon}, backendRefs").into_bytes(),
        7 => b"kind: HTTPRoute\nmetadata: [3\n".to_vec(),
        8 => vec![],
        _ => std::iter::repeat_with(|| random.u8(..)).take(200).collect(),
    }
}

/// Writes as many documents as told, in place or by renaming, into five files; some are taken away again.
fn scribble(directory: &std::path::Path, random: &mut fastrand::Rng, writes: usize) {
    for _ in 0..writes {
        let name = format!("r{}", random.u8(0..5));
        let file = directory.join(format!("{name}.yaml"));
        let text = anything(random, &name);
        match random.u8(0..8) {
            0 => std::fs::write(&file, text).unwrap(),
            1 => _ = std::fs::remove_file(&file),
            _ => {
                let beside = directory.join(".beside");
                std::fs::write(&beside, text).unwrap();
                std::fs::rename(&beside, &file).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_writes_of_anything_cost_no_request_and_no_memory() {
    const BURSTS: usize = 500;
    const BURST: usize = 20;
    let rig = Rig::start(&shop("http", &[11])).await;
    Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut calling = vec![];
    for _ in 0..2 {
        let (mut sender, stop) = (rig.one(SHOP).await, Arc::clone(&stop));
        calling.push(tokio::spawn(async move {
            let mut calls = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                // The same connection throughout: a closed one fails the next call.
                let answer = got(sender.send_request(get("/")).await.unwrap()).await;
                assert_eq!((answer.status, answer.text()), (200, "fine"), "{answer:?}");
                calls += 1;
            }
            calls
        }));
    }
    let directory = rig.dir.path().join("manifests");
    let mut random = fastrand::Rng::with_seed(7);
    let began = Instant::now();
    let (mut written, mut settled) = (0, 0);
    // As fast as the disk lets, in bursts, so that the waypoint reads again and again while files change under it.
    for burst in 0..BURSTS {
        if began.elapsed() > Duration::from_secs(60) {
            break;
        }
        let (directory, mut own) = (directory.clone(), random.fork());
        tokio::task::spawn_blocking(move || scribble(&directory, &mut own, BURST)).await.unwrap();
        written += BURST;
        tokio::time::sleep(Duration::from_millis(5)).await;
        if burst == BURSTS / 4 {
            settled = anonymous(&rig);
        }
    }
    let (took, after) = (began.elapsed(), anonymous(&rig));
    eprintln!("{written} writes in {took:?}; {settled} KiB after a quarter of them, {after} KiB in the end");
    assert!(after < settled + 4096, "{settled} KiB after a quarter of {written} writes, {after} KiB in the end");
    let last =
        "[{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-state, value: last}]}}],
                 backendRefs: [{name: shop, port: 80}]}]";
    for name in ["r0", "r1", "r2", "r3", "r4"] {
        rig.write(&format!("{name}.yaml"), &route(last).replace("name: r,", &format!("name: {name},")));
    }
    rig.eventually("in effect", async || rig.get("/").await.header("x-state") == "last").await;
    let routes = rig.admin("/config_dump/routes").await;
    assert!((0..5).all(|n| routes.contains(&format!("HTTPRoute/default/r{n}#0"))), "{routes}");
    stop.store(true, Ordering::Relaxed);
    for call in calling {
        assert!(call.await.unwrap() > 100, "requests went on meanwhile");
    }
}

#[tokio::test]
async fn broken_configuration_leaves_the_last_good_in_effect() {
    let (rig, _, two) = two_services("[{backendRefs: [{name: v2, port: 80}]}]").await;
    rig.write(
        "r.yaml",
        &route("[{timeouts: {request: 3s}, backendRefs: [{name: v2, port: 80}]}]").replace("name: r,", "name: r2,"),
    );
    rig.eventually("r2", async || rig.admin("/config_dump/routes").await.contains("HTTPRoute/default/r2")).await;
    for broken in [
        "{ not yaml",
        &route("[{timeouts: {request: soon}, backendRefs: [{name: v2, port: 80}]}]").replace("name: r,", "name: r2,"),
    ] {
        rig.write("r.yaml", broken);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(rig.get("/").await.text(), "two");
    }
    assert!(rig.admin("/config_dump/statuses").await.contains("Fall Back"));
    assert_eq!(two.hits(), 2);
}
