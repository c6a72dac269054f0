//! Malicious input on the wire is refused or timed out, counted with a reason, in bounded memory, and disturbs nobody.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use tests::eventually::eventually;
use tests::manifest::PodSpec;
use tests::mesh::{Mesh, Pod};
use tests::pki::{Authority, Leaf, LeafSpec};
use tests::process::Place;
use tests::tunnel::{Tunnel, connect_to, dial, handshake};
use time::Duration as Span;

struct Scene {
    mesh: Arc<Mesh>,
    ca: &'static Authority,
    ns: String,
    client: Pod,
    server: Pod,
    app: tests::apps::Server,
}

fn scene(stem: &str) -> Result<Scene> {
    let (mesh, ca) = Mesh::shared_with_ca()?;
    let ns = mesh.namespace(stem);
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let app = server.serve(&["who:80", "echo:7000", "source:7004"])?;
    Ok(Scene { mesh, ca, ns, client, server, app })
}

impl Scene {
    /// Where attackers sit: the other node, which is not captured and can reach the pod.
    fn attacker(&self) -> &Place {
        &self.client.node.place
    }

    fn hbone(&self) -> SocketAddr {
        self.server.at(15008)
    }

    fn good(&self) -> Result<Leaf> {
        self.ca.identity(&self.ns, "client")
    }

    /// Nothing got through, and others still do.
    fn unharmed(&self) -> Result<()> {
        ensure!(self.app.accepted() == 0, "the application was reached: {:?}", self.app.events());
        for target in [self.server.at(80), self.server.at6(80)] {
            self.client.call_ok(target, &["who"])?;
        }
        Ok(())
    }

    /// Peers turned away so far for a reason.
    fn refused(&self, reason: &str) -> Result<f64> {
        Ok(self.server.agent().metrics()?.sum("culvert_peer_refusals_total", &[("reason", reason)]))
    }

    /// Does something that must be counted under a reason, `times` times.
    fn counted<T>(&self, reason: &str, times: f64, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.refused(reason)?;
        let done = act()?;
        eventually(&format!("{times} are counted as {reason}"), || {
            let now = self.refused(reason)?;
            ensure!(now >= before + times, "{before}, then {now}");
            Ok(())
        })?;
        Ok(done)
    }
}

#[test]
fn a_good_certificate_and_a_good_request_get_through() -> Result<()> {
    let s = scene("good")?;
    for (target, authority) in
        [(s.hbone(), s.server.at(7000).to_string()), (s.server.at6(15008), s.server.at6(7000).to_string())]
    {
        let reply = Tunnel::open(s.attacker(), target, &s.good()?)?.connect(&authority, b"hello through the tunnel")?;
        ensure!(reply.status == Some(200) && reply.bytes == b"hello through the tunnel", "{reply:?}");
    }
    Ok(())
}

#[test]
fn plain_text_to_the_tunnel_port_is_refused_and_counted() -> Result<()> {
    let s = scene("plaintext")?;
    let url = format!("http://{}/", s.hbone());
    let curl = || s.attacker().output("curl", &["-sS", "--max-time", "10", &url]);
    let output = s.counted("not_tls", 1.0, curl)?;
    ensure!(!output.status.success(), "curl was answered: {}", String::from_utf8_lossy(&output.stdout));
    let mut socket = dial(s.attacker(), s.hbone())?;
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut heard = Vec::new();
    let _reset = socket.read_to_end(&mut heard);
    ensure!(
        !heard.windows(3).any(|w| w == [0, 0, 4]) || heard.first() == Some(&21),
        "something but a TLS alert came: {heard:?}"
    );
    s.unharmed()
}

#[test]
fn tls_1_2_is_refused() -> Result<()> {
    let s = scene("tls12")?;
    let leaf = s.good()?;
    let directory = s.mesh.net.run.files();
    std::fs::write(directory.join("c.pem"), &leaf.chain_pem)?;
    std::fs::write(directory.join("k.pem"), &leaf.key_pem)?;
    let (c, k) = (directory.join("c.pem").display().to_string(), directory.join("k.pem").display().to_string());
    let target = s.hbone().to_string();
    let client = |version: &str| {
        s.attacker()
            .output("openssl", &["s_client", "-connect", &target, version, "-cert", &c, "-key", &k, "-alpn", "h2"])
    };
    let old = client("-tls1_2")?;
    let said = String::from_utf8_lossy(&old.stdout).into_owned() + &String::from_utf8_lossy(&old.stderr);
    ensure!(!old.status.success() && said.contains("alert protocol version"), "{said}");
    let new = client("-tls1_3")?;
    let said = String::from_utf8_lossy(&new.stdout).into_owned();
    ensure!(
        said.contains("TLSv1.3") && said.contains("ALPN protocol: h2"),
        "openssl cannot do it right either: {said}"
    );
    let again =
        s.counted("incompatible", 1.0, || Ok(handshake(s.attacker(), s.hbone(), Some(&leaf), true, &["h2"])))?;
    ensure!(again.is_err(), "rustls got through with TLS 1.2");
    s.unharmed()
}

