//! Streams through tunnels: bytes, ends, resets, sharing.

use std::sync::atomic::Ordering;

use mesh::hbone::{Baggage, Request, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};

use crate::mesh::{Mesh, head};

async fn echo(request: Request) {
    let baggage = Baggage { service: Some("echo".into()), ..Baggage::default() };
    let stream = request.accept(Some(&baggage)).unwrap();
    let (mut read, mut write) = split(stream);
    if copy(&mut read, &mut write).await.is_ok() {
        let _ = write.shutdown().await;
    }
}

#[tokio::test]
async fn bytes_go_through_a_tunnel_and_back() {
    let mesh = Mesh::new();
    let address = mesh.serve(Settings::default(), echo).await;
    let mut opened = mesh.pool.connect(&mesh.key(address), &head()).await.unwrap();
    assert_eq!(opened.baggage.unwrap().service, Some("echo".into()));
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let (mut read, mut write) = split(&mut opened.stream);
    let mut received = Vec::new();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(send, read.read_to_end(&mut received));
    read.unwrap();
    assert_eq!(received, sent);
    assert_eq!(mesh.dialler.dials.load(Ordering::SeqCst), 1);
}
