//! Peers with good certificates and bad manners: refused or cut, in bounded memory, others undisturbed.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request as HttpRequest, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use transport::hbone::{AcceptError, Ended, Settings, accept};

use crate::mesh::{Mesh, echo, head, identity};

/// How the connections of a server ended.
struct Watched {
    address: SocketAddr,
    ends: mpsc::Receiver<&'static str>,
}

/// An echo server that says how each connection ended.
async fn watched(mesh: &Mesh, settings: Settings) -> Watched {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (say, ends) = mpsc::channel(100);
    let keyring = Arc::clone(&mesh.keyring);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = keyring.server_config(&identity("server")).await.unwrap();
            let (settings, say) = (settings.clone(), say.clone());
            tokio::spawn(async move {
                let reason = match accept(tcp, &tls, &settings).await {
                    Err(refused) => AcceptError::reason(&refused),
                    Ok(mut connection) => {
                        while let Some(request) = connection.next().await {
                            match request.head() {
                                Ok(_) => drop(tokio::spawn(echo(request))),
                                Err(_) => request.refuse(StatusCode::BAD_REQUEST),
                            }
                        }
                        connection.ended().map_or("", Ended::reason)
                    }
                };
                let _ = say.send(reason).await;
            });
        }
    });
    Watched { address, ends }
}

impl Watched {
    async fn end(&mut self) -> &'static str {
        timeout(Duration::from_secs(20), self.ends.recv()).await.unwrap().unwrap()
    }
}

/// An HTTP/2 client of its own inside our TLS.
async fn raw_client(mesh: &Mesh, address: SocketAddr) -> SendRequest<Bytes> {
    let tls = mesh.keyring.client_config(&identity("client")).await.unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let (stream, _) = tls.connect(tcp, &[identity("server")]).await.unwrap();
    let (requests, connection) = h2::client::Builder::new()
        .initial_max_send_streams(100_000)
        .max_concurrent_reset_streams(100_000)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    requests
}

async fn still_serves(mesh: &Mesh, address: SocketAddr) {
    let mut opened = mesh.pool.connect(&mesh.key(address), &head()).await.unwrap();
    opened.stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    timeout(Duration::from_secs(5), opened.stream.read_exact(&mut answer)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_dropped() {
    let mesh = Mesh::new();
    let settings = Settings { handshake: Duration::from_millis(200), ..Settings::default() };
    let mut server = watched(&mesh, settings).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let began = Instant::now();
    assert_eq!(server.end().await, "timeout");
    assert!(began.elapsed() < Duration::from_secs(2));
    let _ = silent.read(&mut [0; 100]).await;
    still_serves(&mesh, server.address).await;
}

#[tokio::test]
async fn a_peer_that_shakes_one_hand_only_is_dropped() {
    let mesh = Mesh::new();
    let settings = Settings { handshake: Duration::from_millis(500), ..Settings::default() };
    let mut server = watched(&mesh, settings).await;
    let tls = mesh.keyring.client_config(&identity("client")).await.unwrap();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let _no_http = tls.connect(tcp, &[identity("server")]).await.unwrap();
    assert_eq!(server.end().await, "timeout");
}

#[tokio::test]
async fn anything_but_connect_is_a_bad_request() {
    let mesh = Mesh::new();
    let server = watched(&mesh, Settings::default()).await;
    let mut requests = raw_client(&mesh, server.address).await.ready().await.unwrap();
    for request in [
        HttpRequest::get("http://10.0.0.1:80/").body(()).unwrap(),
        HttpRequest::post("http://10.0.0.1:80/").body(()).unwrap(),
        HttpRequest::connect("nowhere").body(()).unwrap(),
    ] {
        let (response, _) = requests.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
    still_serves(&mesh, server.address).await;
}

#[tokio::test]
async fn ten_thousand_headers_are_refused_and_the_tunnel_lives() {
    let mesh = Mesh::new();
    let server = watched(&mesh, Settings::default()).await;
    let mut requests = raw_client(&mesh, server.address).await.ready().await.unwrap();
    let mut request = HttpRequest::connect("10.0.0.1:80").body(()).unwrap();
    *request.headers_mut() = headers(10_000);
    let (response, _) = requests.send_request(request, true).unwrap();
    match response.await {
        Ok(response) => assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
    still_serves(&mesh, server.address).await;
}

fn headers(count: usize) -> HeaderMap {
    let name = |n: usize| HeaderName::from_bytes(format!("x-header-{n}").as_bytes()).unwrap();
    (0..count).map(|n| (name(n), HeaderValue::from_static("some value"))).collect()
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_tunnel_and_no_other() {
    let mesh = Mesh::new();
    let mut server = watched(&mesh, Settings::default()).await;
    still_serves(&mesh, server.address).await;
    let mut requests = raw_client(&mesh, server.address).await;
    let flood = async {
        for n in 0..200_000 {
            requests = match requests.ready().await {
                Ok(requests) => requests,
                Err(_) => return n,
            };
            let request = HttpRequest::connect("10.0.0.1:80").body(()).unwrap();
            let Ok((response, mut send)) = requests.send_request(request, false) else { return n };
            send.send_reset(h2::Reason::CANCEL);
            drop(response);
            tokio::task::yield_now().await;
        }
        panic!("the server took every reset");
    };
    let taken = timeout(Duration::from_secs(30), flood).await.unwrap();
    assert!(taken < 100_000, "{taken}");
    assert!(["resets", "http2", "transport"].contains(&server.end().await));
    still_serves(&mesh, server.address).await;
}

#[tokio::test]
async fn a_peer_that_never_reads_is_given_up_after_two_pings() {
    let mesh = Mesh::new();
    let settings = Settings {
        ping_after: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(500),
        ..Settings::default()
    };
    let mut server = watched(&mesh, settings).await;
    let tls = mesh.keyring.client_config(&identity("client")).await.unwrap();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let (stream, _) = tls.connect(tcp, &[identity("server")]).await.unwrap();
    let (mut requests, mut connection) = h2::client::handshake(stream).await.unwrap();
    let request = HttpRequest::connect("10.0.0.1:80").body(()).unwrap();
    let (_response, mut send) = requests.send_request(request, false).unwrap();
    send.reserve_capacity(10);
    // Until the request is out; then the connection is never looked at again.
    let _ = timeout(Duration::from_millis(100), poll_fn(|cx| std::pin::Pin::new(&mut connection).poll(cx))).await;
    assert_eq!(server.end().await, "silent");
    still_serves(&mesh, server.address).await;
}

#[tokio::test]
async fn a_quiet_peer_that_answers_pings_is_kept() {
    let mesh = Mesh::new();
    let settings = Settings {
        ping_after: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(100),
        ..Settings::default()
    };
    let mut server = watched(&mesh, settings).await;
    let mut opened = mesh.pool.connect(&mesh.key(server.address), &head()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(server.ends.try_recv().is_err());
    opened.stream.write_all(b"still here").await.unwrap();
    let mut answer = [0; 10];
    opened.stream.read_exact(&mut answer).await.unwrap();
}
