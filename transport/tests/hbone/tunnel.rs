//! Streams through tunnels: bytes, ends, resets, sharing.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use transport::hbone::Settings;

use crate::mesh::{Mesh, echo, head};

#[tokio::test]
async fn bytes_go_through_a_tunnel_in_both_directions() {
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
