//! Stalled readers hold up their own streams only: other streams between the same two ends go on, in bounded memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use transport::hbone::{Authority, ConnectHead, Opened, PoolOptions, Request, Settings, Stream};
use transport::net::buffers::What;

use crate::mesh::{Mesh, echo, eventually, identity};

/// What is asked for decides what the far end does.
const ECHO: u16 = 1;
const SENDS: u16 = 2;
const READS_NOT: u16 = 3;

fn head(port: u16) -> ConnectHead {
    ConnectHead::new(Authority::Address(([10, 0, 0, 2], port).into()))
}

/// Sends until nothing more is accepted.
async fn send_all(mut stream: Stream, sent: Arc<AtomicU64>) {
    let block = vec![7; 16 * 1024];
    while let Ok(written) = stream.write(&block).await {
        sent.fetch_add(written as u64, Ordering::Relaxed);
    }
}

async fn serve(request: Request, sent: Arc<AtomicU64>) {
    match request.head().unwrap().authority.port() {
        SENDS => send_all(request.accept(None).unwrap(), sent).await,
        READS_NOT => {
            let _held = request.accept(None).unwrap();
            std::future::pending::<()>().await;
        }
        _ => echo(request).await,
    }
}

/// A far end that does what is asked for; and how much it has sent.
async fn far(mesh: &Mesh) -> (SocketAddr, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let address = mesh.serve(Settings::default(), move |request| serve(request, Arc::clone(&count))).await;
    (address, sent)
}

/// Repeated round trips of a short message; returns the longest.
async fn talk(opened: &mut Opened, times: usize) -> Duration {
    let mut longest = Duration::ZERO;
    for n in 0..times {
        let began = Instant::now();
        let word = [n as u8; 64];
        opened.stream.write_all(&word).await.unwrap();
        let mut heard = [0; 64];
        let heard_it = timeout(Duration::from_secs(5), opened.stream.read_exact(&mut heard)).await;
        heard_it.expect("others' readers hold it up").unwrap();
        assert_eq!(heard, word);
        longest = longest.max(began.elapsed());
    }
    longest
}

async fn connect(mesh: &Mesh, address: SocketAddr, port: u16) -> Opened {
    let connected = timeout(Duration::from_secs(10), mesh.pool.connect(&mesh.key(address), &head(port))).await;
    connected.expect("others' readers hold it up").unwrap()
}

/// Waits until nothing more is taken, and returns how much was.
async fn at_rest(taken: impl Fn() -> u64) -> u64 {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = taken();
        if now > 0 && now == before {
            return now;
        }
        before = now;
    }
}

/// Old and new connections talk without delay.
async fn others_go_on(mesh: &Mesh, address: SocketAddr, old: &mut Opened) {
    let longest = talk(old, 100).await;
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    for _ in 0..20 {
        let longest = talk(&mut connect(mesh, address, ECHO).await, 20).await;
        assert!(longest < Duration::from_secs(1), "{longest:?}");
    }
}

