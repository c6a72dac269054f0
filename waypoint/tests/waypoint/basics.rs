//! Requests go through, in every protocol, and are told about.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use transport::hbone::Authority;

use super::backend::{Act, Backend, ok};
use super::rig::{PORT, Rig, SHOP, TARGET, get, got, shop};

#[tokio::test]
async fn a_request_reaches_a_plain_backend_and_comes_back() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("hello")).await;
    let answer = rig.get("/a/../b?x=1").await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    let seen = backend.last();
    assert_eq!((seen.uri.as_str(), seen.header("host")), ("/b?x=1", "shop"));
    let cert = seen.header("x-forwarded-client-cert");
    assert_eq!(cert, "By=spiffe://cluster.local/ns/default/sa/wp;URI=spiffe://cluster.local/ns/default/sa/client");
    assert_eq!(seen.header("traceparent").len(), 55);
    assert_eq!(seen.header("x-request-id").len(), 36);
}

#[tokio::test]
async fn an_enrolled_backend_is_reached_over_hbone_on_behalf_of_the_client() {
    let manifests = shop("http", &[]) + &super::rig::pod("shop-11", "shop", 11, "ambient");
    let rig = Rig::start(&manifests).await;
    let backend = Backend::start_enrolled(&rig, 11, |_, _| ok("hello")).await;
    assert_eq!(rig.get("/").await.text(), "hello");
    assert_eq!(*backend.on_behalf_of.lock(), [Some(super::rig::identity("client"))]);
    // Connections are kept, but not shared between clients of different identities.
    for _ in 0..3 {
        assert_eq!(rig.get("/").await.status, 200);
    }
    assert_eq!(backend.on_behalf_of.lock().len(), 1);
    let authority = Authority::Address(std::net::SocketAddr::new(SHOP.parse().unwrap(), PORT));
    let stream = rig.connect_as("other", authority).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(got(sender.send_request(get("/")).await.unwrap()).await.status, 200);
    assert_eq!(backend.on_behalf_of.lock()[1], Some(super::rig::identity("other")));
}

#[tokio::test]
async fn a_service_is_reached_by_host_name_too_and_strangers_are_not() {
    let rig = Rig::start(&shop("http", &[11])).await;
    Backend::start(&rig, 11, |_, _| ok("hello")).await;
    let host = |name: &str| Authority::Host(name.into(), PORT);
    assert!(rig.connect_as("client", host("shop.default.svc.cluster.local")).await.is_ok());
    assert!(rig.connect_as("client", host("absent.default.svc.cluster.local")).await.unwrap_err().contains("404"));
    let elsewhere = Authority::Address("10.96.0.99:80".parse().unwrap());
    assert!(rig.connect_as("client", elsewhere).await.unwrap_err().contains("404"));
}

#[tokio::test]
async fn a_workload_that_names_the_waypoint_is_reached_by_its_own_address() {
    let named = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: lone, namespace: default, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}\n\
                 spec: {serviceAccountName: shop}\nstatus: {podIP: $NET.31}\n";
    let deny = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: default}\n\
                spec: {action: DENY, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], rules: [{to: [{operation: {paths: [/secret]}}]}]}\n";
    let all = shop("http", &[11]).replace(
        "{name: wp, namespace: default}",
        "{name: wp, namespace: default, labels: {istio.io/waypoint-for: all}}",
    );
    let rig = Rig::start(&(all + named + deny)).await;
    let backend = Backend::start_enrolled(&rig, 31, |_, _| ok("lone")).await;
    let at = |host: u8| Authority::Address(std::net::SocketAddr::new(rig.net.ip(host), TARGET));
    let stream = rig.connect_as("client", at(31)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(got(sender.send_request(get("/")).await.unwrap()).await.text(), "lone");
    assert_eq!(got(sender.send_request(get("/secret")).await.unwrap()).await.status, 403);
    assert_eq!(*backend.on_behalf_of.lock(), [Some(super::rig::identity("client"))]);
    assert!(rig.connect_as("client", at(11)).await.unwrap_err().contains("404"), "it does not name the waypoint");
    drop(sender);
    rig.eventually("counted", async || {
        let metrics = rig.metrics().await;
        metrics.contains("destination_service=\"unknown\"") && metrics.contains("destination_workload=\"lone\"")
    })
    .await;
}

