//! The client of the benches: throughput, request and response, connect and close, many idle connections.
//!
//! Every loop is closed: the next request is sent when the previous response has arrived. One thread, so that on a
//! small machine the load takes one core and leaves the rest to what is measured.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::http::{Asking, Pace};
use crate::meter::own_cpu;
use crate::serve::{ANSWER, HEADER, SINK};
use crate::stats::{QUANTILES, percentile};

/// Bytes of a request and of its answer.
const REQUEST: usize = 128;
const ANSWER_BYTES: u32 = 1024;
/// Bytes per write of a bulk stream.
const CHUNK: usize = 256 * 1024;
/// How long one connection may take to be set up, and one answer to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Where the bench server is
    #[arg(long)]
    pub to: SocketAddr,
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// Streams, connections in flight, or idle connections
    #[arg(long, default_value_t = 1)]
    pub count: usize,
    /// Seconds that are measured; idle connections are held until standard input ends
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.3)]
    pub warm_up: f64,
}

/// Kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Bytes as fast as they go, client to server
    Bulk,
    /// A request and its answer, again and again on kept connections
    Requests,
    /// Connect, one request, its answer, close
    Connections,
    /// One request on each connection, then nothing
    Idle,
}

/// The results. Printed as one line of JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Bytes that the server acknowledged, or requests, or connections, while it was measured.
    pub units: u64,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Units of the whole life of the process, warm-up included: what its and the proxies' CPU time was spent on.
    pub units_ever: u64,
    /// Median time of one request, or of one connection with its request, in nanoseconds.
    pub p50_ns: u64,
    /// Its 99th percentile.
    pub p99_ns: u64,
    /// Its distribution: nanoseconds at each of [`QUANTILES`].
    #[serde(default)]
    pub quantiles: Vec<u64>,
    /// CPU time of this process in nanoseconds, user and system.
    pub cpu_ns: u64,
}

/// Runs the load and reports. Any error ends it: a figure with failures in it is worthless.
pub async fn run(load: &Load) -> Result<Seen> {
    // The path to the server, tunnels included, exists before any clock starts.
    let mut first = Connection::open(load.to).await.context("the first connection")?;
    first.ask().await.context("the first request")?;
    let mut seen = match load.kind {
        Kind::Bulk => bulk(load).await?,
        Kind::Requests | Kind::Connections => closed_loop(load).await?,
        Kind::Idle => return idle(load).await,
    };
    seen.cpu_ns = own_cpu()?;
    Ok(seen)
}

/// One connection that asks and is answered.
pub struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    /// The request, with the header in front until it was sent once.
    request: Vec<u8>,
}

impl Connection {
    async fn open(to: SocketAddr) -> io::Result<Self> {
        Self::over(within(TcpStream::connect(to)).await?)
    }

    /// Over a stream that is open.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let mut request = header(ANSWER, REQUEST as u32, ANSWER_BYTES).to_vec();
        request.resize(HEADER + REQUEST, 7);
        Ok(Self { stream, answer: vec![0; ANSWER_BYTES as usize], request })
    }

    /// Asks and waits for the answer.
    pub async fn ask(&mut self) -> io::Result<()> {
        within(async {
            self.stream.write_all(&self.request).await?;
            self.stream.read_exact(&mut self.answer).await
        })
        .await?;
        self.request.truncate(REQUEST);
        Ok(())
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))
}

