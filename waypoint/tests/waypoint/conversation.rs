//! What is said out of turn: interim responses, answers before the question has ended, silence, half-closed
//! connections, and clients of another age.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::backend::{Act, Backend, ok};
use super::rig::{Rig, SHOP, TARGET, got, route, shop};
use super::wire::{
    OK, PREFACE, Say, Wire, data_frame, field, frames, headers_frame, read_all, read_answer, read_head, say,
};

const HINTS: &str =
    "HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\nconnection: x\r\nx: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";

#[tokio::test]
async fn interim_responses_reach_whom_they_can() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let _wire = Wire::start(&rig, 11, |_| say(&format!("{HINTS}{OK}"))).await;
    for _ in 0..2 {
        let said = rig.tell(SHOP, b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await;
        let expected =
            "HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n";
        assert!(said.starts_with(expected), "{said}");
    }
    let said = rig.tell(SHOP, b"GET / HTTP/1.0\r\nhost: shop\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.0 200 OK\r\n"), "HTTP/1.0 knew none (RFC 9110, 15.2): {said}");
    let mut sender = rig.two(SHOP).await;
    let request = Request::get("http://shop/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(got(sender.send_request(request).await.unwrap()).await.text(), "ok");
}

#[tokio::test]
async fn interim_responses_without_end_are_no_answer() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let head = read_head(&mut tcp).await.unwrap_or_default();
                let filler = if head.contains("/large") { "a".repeat(30_000) } else { String::new() };
                let interim = format!("HTTP/1.1 103 Early Hints\r\nlink: {filler}\r\n\r\n");
                while tcp.write_all(interim.as_bytes()).await.is_ok() {}
            });
        }
    });
    for path in ["/small", "/large"] {
        for two in [false, true] {
            let began = Instant::now();
            let answer = if two {
                let request = Request::post(format!("http://shop{path}")).body(Full::<Bytes>::default()).unwrap();
                got(rig.two(SHOP).await.send_request(request).await.unwrap()).await
            } else {
                let request = Request::post(path).header("host", "shop").body(Full::default()).unwrap();
                rig.call(request).await
            };
            assert_eq!((answer.status, answer.header("x-culvert-error")), (502, "protocol"), "{path}");
            assert!(began.elapsed() < Duration::from_secs(4), "{path}: {:?}", began.elapsed());
        }
    }
}

#[tokio::test]
async fn an_http_2_backend_costs_no_more_by_interim_responses() {
    let rig = Rig::start(&shop("http2", &[11])).await;
    frames(&rig, 11, b"\0\0\0\x04\0\0\0\0\0", |stream| {
        let mut said = vec![];
        for _ in 0..100_000 {
            said.extend(headers_frame(stream, &[(":status", b"103"), ("link", b"x")], false));
        }
        said.extend(headers_frame(stream, &[(":status", b"200")], true));
        said
    })
    .await;
    let began = Instant::now();
    let answer = rig.get("/").await;
    assert_eq!((answer.status, answer.header("x-culvert-error")), (502, "protocol"), "{:?}", began.elapsed());
}