#[tokio::test]
async fn http2_and_grpc_go_through_with_their_trailers() {
    let rig = Rig::start(&shop("grpc", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| Act {
        status: 200,
        headers: vec![("content-type", "application/grpc".to_owned())],
        body: "message".to_owned(),
        trailers: vec![("grpc-status", "0".to_owned())],
        ..Act::default()
    })
    .await;
    let mut sender = rig.two(SHOP).await;
    let request = Request::post("http://shop/shop.Cart/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "5S")
        .body(Full::new(Bytes::from("question")))
        .unwrap();
    let answer = got(sender.send_request(request).await.unwrap()).await;
    assert_eq!((answer.status, answer.text()), (200, "message"));
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    let seen = backend.last();
    assert_eq!((seen.version, &seen.body[..]), (http::Version::HTTP_2, &b"question"[..]));
    assert_eq!(seen.header("te"), "trailers");
    let told = waypoint::resilience::deadline::parse_grpc_timeout(seen.header("grpc-timeout")).unwrap();
    assert!(told.as_millis() <= 5000 && told.as_millis() > 4000, "{told:?}");
    drop(sender);
    rig.eventually("counted", async || {
        rig.metrics().await.lines().any(|line| {
            line.starts_with("istio_requests_total{reporter=\"waypoint\"")
                && line.contains("request_protocol=\"grpc\"")
                && line.contains("grpc_response_status=\"0\"")
                && line.ends_with(" 1")
        })
    })
    .await;
}

#[tokio::test]
async fn undeclared_protocols_are_found_out_and_the_server_may_speak_first() {
    let rig = Rig::start(&shop("undeclared", &[11])).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                tcp.write_all(b"220 ready\r\n").await.unwrap();
                let mut line = [0; 6];
                tcp.read_exact(&mut line).await.unwrap();
                tcp.write_all(&line).await.unwrap();
                let _ = tcp.shutdown().await;
            });
        }
    });
    let mut stream = rig.connect(SHOP).await;
    let mut greeting = [0; 11];
    let began = std::time::Instant::now();
    stream.read_exact(&mut greeting).await.unwrap();
    assert!(began.elapsed().as_millis() < 600, "{:?}", began.elapsed());
    assert_eq!(&greeting, b"220 ready\r\n");
    stream.write_all(b"QUIT\r\n").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"QUIT\r\n");
}

#[tokio::test]
async fn a_websocket_is_carried_both_ways() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        tcp.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let (mut read, mut write) = tcp.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let mut sender = rig.one(SHOP).await;
    let request = Request::get("/chat")
        .header("host", "shop")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(Full::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    let mut io = hyper_util::rt::TokioIo::new(upgraded);
    io.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    io.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}

#[tokio::test]
async fn answers_of_our_own_say_why() {
    let rig = Rig::start(&shop("http", &[])).await;
    let answer = rig.get("/").await;
    assert_eq!((answer.status, answer.header("x-culvert-error")), (503, "no_endpoint"));
    rig.write(
        "route.yaml",
        &super::rig::route("[{matches: [{path: {value: /only}}], backendRefs: [{name: shop, port: 80}]}]"),
    );
    rig.eventually("routed", async || rig.get("/").await.status == 404).await;
    assert_eq!(rig.get("/").await.header("x-culvert-error"), "no_route");
    let mut sender = rig.two(SHOP).await;
    let request = Request::post("http://shop/a.B/C")
        .header("content-type", "application/grpc")
        .body(Full::<Bytes>::default())
        .unwrap();
    let answer = got(sender.send_request(request).await.unwrap()).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "12"));
    rig.eventually("logged", async || {
        let log = rig.log();
        log.contains("response_flags=\"UH\"") && log.contains("response_flags=\"NR\"")
    })
    .await;
}

#[tokio::test]
async fn streaming_keeps_within_the_smallest_memory_quota() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let big = "x".repeat(8 << 20);
    let body = big.clone();
    let backend = Backend::start(&rig, 11, move |_, _| ok(&body)).await;
    let request = Request::post("/").header("host", "shop").body(Full::new(Bytes::from(big.clone()))).unwrap();
    let answer = rig.call(request).await;
    assert_eq!((answer.status, answer.body.len()), (200, 8 << 20));
    assert_eq!(backend.last().body.len(), 8 << 20);
    let _ = Arc::clone(&backend);
}