#[test]
fn certificates_that_prove_nothing_are_refused_and_counted() -> Result<()> {
    let s = scene("certs")?;
    let foreign = Authority::new("Foreign")?;
    let id = format!("spiffe://cluster.local/ns/{}/sa/client", s.ns);
    let of = |uris: &[&str]| LeafSpec { uris: uris.iter().map(|&u| u.to_owned()).collect(), ..LeafSpec::nameless() };
    handshake(s.attacker(), s.hbone(), Some(&s.good()?), false, &["h2"]).context("the good one")?;
    let cases = [
        ("expired", "expired", s.ca.leaf(&LeafSpec { ends: Span::minutes(-5), ..LeafSpec::of(&id) })?),
        ("not valid yet", "expired", s.ca.leaf(&LeafSpec { began: Span::minutes(-30), ..LeafSpec::of(&id) })?),
        ("self-signed", "unknown_root", s.ca.leaf(&LeafSpec { self_signed: true, ..LeafSpec::of(&id) })?),
        ("foreign root", "unknown_root", foreign.leaf(&LeafSpec::of(&id))?),
        ("foreign trust domain", "trust_domain", s.ca.leaf(&of(&[&id.replace("cluster.local", "elsewhere.example")]))?),
        (
            "two identities",
            "several_identities",
            s.ca.leaf(&of(&[&id, "spiffe://cluster.local/ns/kube-system/sa/admin"]))?,
        ),
        ("no identity", "no_identity", s.ca.leaf(&LeafSpec::nameless())?),
        ("not SPIFFE", "no_identity", s.ca.leaf(&of(&["https://cluster.local/ns/x/sa/y"]))?),
        ("malformed", "malformed_identity", s.ca.leaf(&of(&["spiffe://cluster.local/ns/x/sa/y/z"]))?),
        ("empty parts", "malformed_identity", s.ca.leaf(&of(&["spiffe://cluster.local/ns//sa/"]))?),
    ];
    let (good, h2) = (s.good()?, ["h2"]);
    let mut cases: Vec<_> = cases.iter().map(|(name, reason, leaf)| (*name, *reason, Some(leaf), h2)).collect();
    cases.push(("no certificate", "no_certificate", None, h2));
    cases.push(("another protocol", "no_alpn", Some(&good), ["http/1.1"]));
    for (name, reason, leaf, alpn) in cases {
        let shake = || Ok(handshake(s.attacker(), s.hbone(), leaf, false, &alpn));
        let verdict = s.counted(reason, 1.0, shake).with_context(|| name.to_owned())?;
        ensure!(verdict.is_err(), "{name}: the server stays");
    }
    s.unharmed()
}

#[test]
fn requests_that_are_no_proper_connect_are_answered_as_the_protocol_says() -> Result<()> {
    let s = scene("requests")?;
    let own = s.server.at(80).to_string();
    let mut tunnel = Tunnel::open(s.attacker(), s.hbone(), &s.good()?)?;
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        let head = Request::builder().method(method.clone()).uri(format!("http://{own}/")).body(())?;
        let reply = tunnel.request(head, b"")?;
        ensure!(reply.status == Some(400), "{method}: {reply:?}");
    }
    for (authority, statuses) in [
        (s.client.at(80).to_string(), [400, 400]),
        ("10.99.99.99:80".to_owned(), [400, 400]),
        ("127.0.0.1:80".to_owned(), [400, 400]),
        ("[::1]:80".to_owned(), [400, 400]),
        (s.server.ip4.to_string(), [400, 503]),
        ("nowhere.example:80".to_owned(), [400, 503]),
        (s.server.at(0).to_string(), [400, 503]),
        // The agent's own port behind the tunnel would be a loop.
        (s.server.at(15008).to_string(), [400, 503]),
    ] {
        let reply = tunnel.connect(&authority, b"")?;
        ensure!(reply.status.is_some_and(|status| statuses.contains(&status)), "{authority}: {reply:?}");
    }
    let closed = tunnel.connect(&s.server.at(9).to_string(), b"")?;
    ensure!(closed.status == Some(503), "a port where nobody listens: {closed:?}");
    ensure!(tunnel.is_open(), "the tunnel was cut for one bad request");
    let good = tunnel.connect(&s.server.at(7000).to_string(), b"still good")?;
    ensure!(good.status == Some(200) && good.bytes == b"still good", "{good:?}");
    Ok(())
}

