//! Peers that begin handshakes and do not end them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::backend::{Backend, ok};
use super::rig::{Rig, shop};

/// Connects from an address and says nothing. None: it was reset at once.
async fn silent(rig: &Rig, host: u8) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(rig.net.ip(host), 0)).unwrap();
    socket.connect(SocketAddr::new(rig.net.ip(1), 15008)).await.ok()
}

/// Whether the other side has closed it within a time.
async fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let read = tokio::time::timeout(within, stream.read(&mut [0; 64])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn a_peer_that_ends_no_handshake_is_bounded_and_hurts_nobody() {
    // Four in progress, twenty-eight wait.
    let rig = Rig::start_with(&shop("http", &[11]), &["--peer-handshakes", "4"]).await;
    Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let began = Instant::now();
    let mut held = vec![];
    for _ in 0..60 {
        held.extend(silent(&rig, 7).await);
    }
    rig.eventually("all refused that are beyond thirty-two", async || {
        let mut open = vec![];
        for mut stream in held.drain(..) {
            if !is_closed(&mut stream, Duration::from_millis(5)).await {
                open.push(stream);
            }
        }
        held = open;
        held.len() == 32
    })
    .await;
    let counted = "culvert_limit_refusals_total{reason=\"peer_handshakes\"} 28";
    rig.eventually("counted", async || rig.metrics().await.contains(counted)).await;
    let told = || rig.log().lines().filter(|line| line.contains("connections refused since")).count();
    assert!((1..=2).contains(&told()), "{}", rig.log());
    // Others do not notice, also those that have no tunnel yet.
    let calling = Instant::now();
    assert_eq!(rig.get("/").await.status, 200);
    assert!(calling.elapsed() < Duration::from_secs(1), "{:?}", calling.elapsed());
    // Each has its time, those that wait too; then the peer may begin again.
    for stream in &mut held {
        assert!(is_closed(stream, Duration::from_secs(12)).await);
    }
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    let mut again = silent(&rig, 7).await.unwrap();
    assert!(!is_closed(&mut again, Duration::from_millis(300)).await);
}
