//! Offers to change the protocol: the one that is taken, and all others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{Empty, Full};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::backend::{Backend, ok};
use super::rig::{Rig, SHOP, TARGET, got, policy, shop};
use super::wire::{OK, Wire, echo, field, read_answer, read_head, say};

#[tokio::test]
async fn an_offer_that_is_not_taken_changes_nothing() {
    for protocol in ["http", "http2"] {
        let rig = Rig::start(&shop(protocol, &[11])).await;
        let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
        for offer in ["TLS/1.2", "TLS/1.0, HTTP/1.1", "h2c", "spdy/3.1", "IRC/6.9, RTA/x11", "websockets"] {
            for method in [Method::GET, Method::OPTIONS, Method::PUT, Method::POST, Method::DELETE, Method::HEAD] {
                let content = if method == Method::POST || method == Method::PUT { "order=1" } else { "" };
                let request = Request::builder()
                    .method(method.clone())
                    .uri("/x")
                    .header("host", "shop")
                    .header("connection", "Upgrade, HTTP2-Settings")
                    .header("http2-settings", "AAMAAABkAAQAAP__")
                    .header("upgrade", offer);
                let answer = rig.call(request.body(Full::new(Bytes::from(content))).unwrap()).await;
                assert_eq!(answer.status, 200, "{protocol} {method} {offer}");
                let seen = backend.last();
                assert_eq!((&seen.method, &seen.body[..]), (&method, content.as_bytes()), "{protocol} {offer}");
                for gone in ["upgrade", "connection", "http2-settings"] {
                    assert_eq!(seen.header(gone), "", "{protocol} {method} {offer}");
                }
            }
        }
    }
}

#[tokio::test]
async fn no_offer_leaves_a_length_behind_whose_content_is_gone() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let wire = Wire::start(&rig, 11, |_| say(OK)).await;
    let smuggled = "GET /admin HTTP/1.1\r\nhost: shop\r\n\r\n";
    for (what, head) in [
        ("websocket with content", "GET /w HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n"),
        ("websocket by POST", "POST /p HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n"),
        ("something else", "GET /o HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: x\r\n"),
        ("nominated length", "GET /n HTTP/1.1\r\nhost: shop\r\nconnection: content-length\r\n"),
    ] {
        let length = smuggled.len();
        for framed in [
            format!("{head}content-length: {length}\r\n\r\n{smuggled}"),
            format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"),
        ] {
            let mut stream = rig.connect(SHOP).await;
            stream.write_all(framed.as_bytes()).await.unwrap();
            let answer = read_answer(&mut stream).await.expect(what);
            assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
            // The next one, of somebody else maybe, is read as itself on the same connection to the backend.
            assert_eq!(rig.get("/next").await.status, 200, "{what}");
            let seen = wire.seen.lock().split_off(0);
            assert_eq!(seen.len(), 2, "{what}: {seen:?}");
            assert!(seen[0].contains(smuggled) && seen[1].starts_with("GET /next "), "{what}: {seen:?}");
            let framed = field(&seen[0], "content-length").is_some() != field(&seen[0], "transfer-encoding").is_some();
            assert!(framed && field(&seen[0], "upgrade").is_none(), "{what}: {}", seen[0]);
        }
    }
    assert_eq!(wire.connections.load(Ordering::SeqCst), 1, "connections stay fit for use");
}

#[tokio::test]
async fn policy_routes_and_backend_see_one_method() {
    let deny = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: default}\n\
                spec: {action: DENY, targetRefs: [{group: '', kind: Service, name: shop}], rules: [{to: [{operation: {methods: [GET], paths: ['/private*']}}]}]}\n";
    let rig = Rig::start(&(shop("http", &[11]) + deny)).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    for (method, offer, status) in [
        ("GET", "", 403),
        ("GET", "connection: upgrade\r\nupgrade: websocket\r\n", 403),
        ("GET", "connection: upgrade\r\nupgrade: TLS/1.2\r\n", 403),
        ("OPTIONS", "connection: upgrade\r\nupgrade: TLS/1.2\r\n", 200),
        ("POST", "connection: upgrade\r\nupgrade: websocket\r\n", 200),
    ] {
        let text = format!("{method} /private HTTP/1.1\r\nhost: shop\r\n{offer}content-length: 0\r\n\r\n");
        let answer = rig.tell(SHOP, text.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method} {offer}: {answer}");
        if status == 200 {
            assert_eq!(backend.last().method, method);
        }
    }
    // An extended CONNECT is judged as the GET that its backend would get.
    let io = TokioIo::new(rig.connect(SHOP).await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = extended("http://shop/private", "websocket");
    assert_eq!(got(sender.send_request(request).await.unwrap()).await.status, 403);
    let request = extended("http://shop/x", "connect-udp");
    assert_eq!(got(sender.send_request(request).await.unwrap()).await.status, 501);
    rig.eventually("logged", async || rig.log().contains("method=\"GET\" path=\"/private\"")).await;
    assert!(!rig.log().contains("method=\"CONNECT\" path=\"/private\""));
}