#[test]
fn ten_thousand_headers_are_refused_in_bounded_memory() -> Result<()> {
    let s = scene("headers")?;
    let before = s.server.agent().memory()?;
    for _ in 0..3 {
        let mut tunnel = Tunnel::open(s.attacker(), s.hbone(), &s.good()?)?;
        let mut head = connect_to(&s.server.at(80).to_string())?;
        for i in 0..10_000 {
            let name = http::HeaderName::from_bytes(format!("x-flood-{i}").as_bytes())?;
            head.headers_mut().append(name, http::HeaderValue::from_static("a value that takes some room"));
        }
        let reply = tunnel.request(head, b"")?;
        ensure!(reply.status != Some(200), "{reply:?}");
    }
    let after = s.server.agent().memory()?;
    ensure!(after.anonymous_kib < before.anonymous_kib + 20_000, "before {before:?}, after {after:?}");
    s.unharmed()
}

#[test]
fn a_slow_handshake_is_given_up_and_a_hundred_of_them_disturb_nobody() -> Result<()> {
    let s = scene("slow")?;
    let before = s.refused("timeout")?;
    let mut slow = Vec::new();
    for i in 0..100 {
        let mut socket = dial(s.attacker(), s.hbone())?;
        // Half of them say nothing at all; the others begin a record and stop.
        if i % 2 == 0 {
            socket.write_all(&[22, 3, 1, 2, 0, 1, 0])?;
        }
        slow.push(socket);
    }
    s.unharmed()?;
    let started = Instant::now();
    for mut socket in slow {
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut rest = Vec::new();
        let end = socket.read_to_end(&mut rest);
        ensure!(end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "not given up");
    }
    ensure!(started.elapsed() < Duration::from_secs(30), "given up after {:?}", started.elapsed());
    eventually("they are counted", || {
        let count = s.refused("timeout")?;
        ensure!(count >= before + 100.0, "{before}, then {count}");
        Ok(())
    })
}

#[test]
fn a_peer_that_never_reads_holds_up_neither_others_nor_memory() -> Result<()> {
    let s = scene("unread")?;
    let before = s.server.agent().memory()?;
    let mut tunnel = Tunnel::open(s.attacker(), s.hbone(), &s.good()?)?;
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(tunnel.never_read(&s.server.at(7004).to_string(), b"100000000\n")?);
    }
    thread::sleep(Duration::from_secs(1));
    let after = s.server.agent().memory()?;
    ensure!(after.anonymous_kib < before.anonymous_kib + 60_000, "before {before:?}, after {after:?}");
    for target in [s.server.at(7000), s.server.at6(7000)] {
        let outcome = s.client.call_ok(target, &["echo", "100000"])?;
        ensure!(outcome.millis < 3000, "held up: {outcome:?}");
    }
    drop(unread);
    Ok(())
}

#[test]
fn garbage_inside_tls_ends_the_tunnel_and_nothing_else() -> Result<()> {
    let s = scene("garbage")?;
    let leaf = s.good()?;
    let config = tests::pki::tls_client(Some(&leaf), false, &["h2"])?;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x01\x00\x00\x00\x00\x01",
    ] {
        let mut socket = dial(s.attacker(), s.hbone())?;
        let name = rustls_pki_types::ServerName::try_from("mesh.invalid")?;
        let mut session = rustls::ClientConnection::new(config.clone(), name)?;
        let mut stream = rustls::Stream::new(&mut session, &mut socket);
        stream.write_all(garbage)?;
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        let timed_out =
            end.is_err_and(|e| matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        ensure!(!timed_out, "the tunnel stays open after {:?}", &garbage[..8]);
    }
    s.unharmed()
}

#[test]
fn the_identity_is_taken_from_the_certificate_whatever_the_headers_say() -> Result<()> {
    let s = scene("forged")?;
    let head = |authority: &str| -> Result<Request<()>> {
        let mut head = connect_to(authority)?;
        let headers = head.headers_mut();
        headers.insert("baggage", http::HeaderValue::from_static("k8s.namespace.name=kube-system,k8s.pod.name=admin"));
        headers.insert("forwarded", http::HeaderValue::from_static("for=\"1.2.3.4:5\""));
        headers.insert(
            "x-forwarded-client-cert",
            http::HeaderValue::from_static("URI=spiffe://cluster.local/ns/kube-system/sa/admin"),
        );
        Ok(head)
    };
    let mut tunnel = Tunnel::open(s.attacker(), s.hbone(), &s.ca.identity(&s.ns, "forger")?)?;
    let reply = tunnel.request(head(&s.server.at(7000).to_string())?, b"hello")?;
    ensure!(reply.status == Some(200), "{reply:?}");
    let line = s.server.agent().access("the call", |l| l.get("src.identity").ends_with("/sa/forger"))?;
    ensure!(line.get("src.identity") == format!("spiffe://cluster.local/ns/{}/sa/forger", s.ns), "{}", line.text());
    ensure!(line.get("src.addr").starts_with(&s.client.node.ip4.to_string()), "{}", line.text());
    Ok(())
}
