//! A plain TCP forwarder: accepts redirected connections, dials their original destination, copies. One thread.
//!
//! The capture bench compares captures, so the program behind them is the same for all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener as StdListener};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use agent::capture::{Capture, CaptureConfig, CapturedPod, Netns, PodSpec, upstream_socket};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use mesh::model::policy::{PlaintextRules, PlaintextVerdict};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::serve::announce;

/// Firewall mark of the forwarder's own connections, which the rules exempt.
pub const MARK: u32 = 0x539;

/// How connections arrive and where they are forwarded.
#[derive(Clone, Debug, Subcommand)]
pub enum Forward {
    /// Clients dial us, and all of it goes to one place
    Dialled { listen: SocketAddr, to: SocketAddr },
    /// Rules redirect here what was going elsewhere
    Redirected { listen: SocketAddr },
    /// Our hooks bring it
    Hooks(Hooks),
}

/// Parameters of our capture.
#[derive(Clone, Debug, Args)]
pub struct Hooks {
    /// Directory for pins
    #[arg(long)]
    pub bpf_root: PathBuf,
    /// Cgroup of the pods
    #[arg(long)]
    pub pods: PathBuf,
    /// Cgroup for the forwarder
    #[arg(long)]
    pub own: PathBuf,
    /// What counts as the mesh
    #[arg(long)]
    pub mesh: Vec<IpNet>,
    /// Pods to capture: namespace and address
    #[arg(long = "pod", value_parser = pod)]
    pub captured: Vec<(PathBuf, IpAddr)>,
}

fn pod(text: &str) -> Result<(PathBuf, IpAddr), String> {
    let (netns, address) = text.rsplit_once(',').ok_or("NETNS,ADDRESS")?;
    Ok((netns.into(), address.parse().map_err(|error| format!("{address}: {error}"))?))
}

/// Listens and forwards until the process ends.
pub async fn run(how: &Forward) -> Result<()> {
    match how {
        Forward::Dialled { listen, to } => {
            let to = *to;
            accept(listener(*listen)?, move |_| Ok(to), dial).await
        }
        Forward::Redirected { listen } => accept(listener(*listen)?, original_destination, dial).await,
        Forward::Hooks(hooks) => captured(hooks).await,
    }
}

fn listener(at: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(at).with_context(|| format!("binding {at}"))?;
    let listener = socket.listen(4096)?;
    announce(at)?;
    Ok(listener)
}

/// Captures the pods and forwards what leaves them; plaintext to them passes in the kernel.
async fn captured(hooks: &Hooks) -> Result<()> {
    let capture = Capture::open(CaptureConfig {
        bpf_root: hooks.bpf_root.clone(),
        attach_cgroup: Some(hooks.pods.clone()),
        agent_cgroup: Some(hooks.own.clone()),
        ..CaptureConfig::new("bench")
    })?;
    capture.replace_mesh(&hooks.mesh)?;
    let mut tasks = tokio::task::JoinSet::new();
    for (netns, address) in &hooks.captured {
        let pod =
            capture.enroll(&PodSpec { owner: address.to_string(), netns: netns.clone(), addresses: vec![*address] })?;
        capture.set_plaintext(pod.id, &PlaintextRules { default: PlaintextVerdict::Pass, ports: Box::default() })?;
        let CapturedPod { netns, outbound, .. } = pod;
        for listener in outbound {
            tasks.spawn(outbound_of(netns.clone(), listener));
        }
    }
    announce(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn outbound_of(netns: Arc<Netns>, listener: StdListener) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    // The accepted socket has the address that the pod called.
    accept(listener, TcpStream::local_addr, move |to| {
        let socket = upstream_socket(&netns, to)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    })
    .await
}

/// Accepts from one listener; `destination` returns the original destination, `dial` the socket to connect.
async fn accept(
    listener: TcpListener,
    destination: impl Fn(&TcpStream) -> io::Result<SocketAddr>,
    dial: impl Fn(SocketAddr) -> io::Result<TcpSocket>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("accepting")?;
        let onwards = destination(&stream).and_then(|to| Ok((dial(to)?, to)));
        tokio::spawn(async move {
            // Either side may go away at any time; that ends this connection and no other.
            let _ended = carry(stream, onwards).await;
        });
    }
}

async fn carry(mut from: TcpStream, onwards: io::Result<(TcpSocket, SocketAddr)>) -> io::Result<()> {
    let (socket, to) = onwards?;
    let mut onwards = socket.connect(to).await?;
    from.set_nodelay(true)?;
    onwards.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut from, &mut onwards, 64 * 1024, 64 * 1024).await?;
    Ok(())
}

fn dial(_: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    setsockopt(&socket.as_fd(), sockopt::Mark, &MARK)?;
    Ok(socket)
}

/// The original destination of a connection that a REDIRECT rule changed (`SO_ORIGINAL_DST`, netfilter).
fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let raw = getsockopt(&stream.as_fd(), sockopt::OriginalDst)?;
    let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
    Ok(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
}