/// So many readers stall at each end, one after the other.
async fn stalled_readers(each: usize) {
    let mesh = Mesh::with(PoolOptions { spread: 2, ..PoolOptions::default() });
    let (address, sent) = far(&mesh).await;
    let mut old = connect(&mesh, address, ECHO).await;
    // More than the narrowest window, and less than what makes the peer give some back.
    talk(&mut old, 1500).await;
    let mut stalled = Vec::new();
    for _ in 0..each {
        // Nobody reads what comes here.
        stalled.push(connect(&mesh, address, SENDS).await);
        let upload = connect(&mesh, address, READS_NOT).await;
        tokio::spawn(send_all(upload.stream, Arc::clone(&sent)));
    }
    let taken = at_rest(|| sent.load(Ordering::Relaxed)).await;
    let tunnels = mesh.dialler.dials.load(Ordering::SeqCst);
    assert!(tunnels <= 2 * each / 100 + 4, "{tunnels} tunnels");
    others_go_on(&mesh, address, &mut old).await;
    // What lies unread at both ends, and what each tunnel may have under way besides.
    let (near, far) = (&mesh.dialler.buffers, &mesh.buffers);
    for buffers in [near, far] {
        let held = buffers.used(What::Unread);
        assert!(held > 0 && held <= buffers.limit(What::Unread) / 2, "{held}");
    }
    let most = (64 << 20) + (tunnels << 21);
    assert!(taken <= most as u64, "{taken} bytes for {tunnels} tunnels");
    // A reader that resumes gets everything, and window is released.
    for opened in &mut stalled {
        let mut some = vec![0; 200_000];
        timeout(Duration::from_secs(20), opened.stream.read_exact(&mut some)).await.expect("it is stuck").unwrap();
        assert!(some.iter().all(|byte| *byte == 7));
    }
    drop(stalled);
    talk(&mut old, 10).await;
    eventually("the unread bytes are released", || near.used(What::Unread) < 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_readers_that_stall_hold_up_nobody() {
    stalled_readers(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_readers_that_stall_hold_up_nobody_and_little_memory() {
    stalled_readers(500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_all_at_once_hold_up_nobody() {
    let mesh = Arc::new(Mesh::with(PoolOptions { spread: 2, ..PoolOptions::default() }));
    let (address, sent) = far(&mesh).await;
    let mut old = connect(&mesh, address, ECHO).await;
    talk(&mut old, 1500).await;
    let opening = (0..400).map(|_| {
        let mesh = Arc::clone(&mesh);
        tokio::spawn(async move { connect(&mesh, address, SENDS).await })
    });
    let mut stalled = Vec::new();
    for opened in opening.collect::<Vec<_>>() {
        stalled.push(opened.await.unwrap());
    }
    at_rest(|| sent.load(Ordering::Relaxed)).await;
    others_go_on(&mesh, address, &mut old).await;
    let buffers = &mesh.dialler.buffers;
    assert!(buffers.used(What::Unread) <= buffers.limit(What::Unread));
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_keeps_its_pace_beside_readers_that_stall() {
    let mesh = Mesh::new();
    let (address, _) = far(&mesh).await;
    let mut live = connect(&mesh, address, SENDS).await;
    let mut stalled = Vec::new();
    for _ in 0..60 {
        stalled.push(connect(&mesh, address, SENDS).await);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut block = vec![0; 64 * 1024];
    let reading = async {
        for _ in 0..1000 {
            live.stream.read_exact(&mut block).await.unwrap();
        }
    };
    timeout(Duration::from_secs(30), reading).await.expect("it crawls");
    drop(stalled);
}

/// A peer with ztunnel's fixed windows: four stalled streams use up the connection.
async fn serve_fixed_windows(mesh: &Mesh) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = mesh.keyring.server_config(&identity("server")).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let (stream, _) = tls.accept(tcp).await.unwrap();
                let mut builder = h2::server::Builder::new();
                builder.initial_window_size(4 << 20).initial_connection_window_size(16 << 20);
                let mut connection: h2::server::Connection<_, bytes::Bytes> = builder.handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let port = request.uri().port_u16();
                    let mut receive = request.into_body();
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    tokio::spawn(async move {
                        if port == Some(READS_NOT) {
                            std::future::pending::<()>().await;
                        }
                        while let Some(Ok(chunk)) = receive.data().await {
                            receive.flow_control().release_capacity(chunk.len()).unwrap();
                            send.send_data(chunk, false).unwrap();
                        }
                    });
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_fixed_windows_gets_another_tunnel_when_one_is_full_of_what_nobody_reads() {
    let mesh = Mesh::new();
    let address = serve_fixed_windows(&mesh).await;
    for round in 1..=12 {
        let taken = Arc::new(AtomicU64::new(0));
        let upload = connect(&mesh, address, READS_NOT).await;
        tokio::spawn(send_all(upload.stream, Arc::clone(&taken)));
        at_rest(|| taken.load(Ordering::Relaxed)).await;
        // Whatever stalls, who comes new gets through.
        let longest = talk(&mut connect(&mesh, address, ECHO).await, 5).await;
        assert!(longest < Duration::from_secs(1), "{round}: {longest:?}");
    }
    let tunnels = mesh.dialler.dials.load(Ordering::SeqCst);
    assert!((2..=6).contains(&tunnels), "{tunnels} tunnels");
}