const UPLOAD: &str = "POST /up HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[tokio::test]
async fn a_client_that_waits_gets_the_backends_own_word() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let wire = Wire::start(&rig, 11, |head| match field(head, "x-act") {
        Some("refuse") => Say {
            bytes: b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 3\r\n\r\nno!".to_vec(),
            close: false,
            early: true,
        },
        _ => say(&format!("HTTP/1.1 100 Continue\r\n\r\n{OK}")),
    })
    .await;
    // Refused: no 100, no content, and the connection ends because the content was never read.
    let mut stream = rig.connect(SHOP).await;
    stream.write_all(UPLOAD.replace("\r\n\r\n", "\r\nx-act: refuse\r\n\r\n").as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 417") && answer.ends_with("no!"), "{answer}");
    assert_eq!(field(&answer, "connection"), Some("close"));
    assert_eq!(field(&wire.find("/up").unwrap(), "expect"), Some("100-continue"));
    drop(wire);

    // A backend that says when: the client hears it once, and then its content goes.
    let rig = Rig::start(&shop("http", &[11])).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    let backend = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let head = read_head(&mut tcp).await.unwrap();
        assert_eq!(field(&head, "expect"), Some("100-continue"));
        let early = tokio::time::timeout(Duration::from_millis(300), tcp.read_u8()).await;
        assert!(early.is_err(), "content before the word");
        tcp.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut content = [0; 5];
        tcp.read_exact(&mut content).await.unwrap();
        tcp.write_all(OK.as_bytes()).await.unwrap();
        content
    });
    let mut stream = rig.connect(SHOP).await;
    stream.write_all(UPLOAD.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    assert!(read_answer(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(&backend.await.unwrap(), b"hello");
}

#[tokio::test]
async fn an_answer_of_our_own_asks_for_no_content() {
    let rig = Rig::start(&(shop("http", &[11]) + &route(ROUTE))).await;
    let wire = Wire::start(&rig, 11, |_| say(OK)).await;
    let mut stream = rig.connect(SHOP).await;
    stream.write_all(UPLOAD.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && field(&answer, "connection") == Some("close"), "{answer}");
    assert!(wire.seen.lock().is_empty());
}

#[tokio::test]
async fn content_after_an_answer_to_head_is_nobody_elses_response() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while let Some(head) = read_head(&mut tcp).await {
                    let said = if head.starts_with("HEAD") { OK.strip_suffix("ok").unwrap() } else { OK };
                    tcp.write_all(said.as_bytes()).await.unwrap();
                    if head.starts_with("HEAD") {
                        // By mistake, and when the connection may carry the next request already.
                        tokio::time::sleep(Duration::from_millis(150)).await;
                        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").await;
                    }
                }
            });
        }
    });
    let request = Request::head("/").header("host", "shop").body(Full::default()).unwrap();
    assert_eq!(rig.call(request).await.status, 200);
    for _ in 0..6 {
        assert_eq!(rig.get("/").await.text(), "ok");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

#[tokio::test]
async fn a_backend_that_has_answered_and_reads_no_more_does_not_hold_the_upload() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    let (ended, end) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await.unwrap();
        tcp.write_all(OK.as_bytes()).await.unwrap();
        // Neither read nor closed; what is in its buffers stays there.
        tokio::time::sleep(Duration::from_secs(9)).await;
        let mut rest = vec![];
        let _ = ended.send(tcp.read_to_end(&mut rest).await.is_ok());
    });
    let (mut read, mut write) = tokio::io::split(rig.connect(SHOP).await);
    let writing = tokio::spawn(async move {
        let _ = write.write_all(b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 90000000\r\n\r\n").await;
        while write.write_all(&[0; 1 << 16]).await.is_ok() {}
    });
    assert!(read_answer(&mut read).await.unwrap().starts_with("HTTP/1.1 200"));
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the backend's connection ends").unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(15), read.read_to_end(&mut vec![])).await;
    assert!(closed.is_ok(), "and so does the client's");
    writing.abort();
}

