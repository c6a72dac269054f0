//! Both sides of a waypoint: clients that call through HBONE tunnels, and endpoints that terminate them and respond.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use mesh::model::identity::Identity;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use transport::ca::{EmbeddedCa, LEAF_LIFETIME};
use transport::hbone::{
    Authority, ConnectHead, Dial, DialFuture, Pool, PoolOptions, Settings, Stream, TunnelKey, accept,
};
use transport::keyring::{Keyring, Options};
use transport::tls::ServerConfig;

use crate::http::{Asking, serve};
use crate::load::{Seen, Timing, drive};
use crate::pods::{read, socket_in};
use crate::serve::announce;

/// Who the clients, the proxies and the endpoints are: service accounts of namespace `bench`.
pub const CLIENT: &str = "client";
pub const WAYPOINT: &str = "waypoint";
pub const ENDPOINT: &str = "shop";
/// The header by which a changed route is seen.
pub const VERSION: &str = "x-version";

/// Clients of a proxy.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Where HBONE is served
    #[arg(long)]
    pub to: SocketAddr,
    /// Service account of whoever serves it
    #[arg(long, default_value = WAYPOINT)]
    pub server: String,
    /// What the tunnels are asked for
    #[arg(long)]
    pub authority: SocketAddr,
    /// Host of the requests
    #[arg(long)]
    pub host: String,
    /// Directory of the CA
    #[arg(long)]
    pub ca_dir: PathBuf,
    /// HTTP connections, each a stream of a tunnel
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Tunnels, each a TLS connection
    #[arg(long, default_value_t = 4)]
    pub tunnels: usize,
    /// Requests per second of all together; 0: as fast as answers come
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Seconds that are measured; 0: one request on each connection
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.3)]
    pub warm_up: f64,
    /// Instead of all that: ask on one connection all the time and print each change of the header `x-version`
    #[arg(long)]
    pub watch: bool,
}

/// A change that a client saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The header's new value; empty: none.
    pub version: String,
    /// The monotonic clock then.
    pub at_ns: u64,
}

/// The machine's monotonic clock, the same for all processes, in nanoseconds.
pub fn clock() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the clock")?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "bench", account)
}

fn keyring(ca_dir: &Path, account: &str) -> Result<Arc<Keyring>> {
    let ca = EmbeddedCa::open(ca_dir, &"cluster.local".into(), LEAF_LIFETIME)?;
    let keyring = Keyring::new(Arc::new(ca), Options::default());
    keyring.want(identity(account));
    Ok(keyring)
}

/// Terminates tunnels in each pod of a plan and serves HTTP in them, until the process ends.
pub async fn listen(plan: &Path, ca_dir: &Path) -> Result<()> {
    let keyring = keyring(ca_dir, ENDPOINT)?;
    let config = keyring.server_config(&identity(ENDPOINT)).await?;
    let members = read(plan)?;
    let mut acceptors = JoinSet::new();
    for member in &members {
        let socket = socket_in(&member.netns)?;
        socket.set_reuseaddr(true)?;
        socket.bind(member.at).with_context(|| format!("listening at {}", member.at))?;
        acceptors.spawn(accept_all(socket.listen(1024)?, config.clone()));
    }
    announce(members.first().context("a plan without pods")?.at)?;
    while acceptors.join_next().await.is_some() {}
    Ok(())
}

async fn accept_all(listener: TcpListener, config: Arc<ServerConfig>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(Box::pin(end_tunnel(stream, config.clone())));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn end_tunnel(stream: TcpStream, config: Arc<ServerConfig>) {
    let _nagle = stream.set_nodelay(true);
    let Ok(mut tunnel) = accept(stream, &config, &Settings::default()).await else { return };
    while let Some(request) = tunnel.next().await {
        if let Ok(stream) = request.accept(None) {
            tokio::spawn(async move {
                // A client that goes away is the end of its connection and of nothing else.
                let _gone = serve(stream).await;
            });
        }
    }
}

struct Direct;

impl Dial for Direct {
    fn dial<'a>(&'a self, key: &'a TunnelKey) -> DialFuture<'a> {
        Box::pin(async move {
            let tcp = TcpStream::connect(key.destination).await?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        })
    }
}

/// Runs the clients and reports what all saw together, or watches for changes until the process ends.
pub async fn load(load: &Load) -> Result<Seen> {
    let count = if load.watch { 1 } else { load.connections };
    let mut clients = connect(load, count).await?;
    if load.watch {
        let only = clients.pop().context("no connection")?;
        return watch(only).await;
    }
    if load.seconds <= 0.0 {
        return Ok(Seen { units: count as u64, units_ever: count as u64, ..Seen::default() });
    }
    drive(clients, Timing { rate: load.rate, warm_up: load.warm_up, seconds: load.seconds }).await
}

/// Opens the connections, and asks on each once.
async fn connect(load: &Load, count: usize) -> Result<Vec<Asking<Stream>>> {
    let keyring = keyring(&load.ca_dir, CLIENT)?;
    let options = PoolOptions { spread: load.tunnels, busy: 1, ..PoolOptions::default() };
    let pool = Pool::new(keyring, Arc::new(Direct), options);
    let key = TunnelKey {
        workload: "Kubernetes//Pod/bench/client".into(),
        source: identity(CLIENT),
        destination: load.to,
        expected: Arc::new([identity(&load.server)]),
    };
    let head = ConnectHead::new(Authority::Address(load.authority));
    let mut clients = Vec::new();
    for _ in 0..count {
        let opened = pool.connect(&key, &head).await.with_context(|| format!("a tunnel to {}", load.to))?;
        let mut asking = Asking::new(opened.stream, &load.host, "/");
        asking.ask().await.context("the first request")?;
        clients.push(asking);
    }
    Ok(clients)
}

async fn watch(mut asking: Asking<Stream>) -> Result<Seen> {
    let mut last = None;
    loop {
        let head = asking.ask().await.context("while routes changed")?;
        let version = header(&head, VERSION).unwrap_or_default().to_owned();
        if last.as_ref() != Some(&version) {
            crate::load::say(&Change { version: version.clone(), at_ns: clock()? })?;
            last = Some(version);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}