/// What a connection begins with: mode, size of a request, size of an answer.
pub fn header(mode: u32, request: u32, answer: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    for (place, value) in bytes.chunks_exact_mut(4).zip([mode, request, answer]) {
        place.copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Streams that send for the given time; the time ends when the server has acknowledged all of it.
async fn bulk(load: &Load) -> Result<Seen> {
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(load.seconds);
    let mut streams = JoinSet::new();
    for _ in 0..load.count {
        streams.spawn(send_until(load.to, end));
    }
    let mut units = 0;
    while let Some(sent) = streams.join_next().await {
        units += sent.context("a stream")??;
    }
    Ok(Seen { units, units_ever: units, seconds: started.elapsed().as_secs_f64(), ..Seen::default() })
}

async fn send_until(to: SocketAddr, end: Instant) -> Result<u64> {
    let mut stream = within(TcpStream::connect(to)).await.context("connecting a stream")?;
    stream.set_nodelay(true)?;
    stream.write_all(&header(SINK, 0, 0)).await?;
    let chunk = vec![7; CHUNK];
    let mut sent = 0;
    while Instant::now() < end {
        within(stream.write_all(&chunk)).await.context("sending")?;
        sent += CHUNK as u64;
    }
    stream.shutdown().await?;
    let received = within(stream.read_u64()).await.context("waiting for the server's count")?;
    ensure!(received == sent, "{sent} bytes were sent and {received} arrived");
    Ok(sent)
}

/// Clients that ask again when answered, on one connection or on a new one each time.
async fn closed_loop(load: &Load) -> Result<Seen> {
    let begin = Instant::now() + Duration::from_secs_f64(load.warm_up);
    let end = begin + Duration::from_secs_f64(load.seconds);
    let ever = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..load.count {
        clients.spawn(client(load.to, load.kind, begin, end, ever.clone()));
    }
    let mut times = Vec::new();
    while let Some(own) = clients.join_next().await {
        times.extend(own.context("a client")??);
    }
    Ok(Seen { units_ever: ever.load(Ordering::Relaxed), seconds: load.seconds, ..Seen::of(times) })
}

/// When many clients ask over HTTP, all together.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Requests per second, each client in its turn; 0: as fast as answers come.
    pub rate: f64,
    /// Seconds before what is measured.
    pub warm_up: f64,
    /// Seconds that are measured.
    pub seconds: f64,
}

/// Lets every client ask, and says what all saw together. Any error ends it.
pub async fn drive<S>(clients: Vec<Asking<S>>, timing: Timing) -> Result<Seen>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (count, now) = (clients.len(), Instant::now());
    let begin = now + Duration::from_secs_f64(timing.warm_up);
    let end = begin + Duration::from_secs_f64(timing.seconds);
    // Each client in its turn, evenly over the time.
    let every = (timing.rate > 0.0).then(|| Duration::from_secs_f64(count as f64 / timing.rate));
    let mut running = JoinSet::new();
    for (index, mut asking) in clients.into_iter().enumerate() {
        let first = now + every.unwrap_or_default().mul_f64(index as f64 / count as f64);
        let pace = Pace { first, every, begin, end };
        running.spawn(async move { pace.run(&mut asking).await });
    }
    let (mut times, mut ever) = (Vec::new(), count as u64);
    while let Some(done) = running.join_next().await {
        let (own, asked) = done.context("a client")??;
        times.extend(own);
        ever += asked;
    }
    Ok(Seen { units_ever: ever, seconds: timing.seconds, cpu_ns: own_cpu()?, ..Seen::of(times) })
}

impl Seen {
    /// What the times of all requests, in nanoseconds, say; without how long it took and what it cost.
    pub fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        Self {
            units: times.len() as u64,
            p50_ns: percentile(&times, 0.5),
            p99_ns: percentile(&times, 0.99),
            quantiles: QUANTILES.iter().map(|quantile| percentile(&times, *quantile)).collect(),
            ..Self::default()
        }
    }
}

/// Nanoseconds of each exchange that began in the measured time.
async fn client(to: SocketAddr, kind: Kind, begin: Instant, end: Instant, ever: Arc<AtomicU64>) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    let mut kept = None;
    loop {
        let started = Instant::now();
        if started >= end {
            return Ok(times);
        }
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(to).await.context("connecting")?,
        };
        connection.ask().await.context("asking")?;
        if kind == Kind::Requests {
            kept = Some(connection);
        } else {
            drop(connection);
        }
        ever.fetch_add(1, Ordering::Relaxed);
        if started >= begin {
            times.push(started.elapsed().as_nanos() as u64);
        }
    }
}

/// Opens connections, says so, and keeps them until standard input ends.
async fn idle(load: &Load) -> Result<Seen> {
    let started = Instant::now();
    let mut open = Vec::with_capacity(load.count);
    while open.len() < load.count {
        let mut opening = JoinSet::new();
        for _ in 0..64.min(load.count - open.len()) {
            let to = load.to;
            opening.spawn(async move {
                let mut connection = Connection::open(to).await.context("connecting")?;
                connection.ask().await.context("asking")?;
                anyhow::Ok(connection)
            });
        }
        while let Some(connection) = opening.join_next().await {
            open.push(connection.context("a connection")??);
        }
    }
    let units = open.len() as u64;
    let seen = Seen { units, units_ever: units, seconds: started.elapsed().as_secs_f64(), ..Seen::default() };
    say(&seen)?;
    let mut nothing = Vec::new();
    tokio::io::stdin().read_to_end(&mut nothing).await.context("waiting for the end of standard input")?;
    for connection in &mut open {
        connection.ask().await.context("an idle connection no longer answers")?;
    }
    Ok(seen)
}

/// Prints a result as one line.
pub fn say(seen: &impl Serialize) -> Result<()> {
    use std::io::Write as _;
    let mut line = serde_json::to_vec(seen)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}
