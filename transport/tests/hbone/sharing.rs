//! Which tunnels a pool opens, reuses and closes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::hbone::{PoolOptions, Request, Settings};

use crate::mesh::{Mesh, eventually, head, identity};

/// Accepts and holds the stream until the client ends it.
async fn hold(request: Request) {
    let mut stream = request.accept(None).unwrap();
    let _ = stream.read_u8().await;
}

#[tokio::test]
async fn a_thousand_callers_wait_for_one_dial() {
    let mut options = PoolOptions { spread: 1, ..PoolOptions::default() };
    options.settings.max_streams = 2000;
    let mesh = Arc::new(Mesh::with(options));
    let settings = Settings { max_accepted_streams: 2000, ..Settings::default() };
    let address = mesh.serve(settings, hold).await;
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let mesh = Arc::clone(&mesh);
            tokio::spawn(async move { mesh.pool.connect(&mesh.key(address), &head()).await.unwrap() })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_full_tunnel_is_used_again_when_streams_have_ended() {
    let mut options = PoolOptions { spread: 1, ..PoolOptions::default() };
    options.settings.max_streams = 10;
    let mesh = Mesh::with(options);
    let address = mesh.serve(Settings::default(), hold).await;
    let mut open = Vec::new();
    for _ in 0..25 {
        open.push(mesh.pool.connect(&mesh.key(address), &head()).await.unwrap());
    }
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 3);
    let mut streams: Vec<usize> = mesh.pool.list().into_iter().map(|(_, streams)| streams).collect();
    streams.sort_unstable();
    assert_eq!(streams, [5, 10, 10]);
    open.clear();
    for _ in 0..30 {
        open.push(mesh.pool.connect(&mesh.key(address), &head()).await.unwrap());
    }
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_limit_of_the_peer_is_kept() {
    let mesh = Mesh::new();
    let address = mesh.serve(Settings { max_accepted_streams: 3, ..Settings::default() }, hold).await;
    let mut open = Vec::new();
    for _ in 0..7 {
        open.push(mesh.pool.connect(&mesh.key(address), &head()).await.unwrap());
    }
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_busy_pool_opens_tunnels_for_other_cores() {
    let mesh = Mesh::with(PoolOptions { spread: 2, busy: 4, ..PoolOptions::default() });
    let address = mesh.serve(Settings::default(), hold).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(mesh.pool.connect(&mesh.key(address), &head()).await.unwrap());
    }
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 1);
    for _ in 0..36 {
        open.push(mesh.pool.connect(&mesh.key(address), &head()).await.unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let streams: Vec<usize> = mesh.pool.list().into_iter().map(|(_, streams)| streams).collect();
    assert_eq!(streams.len(), 2);
    assert!(streams.iter().all(|streams| *streams >= 15), "{streams:?}");
}

#[tokio::test]
async fn keys_that_differ_have_tunnels_of_their_own() {
    let mesh = Mesh::new();
    mesh.keyring.want(identity("other"));
    let address = mesh.serve(Settings::default(), hold).await;
    let key = mesh.key(address);
    let mut keys = vec![key.clone(), key.clone(), key.clone()];
    keys[1].workload = "Kubernetes//Pod/default/second".into();
    keys[2].source = identity("other");
    let mut open = Vec::new();
    for key in &keys {
        open.push(mesh.pool.connect(key, &head()).await.unwrap());
    }
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn releasing_a_workload_cuts_its_tunnels_and_no_others() {
    let mesh = Mesh::new();
    let address = mesh.serve(Settings::default(), hold).await;
    let key = mesh.key(address);
    let mut second = key.clone();
    second.workload = "Kubernetes//Pod/default/second".into();
    let mut cut = mesh.pool.connect(&key, &head()).await.unwrap();
    let mut kept = mesh.pool.connect(&second, &head()).await.unwrap();
    mesh.pool.close_workload(&key.workload);
    assert!(cut.stream.read_u8().await.is_err());
    kept.stream.write_all(b"x").await.unwrap();
    assert_eq!(mesh.pool.list().len(), 1);
}

#[tokio::test]
async fn an_unused_tunnel_is_released_and_a_used_one_kept() {
    let idle = Duration::from_millis(200);
    let mesh = Mesh::with(PoolOptions { spread: 1, idle, ..PoolOptions::default() });
    let address = mesh.serve(Settings::default(), hold).await;
    let opened = mesh.pool.connect(&mesh.key(address), &head()).await.unwrap();
    tokio::time::sleep(3 * idle).await;
    assert_eq!(mesh.pool.list().len(), 1);
    drop(opened);
    eventually("the tunnel is released", || mesh.pool.list().is_empty()).await;
}

#[tokio::test]
async fn a_tunnel_that_goes_away_is_replaced_and_its_streams_end_in_peace() {
    let mesh = Mesh::new();
    let (drained, address) = mesh.serve_and_drain_after(1).await;
    let mut first = mesh.pool.connect(&mesh.key(address), &head()).await.unwrap();
    drained.await.unwrap();
    for _ in 0..3 {
        let mut next = mesh.pool.connect(&mesh.key(address), &head()).await.unwrap();
        next.stream.write_all(b"new").await.unwrap();
        let mut echoed = [0; 3];
        next.stream.read_exact(&mut echoed).await.unwrap();
    }
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 2);
    first.stream.write_all(b"old").await.unwrap();
    let mut echoed = [0; 3];
    first.stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"old");
}

#[tokio::test]
async fn a_peer_that_restarts_takes_all_its_tunnels_with_it_and_no_caller_notices() {
    for wait in [Duration::ZERO, Duration::from_millis(100)] {
        let mut options = PoolOptions { spread: 2, busy: 4, ..PoolOptions::default() };
        options.settings.max_streams = 10;
        let mesh = Arc::new(Mesh::with(options));
        let (drain, address) = mesh.serve_until_drained().await;
        // Tunnels that have room, and tunnels that have none.
        let mut open = Vec::new();
        for _ in 0..35 {
            open.push(mesh.pool.connect(&mesh.key(address), &head()).await.unwrap());
        }
        open.drain(..12);
        let before = mesh.dialler.dials.load(Ordering::SeqCst);
        assert!(before >= 4, "{before} tunnels");
        drain.send_replace(before);
        tokio::time::sleep(wait).await;
        let callers = (0..20).map(|_| {
            let mesh = Arc::clone(&mesh);
            tokio::spawn(async move { mesh.pool.connect(&mesh.key(address), &head()).await.unwrap() })
        });
        for caller in callers.collect::<Vec<_>>() {
            let mut next = caller.await.unwrap();
            next.stream.write_all(b"new").await.unwrap();
            next.stream.read_exact(&mut [0; 3]).await.unwrap();
        }
        // Those that were open before go on.
        for opened in &mut open {
            opened.stream.write_all(b"old").await.unwrap();
            opened.stream.read_exact(&mut [0; 3]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_request_that_was_not_answered_is_sent_again_in_a_tunnel_of_its_own() {
    // Frames (RFC 9113, 6): GOAWAY with last stream 0 and no error; RST_STREAM of stream 1 with REFUSED_STREAM.
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const REFUSED: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
    for (frames, close) in [(GOAWAY, false), (GOAWAY, true), (REFUSED, false), (&[][..], true)] {
        let mesh = Mesh::new();
        let address = mesh.serve_after(frames, close).await;
        let opened = tokio::time::timeout(Duration::from_secs(5), mesh.pool.connect(&mesh.key(address), &head())).await;
        let mut opened = opened.expect("it waits").unwrap();
        opened.stream.write_all(b"new").await.unwrap();
        opened.stream.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn a_peer_that_lets_nobody_in_is_given_up() {
    let mesh = Mesh::new();
    let address = mesh.serve(Settings::default(), |request: Request| async move { drop(request) }).await;
    let (key, head) = (mesh.key(address), head());
    let refused = mesh.pool.connect(&key, &head);
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap().unwrap_err();
    assert!(mesh.dialler.dials.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn callers_who_come_at_once_keep_the_limit_of_the_peer() {
    let mesh = Arc::new(Mesh::new());
    let address = mesh.serve(Settings { max_accepted_streams: 3, ..Settings::default() }, hold).await;
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let mesh = Arc::clone(&mesh);
            tokio::spawn(async move { mesh.pool.connect(&mesh.key(address), &head()).await.unwrap() })
        })
        .collect();
    let mut open = Vec::new();
    for caller in callers {
        let opened = tokio::time::timeout(Duration::from_secs(5), caller).await;
        open.push(opened.expect("one waits for another to end").unwrap());
    }
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn a_request_that_meets_a_dead_tunnel_is_sent_in_a_new_one() {
    let mesh = Mesh::new();
    let (sockets, address) = mesh.serve_and_keep_sockets().await;
    drop(mesh.pool.connect(&mesh.key(address), &head()).await.unwrap());
    // The peer's host is gone without a word; the first packet to it is answered with a reset.
    for socket in sockets.lock().await.drain(..) {
        socket.abort();
    }
    mesh.pool.connect(&mesh.key(address), &head()).await.unwrap();
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_refusal_is_told_by_its_status_and_not_sent_again() {
    let mesh = Mesh::new();
    let refuse = |request: Request| async move { request.refuse(http::StatusCode::UNAUTHORIZED) };
    let address = mesh.serve(Settings::default(), refuse).await;
    let error = mesh.pool.connect(&mesh.key(address), &head()).await.unwrap_err();
    assert_eq!((error.reason(), error.fault().status()), ("denied_by_peer", 401));
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nobody_there_is_told_to_all_who_wait() {
    let mesh = Arc::new(Mesh::new());
    let nobody = "127.0.0.1:1".parse().unwrap();
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let mesh = Arc::clone(&mesh);
            tokio::spawn(async move { mesh.pool.connect(&mesh.key(nobody), &head()).await.unwrap_err() })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().reason(), "connect");
    }
    assert!(mesh.pool.list().is_empty());
}

#[tokio::test]
async fn somebody_else_at_the_address_is_not_spoken_to() {
    let mesh = Mesh::new();
    let address = mesh.serve(Settings::default(), hold).await;
    let mut key = mesh.key(address);
    key.expected = Arc::new([identity("somebody")]);
    let error = mesh.pool.connect(&key, &head()).await.unwrap_err();
    assert_eq!((error.reason(), error.flag().as_str()), ("unexpected_identity", "IDENTITY_ERROR"));
}

#[tokio::test]
async fn a_source_without_certificate_has_no_tunnel() {
    let mesh = Mesh::new();
    let mut key = mesh.key("127.0.0.1:1".parse().unwrap());
    key.source = identity("unknown");
    let error = mesh.pool.connect(&key, &head()).await.unwrap_err();
    assert_eq!((error.reason(), error.flag().as_str()), ("no_certificate_yet", "IDENTITY_ERROR"));
}