fn extended(uri: &str, protocol: &'static str) -> Request<Empty<Bytes>> {
    let mut request = Request::connect(uri).version(Version::HTTP_2).body(Empty::new()).unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

/// A WebSocket server of HTTP/1 that echoes.
async fn serve_one(rig: &Rig, host: u8) {
    let listener = TcpListener::bind((rig.net.ip(host), TARGET)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Some(head) = read_head(&mut tcp).await else { return };
                if !head.starts_with("GET /chat ") {
                    return;
                }
                let good = field(&head, "upgrade") == Some("websocket")
                    && field(&head, "connection") == Some("upgrade")
                    && field(&head, "sec-websocket-key").is_some()
                    && field(&head, "content-length").is_none()
                    && field(&head, "transfer-encoding").is_none();
                let said = if good {
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: theirs\r\nkeep-alive: x\r\n\r\n"
                } else {
                    "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"
                };
                tcp.write_all(said.as_bytes()).await.unwrap();
                echo(tcp).await;
            });
        }
    });
}

/// A WebSocket server of HTTP/2 that echoes; `takes` says whether it announces extended CONNECT.
async fn serve_two(rig: &Rig, host: u8, takes: bool) {
    let listener = TcpListener::bind((rig.net.ip(host), TARGET)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            if takes {
                builder.enable_connect_protocol();
            }
            let service = hyper::service::service_fn(|mut request: Request<hyper::body::Incoming>| async move {
                let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
                let good = request.method() == Method::CONNECT
                    && protocol.as_deref() == Some("websocket")
                    && request.uri().path() == "/chat"
                    && !request.headers().contains_key("sec-websocket-key");
                let upgraded = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    if let Ok(upgraded) = upgraded.await {
                        echo(TokioIo::new(upgraded)).await;
                    }
                });
                let status = if good { 200 } else { 400 };
                Ok::<_, std::convert::Infallible>(
                    http::Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap(),
                )
            });
            tokio::spawn(builder.serve_connection(TokioIo::new(tcp), service));
        }
    });
}

async fn chat_one(rig: &Rig) -> String {
    let mut stream = rig.connect(SHOP).await;
    let text = "GET /chat HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n\
                sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(text.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    if head.starts_with("HTTP/1.1 101") {
        stream.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    }
    head
}

async fn chat_two(rig: &Rig) -> http::Response<hyper::body::Incoming> {
    let io = TokioIo::new(rig.connect(SHOP).await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut response = sender.send_request(extended("http://shop/chat", "websocket")).await.unwrap();
    if response.status() == 200 {
        let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        io.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        io.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    }
    response
}

#[tokio::test]
async fn a_websocket_is_translated_between_both_versions_both_ways() {
    for (protocol, takes) in [("http", None), ("http2", Some(true))] {
        let rig = Rig::start(&shop(protocol, &[11])).await;
        match takes {
            None => serve_one(&rig, 11).await,
            Some(takes) => serve_two(&rig, 11, takes).await,
        }
        let head = chat_one(&rig).await;
        assert!(head.starts_with("HTTP/1.1 101") && field(&head, "upgrade") == Some("websocket"), "{protocol}: {head}");
        assert_eq!(field(&head, "keep-alive"), None, "fields of the backend's connection");
        let accept = if takes.is_some() { "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" } else { "theirs" };
        assert_eq!(field(&head, "sec-websocket-accept"), Some(accept), "{protocol}");
        let response = chat_two(&rig).await;
        assert_eq!(response.status(), 200, "{protocol}");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_websocket_over_http_2_is_asked_over_http_1() {
    // It declares HTTP/2, announces no extended CONNECT, and speaks both on its port, as Go's servers do.
    let rig = Rig::start(&shop("http2", &[11])).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut first = [0; 3];
                tcp.read_exact(&mut first).await.unwrap();
                if &first == b"PRI" {
                    counted.fetch_add(1, Ordering::SeqCst);
                    // SETTINGS that announce nothing.
                    tcp.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
                    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                    return;
                }
                read_head(&mut tcp).await.unwrap();
                tcp.write_all(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
                echo(tcp).await;
            });
        }
    });
    for _ in 0..3 {
        assert!(chat_one(&rig).await.starts_with("HTTP/1.1 101"));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "its silence is remembered");
}

#[tokio::test]
async fn a_backend_agrees_to_what_was_asked_or_to_nothing() {
    let rig = Rig::start(
        &(shop("http", &[11])
            + &policy("{retry: {attempts: 0}, circuitBreaker: {endpoint: {consecutive: 0, successRate: 0}}}")),
    )
    .await;
    let wire = Wire::start(&rig, 11, |head| {
        say(match head.split(' ').nth(1).unwrap() {
            "/other" => "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            "/none" => "HTTP/1.1 101 x\r\n\r\n",
            "/no" => {
                "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 2\r\n\r\nno"
            }
            _ => "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        })
    })
    .await;
    let offer = "connection: upgrade\r\nupgrade: websocket\r\n";
    for (path, offer, status) in
        [("/other", offer, 502), ("/none", offer, 502), ("/no", offer, 426), ("/unasked", "", 502)]
    {
        let text = format!("GET {path} HTTP/1.1\r\nhost: shop\r\n{offer}\r\n");
        let mut stream = rig.connect(SHOP).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert_eq!(
            (field(&answer, "upgrade"), status == 502),
            (None, answer.contains("x-culvert-error: upgrade")),
            "{answer}"
        );
        // The client's connection goes on where HTTP does.
        stream.write_all(b"GET /no HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(read_answer(&mut stream).await.unwrap().starts_with("HTTP/1.1 426"), "{path}");
        let mut rest = vec![];
        stream.read_to_end(&mut rest).await.expect("it ends, and is not broken off");
    }
    assert!(wire.connections.load(Ordering::SeqCst) > 1, "what changed unasked is not used again");
}
