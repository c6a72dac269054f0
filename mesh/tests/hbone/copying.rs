//! Ends, resets, back-pressure and time limits of connections in tunnels.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh::hbone::Settings;
use mesh::net::copy::{CopyError, End, Timeouts};
use mesh::net::socket::reset_on_close;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::mesh::{Carried, Mesh, sockets};

const NONE: Timeouts = Timeouts { idle: None, half_closed: None };

async fn carried() -> Carried {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let carried = mesh.carry(&far, NONE).await;
    // The pool lives as long as the process does in earnest.
    std::mem::forget(mesh);
    carried
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    for swap in [false, true] {
        let Carried { client, server, near, far, .. } = carried().await;
        let (mut first, mut second) = if swap { (server, client) } else { (client, server) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut question = Vec::new();
        second.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!near.is_finished() && !far.is_finished());
        second.write_all(b"answer").await.unwrap();
        second.shutdown().await.unwrap();
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        near.await.unwrap().unwrap();
        far.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    for swap in [false, true] {
        let Carried { client, server, near, far, .. } = carried().await;
        let (first, mut second) = if swap { (server, client) } else { (client, server) };
        reset_on_close(&first).unwrap();
        drop(first);
        let error = second.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        for copy in [near, far] {
            let Err(CopyError::Broken { end, error }) = copy.await.unwrap() else { panic!("it ended well") };
            assert_eq!(end, if swap { End::Second } else { End::First });
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test]
async fn a_reset_after_the_end_of_one_direction_is_passed_on() {
    for swap in [false, true] {
        let Carried { client, server, .. } = carried().await;
        let (mut first, mut second) = if swap { (server, client) } else { (client, server) };
        first.shutdown().await.unwrap();
        assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
        reset_on_close(&second).unwrap();
        drop(second);
        assert_eq!(first.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn whoever_reads_nothing_is_sent_a_bounded_amount() {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let Carried { mut client, server: stalled, counters, .. } = mesh.carry(&far, NONE).await;
    let Carried { client: mut other_client, server: mut other_server, .. } = mesh.carry(&far, NONE).await;
    let mut accepted = 0;
    let block = vec![7; 64 * 1024];
    while let Ok(written) = timeout(Duration::from_secs(1), client.write(&block)).await {
        accepted += written.unwrap();
        assert!(accepted < 64 << 20, "no back-pressure");
    }
    let window = u64::from(Settings::default().largest_stream_window);
    assert!(counters.forth.load(Ordering::Relaxed) <= 4 * window);
    // Another connection in the same tunnel does not notice.
    other_client.write_all(b"ping").await.unwrap();
    let mut received = [0; 4];
    timeout(Duration::from_secs(1), other_server.read_exact(&mut received)).await.unwrap().unwrap();
    // And everything arrives once it is read.
    client.shutdown().await.unwrap();
    let mut stalled = stalled;
    let mut arrived = Vec::new();
    timeout(Duration::from_secs(30), stalled.read_to_end(&mut arrived)).await.unwrap().unwrap();
    assert_eq!(arrived.len(), accepted);
    assert_eq!(counters.forth.load(Ordering::Relaxed), accepted as u64);
}

#[tokio::test]
async fn many_small_writes_to_a_stalled_reader_do_not_end_the_tunnel() {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    // Small buffers, so that the bytes wait in the tunnel.
    let (server, far_app) = sockets().await;
    socket2::SockRef::from(&server).set_recv_buffer_size(2048).unwrap();
    socket2::SockRef::from(&far_app).set_send_buffer_size(4096).unwrap();
    let Carried { mut client, mut server, .. } = mesh.carry_to(&far, NONE, server, far_app).await;
    client.set_nodelay(true).unwrap();
    let writes = 4_000;
    for _ in 0..writes {
        client.write_all(b"0123456789").await.unwrap();
        // A frame of its own for each.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    client.shutdown().await.unwrap();
    let mut arrived = Vec::new();
    timeout(Duration::from_secs(30), server.read_to_end(&mut arrived)).await.unwrap().unwrap();
    assert_eq!(arrived.len(), writes * 10);
}

#[tokio::test]
async fn an_idle_connection_is_cut_when_idleness_is_limited() {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let limit = Timeouts { idle: Some(Duration::from_millis(300)), half_closed: None };
    let Carried { mut client, mut server, near, .. } = mesh.carry(&far, limit).await;
    for _ in 0..6 {
        client.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(!near.is_finished());
    assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(matches!(near.await.unwrap(), Err(CopyError::Idle | CopyError::Broken { .. })));
}

#[tokio::test]
async fn a_half_closed_connection_is_cut_when_nothing_comes() {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let limit = Timeouts { idle: None, half_closed: Some(Duration::from_millis(200)) };
    let Carried { mut client, mut server, near, .. } = mesh.carry(&far, limit).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!near.is_finished());
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(client.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(matches!(near.await.unwrap(), Err(CopyError::HalfClosed | CopyError::Broken { .. })));
}

#[test]
fn a_copy_is_small() {
    fn future_size<F: Future>(_: &F) -> usize {
        size_of::<F>()
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let counters = mesh::net::copy::Counters::default();
    runtime.block_on(async {
        let (a, b) = sockets().await;
        let (mut a, mut b) = (mesh::net::tcp::Tcp::new(a), mesh::net::tcp::Tcp::new(b));
        let size = future_size(&mesh::net::copy::both_ways(&mut a, &mut b, &counters, &NONE));
        assert!(size <= 400, "{size}");
        assert!(size_of::<mesh::net::tcp::Tcp>() <= 120);
        assert!(size_of::<mesh::hbone::Stream>() <= 120);
    });
}