#[tokio::test]
async fn a_backend_that_knows_no_expectation_gets_the_content_all_the_same() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let wire = Wire::start(&rig, 11, |_| say(OK)).await;
    let mut stream = rig.connect(SHOP).await;
    let began = Instant::now();
    stream.write_all(UPLOAD.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!((900..2500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    stream.write_all(b"hello").await.unwrap();
    assert!(read_answer(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(wire.find("/up").unwrap().ends_with("\r\n\r\nhello"));
}

/// Uploads as fast as it can, and gives what was answered.
async fn upload(rig: &Rig, path: &str) -> Option<String> {
    let (mut read, mut write) = tokio::io::split(rig.connect(SHOP).await);
    let head = format!("POST {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: 30000000\r\n\r\n");
    let writing = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await?;
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..460 {
            write.write_all(&piece).await?;
        }
        std::io::Result::Ok(())
    });
    let answer = read_answer(&mut read).await;
    let end = tokio::time::timeout(Duration::from_secs(5), read.read_to_end(&mut vec![])).await;
    assert!(matches!(end, Ok(Ok(_))), "{path}: it ends, and is not broken off: {end:?}");
    writing.abort();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_before_the_upload_was_read_is_never_lost() {
    let deny = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: default}\n\
                spec: {action: DENY, targetRefs: [{group: '', kind: Service, name: shop}], rules: [{to: [{operation: {paths: [/denied]}}]}]}\n";
    let rig = Rig::start(&(shop("http", &[11]) + deny)).await;
    let _wire = Wire::start(&rig, 11, |_| Say {
        bytes: b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nmuch".to_vec(),
        close: true,
        early: true,
    })
    .await;
    for round in 0..15 {
        for (path, status) in [("/large", "413"), ("/denied", "403")] {
            let answer = upload(&rig, path).await.unwrap_or_else(|| panic!("round {round}: {path} was not answered"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_over_http_2_is_not_lost_either() {
    let rig = Rig::start(&shop("http2", &[11])).await;
    frames(&rig, 11, b"\0\0\0\x04\0\0\0\0\0", |stream| {
        let mut said = headers_frame(stream, &[(":status", b"413")], false);
        said.extend(data_frame(stream, b"much", true));
        // RST_STREAM with NO_ERROR (RFC 9113, 8.1).
        said.extend(b"\0\0\x04\x03\0");
        said.extend(stream.to_be_bytes());
        said.extend([0; 4]);
        said
    })
    .await;
    for _ in 0..10 {
        let answer = upload(&rig, "/large").await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        let request = Request::post("http://shop/large").body(Full::new(Bytes::from(vec![0; 4 << 20]))).unwrap();
        let answer = got(rig.two(SHOP).await.send_request(request).await.unwrap()).await;
        assert_eq!((answer.status, answer.text()), (413, "much"));
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_in_the_middle_is_not_taken_for_a_whole_response() {
    let rig = Rig::start(&shop("http2", &[11])).await;
    frames(&rig, 11, b"\0\0\0\x04\0\0\0\0\0", |stream| {
        let mut said = headers_frame(stream, &[(":status", b"200")], false);
        said.extend(data_frame(stream, b"half", false));
        said.extend(b"\0\0\x04\x03\0");
        said.extend(stream.to_be_bytes());
        said.extend([0; 4]);
        said
    })
    .await;
    let said = rig.tell(SHOP, b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert!(!said.ends_with("0\r\n\r\n"), "{said}");
    rig.eventually("logged", async || rig.log().contains("response_flags=\"UPE\"")).await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_gets_its_answer_and_one_that_goes_does_not_keep_the_backend() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, seen| Act {
        delay: Duration::from_millis(if seen.path() == "/long" { 20_000 } else { 300 }),
        ..ok("late")
    })
    .await;
    for request in [
        "GET / HTTP/1.1\r\nhost: shop\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\n\r\nabc",
    ] {
        let mut stream = rig.connect(SHOP).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let (said, ended) = read_all(&mut stream, Duration::from_secs(3)).await;
        assert!(said.ends_with("late") && ended, "{request}: {said}");
    }
    // Half a request is none.
    let mut stream = rig.connect(SHOP).await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\n\r\na").await.unwrap();
    stream.shutdown().await.unwrap();
    let (said, ended) = read_all(&mut stream, Duration::from_secs(3)).await;
    assert!(ended && !said.contains("200 OK"), "{said}");
    // Who closes its half and is reset later is gone.
    let mut stream = rig.connect(SHOP).await;
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: shop\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    rig.eventually("arrived", async || backend.seen.lock().iter().any(|seen| seen.path() == "/long")).await;
    let before = backend.cancelled.load(Ordering::SeqCst);
    drop(stream);
    rig.eventually("cancelled", async || backend.cancelled.load(Ordering::SeqCst) > before).await;
}

#[tokio::test]
async fn clients_of_http_1_0_are_served_as_they_are() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let wire = Wire::start(&rig, 11, |head| match head.split(' ').nth(1).unwrap() {
        "/chunked" => say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        _ => say(OK),
    })
    .await;
    let said = rig.tell(SHOP, b"GET /plain HTTP/1.0\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.0 200 OK") && said.ends_with("\r\n\r\nok"), "{said}");
    let seen = wire.find("/plain").unwrap();
    assert!(seen.starts_with("GET /plain HTTP/1.1\r\n"), "{seen}");
    assert_eq!(field(&seen, "host"), Some("shop.default.svc.cluster.local"));
    let mut stream = rig.connect(SHOP).await;
    stream.write_all(b"GET /chunked HTTP/1.0\r\n\r\n").await.unwrap();
    let (said, ended) = read_all(&mut stream, Duration::from_secs(2)).await;
    assert!(said.ends_with("\r\n\r\nabc") && ended && field(&said, "transfer-encoding").is_none(), "{said}");
    // Kept when it asks for it and can know the end.
    let mut stream = rig.connect(SHOP).await;
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.unwrap();
        let answer = read_answer(&mut stream).await.expect("the connection is kept");
        assert_eq!(field(&answer, "connection"), Some("keep-alive"), "{answer}");
    }
}

const ROUTE: &str = "[{matches: [{path: {value: /open}}], backendRefs: [{name: shop, port: 80}]}]";

/// Says something after a pause, and gives the first line of what comes back.
async fn after(rig: &Rig, pause: Duration, bytes: &[u8]) -> String {
    let mut stream = rig.connect(SHOP).await;
    tokio::time::sleep(pause).await;
    stream.write_all(bytes).await.unwrap();
    read_all(&mut stream, Duration::from_millis(500)).await.0.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn silence_passes_nothing_by_where_requests_are_looked_at() {
    let deny = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: default}\n\
                spec: {action: DENY, targetRefs: [{group: '', kind: Service, name: shop}], rules: [{to: [{operation: {paths: ['/open/admin*']}}]}]}\n";
    let rig = Rig::start(&(shop("undeclared", &[11]) + &route(ROUTE))).await;
    let wire = Wire::start(&rig, 11, |_| say(OK)).await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").into_bytes();
    let (now, late) = (Duration::ZERO, Duration::from_millis(600));
    for pause in [now, late] {
        assert!(after(&rig, pause, &request("/open")).await.contains("200"), "{pause:?}");
        assert!(after(&rig, pause, &request("/secret")).await.contains("404"), "{pause:?}");
        let blank = [&b"\r\n"[..], &request("/secret")].concat();
        assert!(after(&rig, pause, &blank).await.contains("404"), "an empty line before it");
    }
    for bytes in ["get /secret HTTP/1.1\r\n\r\n", "G@T /secret HTTP/1.1\r\n\r\n", "\n\nGET /secret HTTP/1.1\r\n\r\n"] {
        let said = after(&rig, now, bytes.as_bytes()).await;
        assert!(said.contains("400") || said.contains("404") || said.is_empty(), "{bytes:?}: {said}");
    }
    assert!(wire.seen.lock().iter().all(|seen| seen.starts_with("GET /open ")), "{:?}", wire.seen.lock());
    rig.write("deny.yaml", deny);
    rig.eventually("denied", async || after(&rig, now, &request("/open/admin")).await.contains("403")).await;
    assert!(after(&rig, late, &request("/open/admin")).await.contains("403"));
    assert!(after(&rig, late, &request("/open")).await.contains("200"));
}

#[tokio::test]
async fn bytes_that_nobody_takes_for_http_pass_where_no_protocol_is_declared() {
    let rig = Rig::start(&(shop("undeclared", &[11]) + &route(ROUTE))).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(super::wire::echo(tcp));
        }
    });
    let mut stream = rig.connect(SHOP).await;
    stream.write_all(b"\x16\x03\x01hello").await.unwrap();
    let mut echoed = [0; 8];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x16\x03\x01hello");
}

#[tokio::test]
async fn a_policy_on_connections_alone_lets_servers_speak_first() {
    let allow = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: allow, namespace: default}\n\
                 spec: {targetRefs: [{group: '', kind: Service, name: shop}], rules: [{from: [{source: {namespaces: [default]}}]}]}\n";
    let rig = Rig::start(&(shop("undeclared", &[11]) + allow)).await;
    let listener = TcpListener::bind((rig.net.ip(11), TARGET)).await.unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"220 ready\r\n").await.unwrap();
        super::wire::echo(tcp).await;
    });
    let mut stream = rig.connect(SHOP).await;
    let mut greeting = [0; 11];
    tokio::time::timeout(Duration::from_secs(3), stream.read_exact(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
}

#[tokio::test]
async fn no_route_changes_how_messages_are_framed() {
    let filters = "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: '1'}, {name: Connection, value: x-keep}, {name: Upgrade, value: h2c}], add: [{name: Transfer-Encoding, value: gzip}]}}, \
                    {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: Content-Length, value: '1'}, {name: Connection, value: close}], add: [{name: Transfer-Encoding, value: gzip}]}}]";
    let rig = Rig::start(
        &(shop("http", &[11]) + &route(&format!("[{{filters: {filters}, backendRefs: [{{name: shop, port: 80}}]}}]"))),
    )
    .await;
    let wire = Wire::start(&rig, 11, |_| say(OK)).await;
    let mut stream = rig.connect(SHOP).await;
    for _ in 0..2 {
        stream
            .write_all(b"POST /f HTTP/1.1\r\nhost: shop\r\nx-keep: 1\r\ncontent-length: 5\r\n\r\nhello")
            .await
            .unwrap();
        let answer = read_answer(&mut stream).await.expect("answered on the same connection");
        if answer.starts_with("HTTP/1.1 500") {
            return; // Such a route is not carried out at all.
        }
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"), "{answer}");
        let seen = wire.find("/f").unwrap();
        assert!(seen.ends_with("\r\n\r\nhello") && field(&seen, "content-length") == Some("5"), "{seen}");
        assert!(field(&seen, "transfer-encoding").is_none() && field(&seen, "upgrade").is_none(), "{seen}");
    }
}

#[tokio::test]
async fn a_small_upload_that_is_refused_costs_no_connection_and_http_2_gets_no_connection_headers() {
    let rig = Rig::start(&shop("http", &[])).await;
    let mut stream = rig.connect(SHOP).await;
    for _ in 0..2 {
        stream.write_all(b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
        let answer = read_answer(&mut stream).await.expect("the connection goes on");
        assert!(answer.starts_with("HTTP/1.1 503") && field(&answer, "connection").is_none(), "{answer}");
    }
    let mut stream = rig.connect(SHOP).await;
    let mut text = PREFACE.to_vec();
    text.extend(headers_frame(
        1,
        &[(":method", b"POST"), (":scheme", b"http"), (":authority", b"shop"), (":path", b"/")],
        false,
    ));
    stream.write_all(&text).await.unwrap();
    loop {
        let (kind, flags, _, _) = super::wire::read_frame(&mut stream).await.expect("answered");
        if kind == 1 {
            assert_eq!(flags & 4, 4);
            break;
        }
        assert_ne!(kind, 7, "GOAWAY");
    }
}
