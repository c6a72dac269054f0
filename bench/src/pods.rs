//! Many pods in one process: a server in each, or a client in each, so that the ends of many ways cost little memory.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::http::{Asking, serve};
use crate::load::{Seen, Timing, drive};
use crate::serve::announce;

/// One pod of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Where its server listens, or what its client dials.
    pub at: SocketAddr,
    /// What its client asks for.
    pub host: String,
}

/// A client in each pod.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// JSON: the pods, what they dial and ask for
    #[arg(long)]
    pub plan: PathBuf,
    /// Requests per second of all together; 0: as fast as answers come
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Seconds that are measured; 0: one request each
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.3)]
    pub warm_up: f64,
}

/// Listens in each pod of a plan and answers HTTP until the process ends.
pub async fn listen(plan: &Path) -> Result<()> {
    listen_with(plan, accept).await
}

/// Listens in each pod of a plan and serves as the bench server does until the process ends.
pub async fn listen_plain(plan: &Path) -> Result<()> {
    listen_with(plan, crate::serve::accept).await
}

async fn listen_with<F>(plan: &Path, accept: impl Fn(TcpListener) -> F) -> Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let members = read(plan)?;
    let mut acceptors = JoinSet::new();
    for member in &members {
        let socket = socket_in(&member.netns)?;
        socket.set_reuseaddr(true)?;
        socket.bind(member.at).with_context(|| format!("listening at {}", member.at))?;
        acceptors.spawn(accept(socket.listen(1024)?));
    }
    announce(members.first().context("a plan without pods")?.at)?;
    while acceptors.join_next().await.is_some() {}
    Ok(())
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _nagle = stream.set_nodelay(true);
                tokio::spawn(async move {
                    // A client that goes away is the end of its connection and of nothing else.
                    let _gone = serve(stream).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Runs a client in each pod and reports what all saw together. Any error ends it.
pub async fn load(load: &Load) -> Result<Seen> {
    let members = read(&load.plan)?;
    let mut clients = Vec::new();
    for member in &members {
        let stream = connect(member).await.with_context(|| format!("connecting to {}", member.at))?;
        let mut asking = Asking::new(stream, &member.host, "/");
        asking.ask().await.with_context(|| format!("the first request to {} at {}", member.host, member.at))?;
        clients.push(asking);
    }
    let count = clients.len();
    if load.seconds <= 0.0 {
        return Ok(Seen { units: count as u64, units_ever: count as u64, ..Seen::default() });
    }
    drive(clients, Timing { rate: load.rate, warm_up: load.warm_up, seconds: load.seconds }).await
}

async fn connect(member: &Member) -> Result<TcpStream> {
    let socket = socket_in(&member.netns)?;
    let stream = tokio::time::timeout(Duration::from_secs(10), socket.connect(member.at)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket of another network namespace. The role has one thread, so nothing else runs while it is there.
pub fn socket_in(netns: &Path) -> Result<TcpSocket> {
    let own = File::open("/proc/thread-self/ns/net").context("own network namespace")?;
    let other = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    setns(&other, CloneFlags::CLONE_NEWNET).context("entering a pod's namespace")?;
    let socket = TcpSocket::new_v4();
    setns(&own, CloneFlags::CLONE_NEWNET).context("returning from a pod's namespace")?;
    Ok(socket?)
}

/// The pods of a plan.
pub fn read(plan: &Path) -> Result<Vec<Member>> {
    let text = std::fs::read(plan).with_context(|| format!("reading {}", plan.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a plan", plan.display()))
}
