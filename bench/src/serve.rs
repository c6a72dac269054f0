//! The server of the benches: counts what comes, or answers each request. One thread.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Bytes that a connection begins with: mode, size of a request, size of an answer, each as 32 bits, big-endian.
pub const HEADER: usize = 12;
/// Mode: read to the end, then say how many bytes there were, as 64 bits, big-endian.
pub const SINK: u32 = 1;
/// Mode: for each request of the given size one answer of the given size.
pub const ANSWER: u32 = 2;

/// Largest request and answer; what asks for more is hung up on.
const LARGEST: usize = 64 * 1024;

/// Listens at an address and serves until the process ends.
pub async fn run(at: SocketAddr) -> io::Result<()> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    let listener = socket.listen(4096)?;
    announce(listener.local_addr()?)?;
    accept(listener).await;
    Ok(())
}

/// Serves whatever connects, for ever.
pub async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    // A client that goes away is the end of its connection and of nothing else.
                    let _gone = serve(stream).await;
                });
            }
            // Out of descriptors: those in use will come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mode = stream.read_u32().await?;
    let (request, answer) = (stream.read_u32().await? as usize, stream.read_u32().await? as usize);
    match mode {
        SINK => sink(stream).await,
        ANSWER if request <= LARGEST && answer <= LARGEST => respond(stream, request, answer).await,
        _ => Ok(()),
    }
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => total += count as u64,
        }
    }
    stream.write_u64(total).await?;
    stream.shutdown().await
}

async fn respond(mut stream: TcpStream, request: usize, answer: usize) -> io::Result<()> {
    let mut buffer = vec![0; request];
    let answer = vec![9; answer];
    loop {
        stream.read_exact(&mut buffer).await?;
        stream.write_all(&answer).await?;
    }
}

/// Prints where a role listens: whoever started it waits for the line.
pub fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()
}
