//! Half-close, resets, back-pressure and timeouts of connections in tunnels.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;
use transport::hbone::Settings;
use transport::net::copy::{CopyError, End, Timeouts};
use transport::net::socket::reset_on_close;

use crate::mesh::{Carried, Mesh, sockets};

const NONE: Timeouts = Timeouts { idle: None, half_closed: None };

async fn carried() -> Carried {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let carried = mesh.carry(&far, NONE).await;
    // In production the pool lives as long as the process.
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
async fn a_reset_after_the_end_of_one_direction_is_forwarded() {
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

/// Sends for as long as it can, like a client that uploads; returns how much was accepted.
async fn upload(mut to: tokio::net::tcp::OwnedWriteHalf, most: usize) -> usize {
    let block = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while sent < most && to.write_all(&block).await.is_ok() {
        sent += block.len();
    }
    sent
}

/// A server that reads a little, responds, and closes with unread bytes.
async fn answer_early(mut server: TcpStream, answer: &[u8], end_first: bool) {
    server.read_exact(&mut [0; 100]).await.unwrap();
    server.write_all(answer).await.unwrap();
    if end_first {
        server.shutdown().await.unwrap();
    }
    // Closing a socket with unread bytes destroys what its kernel has not sent yet.
    tokio::time::sleep(Duration::from_millis(if answer.len() < 100_000 { 20 } else { 500 })).await;
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_arrives_whole_and_ends_in_peace() {
    for length in [7, 20_000, 1_000_000] {
        for _ in 0..if length < 100_000 { 10 } else { 3 } {
            let Carried { client, server, near, far, .. } = carried().await;
            let answer = pattern(length);
            let (mut read, write) = client.into_split();
            let uploading = tokio::spawn(upload(write, 200 << 20));
            let mut received = Vec::new();
            let reading = timeout(Duration::from_secs(20), read.read_to_end(&mut received));
            let ((), end) = tokio::join!(answer_early(server, &answer, true), reading);
            end.expect("the answer has no end").unwrap();
            assert!(received == answer, "{} of {length}", received.len());
            drop(read);
            uploading.abort();
            timeout(Duration::from_secs(10), far).await.unwrap().unwrap().unwrap();
            timeout(Duration::from_secs(10), near).await.unwrap().unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_only_when_it_has_written_all_gets_its_early_answer() {
    let Carried { client, server, near, .. } = carried().await;
    let answer = pattern(200_000);
    let (mut read, write) = client.into_split();
    let writing = async {
        let sent = timeout(Duration::from_secs(20), upload(write, 30_000_000)).await.expect("nobody takes the upload");
        assert!(sent >= 30_000_000, "cut after {sent}");
        let mut received = Vec::new();
        timeout(Duration::from_secs(20), read.read_to_end(&mut received)).await.unwrap().unwrap();
        assert!(received == answer);
    };
    tokio::join!(answer_early(server, &answer, true), writing);
    drop(read);
    near.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_its_client_closes_after_the_end_ends_in_peace() {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let (mut opened, mut server, carrying) = mesh.carry_far(&far).await;
    opened.stream.write_all(b"question").await.unwrap();
    opened.stream.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    // Nobody waits for an answer, and none comes.
    drop(opened);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(server);
    carrying.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_with_the_whole_answer_has_broken_nothing_and_its_upload_is_no_whole_one() {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let (mut opened, mut server, carrying) = mesh.carry_far(&far).await;
    opened.stream.write_all(b"half a question").await.unwrap();
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    opened.stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    drop(opened);
    let mut question = Vec::new();
    assert_eq!(server.read_to_end(&mut question).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    carrying.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_answers_a_client_who_has_closed_is_cut() {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let (mut opened, mut server, carrying) = mesh.carry_far(&far).await;
    opened.stream.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    drop(opened);
    let answering = async { while server.write_all(&[0; 10_000]).await.is_ok() {} };
    timeout(Duration::from_secs(5), answering).await.expect("it talks to nobody");
    assert!(matches!(carrying.await.unwrap(), Err(CopyError::Broken { end: End::First, .. })));
}

#[tokio::test]
async fn an_answer_that_ends_with_a_reset_arrives_before_the_reset() {
    for length in [7, 20_000, 300_000] {
        for _ in 0..if length < 100_000 { 10 } else { 3 } {
            let Carried { client, server, near, far, .. } = carried().await;
            let answer = pattern(length);
            let (mut read, write) = client.into_split();
            let uploading = tokio::spawn(upload(write, 200 << 20));
            let mut received = Vec::new();
            let reading = timeout(Duration::from_secs(20), read.read_to_end(&mut received));
            let ((), end) = tokio::join!(answer_early(server, &answer, false), reading);
            // It is no end: who could not tell it from one would take half an answer for a whole one.
            assert_eq!(end.expect("no end").unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert!(received == answer, "{} of {length}", received.len());
            drop(read);
            uploading.abort();
            assert!(matches!(far.await.unwrap(), Err(CopyError::Broken { end: End::Second, .. })));
            assert!(matches!(near.await.unwrap(), Err(CopyError::Broken { end: End::Second, .. })));
        }
    }
}

#[tokio::test]
async fn a_tunnel_outlives_any_number_of_resets() {
    let mesh = Mesh::new();
    let far = mesh.far(Settings::default()).await;
    let Carried { mut client, mut server, .. } = mesh.carry(&far, NONE).await;
    for round in 0..400 {
        let Carried { client: near, server: far, .. } = mesh.carry(&far, NONE).await;
        let (first, mut second) = if round % 2 == 0 { (near, far) } else { (far, near) };
        reset_on_close(&first).unwrap();
        drop(first);
        assert_eq!(second.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    client.write_all(b"still here").await.unwrap();
    server.read_exact(&mut [0; 10]).await.unwrap();
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn bytes_written_before_a_reset_arrive_before_it() {
    for swap in [false, true] {
        for _ in 0..4 {
            let Carried { client, server, .. } = carried().await;
            let (mut first, mut second) = if swap { (server, client) } else { (client, server) };
            let said = pattern(200_000);
            let mut heard = vec![0; said.len()];
            let telling = async {
                first.write_all(&said).await.unwrap();
                // Until the kernel has handed them over: its own reset destroys what it still has.
                tokio::time::sleep(Duration::from_millis(300)).await;
                reset_on_close(&first).unwrap();
                drop(first);
            };
            let hearing = timeout(Duration::from_secs(5), second.read_exact(&mut heard));
            let ((), heard_all) = tokio::join!(telling, hearing);
            heard_all.unwrap().unwrap();
            assert!(heard == said);
            assert_eq!(second.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
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
    assert!(counters.sent.load(Ordering::Relaxed) <= 4 * window);
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
    assert_eq!(counters.sent.load(Ordering::Relaxed), accepted as u64);
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
    let counters = transport::net::copy::Counters::default();
    runtime.block_on(async {
        let (a, b) = sockets().await;
        let (mut a, mut b) = (transport::net::tcp::Tcp::new(a), transport::net::tcp::Tcp::new(b));
        let size = future_size(&transport::net::copy::both_ways(&mut a, &mut b, &counters, &NONE));
        assert!(size <= 400, "{size}");
        assert!(size_of::<transport::net::tcp::Tcp>() <= 120);
        assert!(size_of::<transport::hbone::Stream>() <= 120);
    });
}
