//! Role: a pod that takes all it can get, in one of several ways, and retries what it is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::load::{Seen, header, say};
use crate::serve::{ANSWER, SINK};
use harness::pki;

/// Timeout before a retry.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failure, so that refusals cost the greedy pod time.
const REST: Duration = Duration::from_millis(1);
/// Bytes per write of a bulk stream.
const CHUNK: usize = 256 * 1024;
/// Clients that ask for connections or handshakes, each for one after the other.
const ASKING: usize = 64;

/// What to take.
#[derive(Clone, Debug, Args)]
pub struct Greedy {
    /// What is dialled, divided by commas; handshakes go to each in turn
    #[arg(long, value_delimiter = ',')]
    pub to: Vec<SocketAddr>,
    #[arg(long, value_enum)]
    pub attack: Attack,
    /// Streams, idle connections, or handshakes that are begun and left
    #[arg(long)]
    pub count: usize,
}

/// Ways of being greedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// Bytes as fast as they go, on many streams
    Bytes,
    /// Connect, one request, its answer, close
    Connections,
    /// As many idle connections as there may be
    Hold,
    /// TLS handshakes that are begun and left, and others as far as they cost the server most
    Handshakes,
}

impl Attack {
    /// What is counted.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Bytes => "Gbit/s",
            Self::Connections | Self::Handshakes => "1/s",
            Self::Hold => "held",
        }
    }
}

/// What it got: bytes, connections, connections open at the end, or handshakes completed by the server.
#[derive(Clone, Default)]
struct Got(Arc<AtomicU64>);

impl Got {
    fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

/// Attacks until standard input ends, then prints how much it got. Prints an empty result when it has begun.
pub async fn run(greedy: &Greedy) -> Result<()> {
    let got = Got::default();
    let mut clients = JoinSet::new();
    let to = *greedy.to.first().context("nothing to dial")?;
    match greedy.attack {
        Attack::Bytes => {
            (0..greedy.count).for_each(|_| drop(clients.spawn(again(move |got| send(to, got), got.clone()))))
        }
        Attack::Connections => {
            (0..ASKING).for_each(|_| drop(clients.spawn(again(move |got| ask_and_close(to, got), got.clone()))));
        }
        Attack::Hold => {
            let each = greedy.count / ASKING;
            (0..ASKING).for_each(|_| drop(clients.spawn(hold(to, each, got.clone()))));
        }
        Attack::Handshakes => {
            let hello: Arc<[u8]> = hello()?.into();
            for index in 0..greedy.count {
                let to = greedy.to[index % greedy.to.len()];
                clients.spawn(again(move |_| begin_and_leave(to), got.clone()));
            }
            for index in 0..ASKING {
                let (to, hello) = (greedy.to[index % greedy.to.len()], Arc::clone(&hello));
                clients.spawn(again(move |got| half(to, Arc::clone(&hello), got), got.clone()));
            }
        }
    }
    say(&Seen::default())?;
    let started = std::time::Instant::now();
    let mut nothing = Vec::new();
    tokio::io::stdin().read_to_end(&mut nothing).await.context("waiting for the end of standard input")?;
    let (units, seconds) = (got.0.load(Ordering::Relaxed), started.elapsed().as_secs_f64());
    say(&Seen { units, units_ever: units, seconds, ..Seen::default() })
}

/// Repeats an action, whatever its result.
async fn again<F: Future<Output = Result<()>>>(act: impl Fn(Got) -> F, got: Got) {
    loop {
        if act(got.clone()).await.is_err() {
            tokio::time::sleep(REST).await;
        }
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    Ok(tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await??)
}

async fn send(to: SocketAddr, got: Got) -> Result<()> {
    let mut stream = connect(to).await?;
    stream.write_all(&header(SINK, 0, 0)).await?;
    let chunk = vec![7; CHUNK];
    loop {
        stream.write_all(&chunk).await?;
        got.add(CHUNK as u64);
    }
}

async fn asked(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = connect(to).await?;
    stream.set_nodelay(true)?;
    let mut answer = [0; 64];
    let exchange = async {
        stream.write_all(&[&header(ANSWER, 64, 64)[..], &[7; 64]].concat()).await?;
        stream.read_exact(&mut answer).await
    };
    tokio::time::timeout(PATIENCE, exchange).await??;
    Ok(stream)
}

async fn ask_and_close(to: SocketAddr, got: Got) -> Result<()> {
    asked(to).await?;
    got.add(1);
    Ok(())
}

/// Keeps what it gets, and goes on asking for what it does not get.
async fn hold(to: SocketAddr, most: usize, got: Got) {
    let mut held = Vec::new();
    while held.len() < most {
        match asked(to).await {
            Ok(stream) => {
                held.push(stream);
                got.add(1);
            }
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
    std::future::pending().await
}

/// The first bytes of a handshake, and no more until the server gives up.
async fn begin_and_leave(to: SocketAddr) -> Result<()> {
    let mut stream = connect(to).await?;
    stream.write_all(&[22, 3, 1, 2, 0, 1, 0]).await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// A hello that costs nothing, since it is always the same; the server computes a key and signs; then nothing more.
async fn half(to: SocketAddr, hello: Arc<[u8]>, got: Got) -> Result<()> {
    let mut stream = connect(to).await?;
    stream.write_all(&hello).await?;
    let mut answer = [0; 512];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await??;
    anyhow::ensure!(read > 0, "refused");
    got.add(1);
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}

fn hello() -> Result<Vec<u8>> {
    let name = rustls_pki_types::ServerName::try_from("mesh.invalid")?;
    let mut session = rustls::ClientConnection::new(pki::tls_client(None, false, &["h2"])?, name)?;
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes)?;
    Ok(bytes)
}
