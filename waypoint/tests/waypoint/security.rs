//! Who may do what; and what is refused whoever asks.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use transport::hbone::Authority;

use super::backend::{Backend, ok};
use super::rig::{PORT, Rig, SHOP, got, shop};
use super::wire::headers_frame;

pub(crate) fn authorization(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: shop}}], {spec}}}\n"
    )
}

pub(crate) async fn raw(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = rig.connect(SHOP).await;
    stream.write_all(bytes).await.unwrap();
    let mut out = vec![0; 16 << 10];
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut out)).await;
    String::from_utf8_lossy(&out[..read.unwrap().unwrap_or(0)]).into_owned()
}

#[tokio::test]
async fn policies_judge_identity_method_path_and_headers() {
    let rig = Rig::start(
        &(shop("http", &[11])
            + &authorization("allow", "rules: [{from: [{source: {principals: ['cluster.local/ns/default/sa/client']}}], to: [{operation: {methods: [GET], paths: ['/public/*', /health]}}]}]")
            + &authorization("deny", "action: DENY, rules: [{to: [{operation: {paths: [/public/admin*]}}]}, {when: [{key: 'request.headers[x-evil]', values: ['*']}]}]")),
    )
    .await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    for (path, status) in [
        ("/public/a", 200),
        ("/health", 200),
        ("/private", 403),
        ("/public/admin", 403),
        ("/public/%61dmin", 403),
        ("/public/x/../admin", 403),
        ("/public//admin", 403),
        ("/public/x%2f..%2fadmin", 403),
        ("/public/..%2fprivate", 403),
    ] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        if status == 403 {
            assert_eq!((answer.text(), answer.header("x-culvert-error")), ("RBAC: access denied", "rbac"));
        }
    }
    let evil = Request::get("/public/a").header("host", "shop").header("x-evil", "1");
    assert_eq!(rig.call(evil.body(Full::default()).unwrap()).await.status, 403);
    let post = Request::post("/public/a").header("host", "shop").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(rig.call(post).await.status, 403);
    assert_eq!(backend.hits(), 2);
    let authority = Authority::Address(std::net::SocketAddr::new(SHOP.parse().unwrap(), PORT));
    let stream = rig.connect_as("other", authority).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(got(sender.send_request(super::rig::get("/public/a")).await.unwrap()).await.status, 403);
}

#[tokio::test]
async fn a_dry_run_refuses_nothing() {
    let dry = authorization("dry", "action: DENY, rules: [{}]")
        .replace("name: dry,", "name: dry, annotations: {istio.io/dry-run: 'true'},");
    let rig = Rig::start(&(shop("http", &[11]) + &dry)).await;
    Backend::start(&rig, 11, |_, _| ok("fine")).await;
    assert_eq!(rig.get("/").await.status, 200);
}

#[tokio::test]
async fn what_two_parsers_could_read_differently_is_refused() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    for (what, bytes) in [
        (
            "length and chunked",
            &b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"[..],
        ),
        ("two lengths", b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
        ("a folded header", b"GET / HTTP/1.1\r\nhost: shop\r\nx-a: 1\r\n 2\r\n\r\n"),
        ("a space before the colon", b"GET / HTTP/1.1\r\nhost : shop\r\n\r\n"),
        ("two hosts", b"GET / HTTP/1.1\r\nhost: shop\r\nhost: other\r\n\r\n"),
        ("no host", b"GET / HTTP/1.1\r\n\r\n"),
        ("an escaped NUL", b"GET /a%00b HTTP/1.1\r\nhost: shop\r\n\r\n"),
        ("chunked that is not last", b"POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked, gzip\r\n\r\n"),
        ("unknown coding", b"POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: xchunked\r\n\r\n"),
        (
            "chunked and length",
            b"POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        ),
        ("a line that ends in LF alone", b"GET / HTTP/1.1\r\nhost: shop\nx: 1\r\n\r\n"),
        (
            "the same length twice",
            b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        ),
        ("a bad length", b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: +5\r\n\r\nhello"),
    ] {
        let answer = raw(&rig, bytes).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{what}: {answer}");
        assert!(answer.contains("x-culvert-error: bad_request") || what.contains("bare"), "{what}: {answer}");
    }
    let mut large = b"GET / HTTP/1.1\r\nhost: shop\r\nx-a: ".to_vec();
    large.extend(std::iter::repeat_n(b'a', 80_000));
    large.extend(b"\r\n\r\n");
    let answer = raw(&rig, &large).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut many = b"GET / HTTP/1.1\r\nhost: shop\r\n".to_vec();
    for n in 0..200 {
        many.extend(format!("x-{n}: 1\r\n").bytes());
    }
    many.extend(b"\r\n");
    let answer = raw(&rig, &many).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(backend.hits(), 0, "none of it reached the backend");
    assert_eq!(rig.get("/").await.status, 200, "and nobody else was disturbed");
}

#[tokio::test]
async fn what_http2_can_carry_and_http1_cannot_goes_no_further() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let good: [(&str, &[u8]); 4] =
        [(":method", b"GET"), (":scheme", b"http"), (":authority", b"shop"), (":path", b"/")];
    let with = |name: &'static str, value: &'static [u8]| {
        let mut fields = good.to_vec();
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
        fields
    };
    for (what, fields) in [
        ("nothing", with(":path", b"/sound")),
        ("a line break in a value", with("x-a", b"1\r\nevil: 1")),
        ("a lone LF in a value", with("x-a", b"1\nevil: 1")),
        ("NUL in a value", with("x-a", b"1\0")),
        ("a line break in the path", with(":path", b"/ HTTP/1.1\r\nevil: 1\r\n\r\nGET /x")),
        ("a space in the path", with(":path", b"/a HTTP/1.1")),
        ("a line break in the method", with(":method", b"GET / HTTP/1.1\r\nx:")),
        ("a line break in the authority", with(":authority", b"shop\r\nevil: 1")),
        ("a colon in a name", with("x-a: 1\r\nevil", b"1")),
        ("capitals in a name", with("X-A", b"1")),
        ("a header of the connection", with("transfer-encoding", b"chunked")),
        ("a length without a body", with("content-length", b"10")),
    ] {
        let mut stream = rig.connect(SHOP).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        stream.write_all(&headers_frame(1, &fields, true)).await.unwrap();
        // A sound request behind it shows that the first one has been dealt with, unless the connection ended.
        let _ = stream.write_all(&headers_frame(3, &with(":path", b"/sound"), true)).await;
        let mut seen = vec![0; 4096];
        let waiting = std::time::Duration::from_millis(400);
        while let Ok(Ok(read)) = tokio::time::timeout(waiting, stream.read(&mut seen)).await {
            if read == 0 {
                break;
            }
        }
        assert!(backend.seen.lock().iter().all(|seen| seen.uri == "/sound"), "{what}: {:?}", backend.last());
        assert!(what != "nothing" || backend.hits() == 2, "such frames arrive");
    }
    assert!(backend.seen.lock().iter().all(|seen| seen.headers.get("evil").is_none()));
    assert_eq!(rig.get("/").await.status, 200);
}

#[tokio::test]
async fn callers_cannot_speak_for_the_mesh() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let request = Request::get("/")
        .header("host", "shop")
        .header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/admin")
        .header("x-culvert-source", "spiffe://cluster.local/ns/default/sa/admin")
        .header("connection", "x-private")
        .header("x-private", "1");
    assert_eq!(rig.call(request.body(Full::default()).unwrap()).await.status, 200);
    let seen = backend.last();
    assert!(!seen.header("x-forwarded-client-cert").contains("admin"));
    assert_eq!((seen.header("x-culvert-source"), seen.header("x-private")), ("", ""));
}

#[tokio::test]
async fn trace_context_survives_in_every_form() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let binary = "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE";
    for headers in [
        vec![("traceparent", format!("00-{trace}-{span}-01")), ("tracestate", "vendor=1".to_owned())],
        vec![("b3", format!("{trace}-{span}-1"))],
        vec![("x-b3-traceid", trace.to_owned()), ("x-b3-spanid", span.to_owned()), ("x-b3-sampled", "0".to_owned())],
        vec![("grpc-trace-bin", binary.to_owned())],
    ] {
        for version in ["h1", "h2"] {
            let mut request = Request::get(if version == "h1" { "/" } else { "http://shop/" });
            for (name, value) in &headers {
                request = request.header(*name, value);
            }
            if version == "h1" {
                request = request.header("host", "shop");
                assert_eq!(rig.call(request.body(Full::default()).unwrap()).await.status, 200);
            } else {
                let mut sender = rig.two(SHOP).await;
                assert_eq!(
                    got(sender.send_request(request.body(Full::default()).unwrap()).await.unwrap()).await.status,
                    200
                );
            }
            let seen = backend.last();
            assert!(seen.header("traceparent").starts_with(&format!("00-{trace}-{span}-")), "{headers:?}");
            for (name, value) in &headers {
                assert_eq!(seen.header(name), value, "{name}");
            }
        }
    }
    rig.eventually("logged", async || rig.log().contains(trace)).await;
}
