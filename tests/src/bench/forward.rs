//! A plain TCP forwarder: accepts what some capture brings, dials where it was going, copies. One thread.
//!
//! The capture bench compares captures, so the program behind them is the same for all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Port that the rules of `iptables` redirect to.
pub const PORT: u16 = 15001;
/// Mark by which the rules know the forwarder's own connections.
pub const MARK: u32 = 0x539;

/// What to forward.
#[derive(Clone, Debug, Args)]
pub struct Forward {
    /// Forward everything there; without it, to where the connection was going before it was redirected
    #[arg(long)]
    pub to: Option<SocketAddr>,
}

/// Listens and forwards until the process ends.
pub async fn run(options: &Forward) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).context("the forwarder's port")?;
    let listener = socket.listen(4096)?;
    super::serve::announce(listener.local_addr()?)?;
    let to = options.to;
    accept(listener, move |stream| to.map_or_else(|| original_destination(stream), Ok)).await
}

/// Accepts from one listener; `destination` says where each connection was going.
pub async fn accept(listener: TcpListener, destination: impl Fn(&TcpStream) -> io::Result<SocketAddr>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("accepting")?;
        let to = destination(&stream);
        tokio::spawn(async move {
            // Either side may go away at any time; that ends this connection.
            let _ended = carry(stream, to).await;
        });
    }
}

async fn carry(mut from: TcpStream, to: io::Result<SocketAddr>) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    setsockopt(&socket.as_fd(), sockopt::Mark, &MARK)?;
    let mut onwards = socket.connect(to?).await?;
    from.set_nodelay(true)?;
    onwards.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut from, &mut onwards, 64 * 1024, 64 * 1024).await?;
    Ok(())
}

/// Where a connection was going before a REDIRECT rule turned it here (`SO_ORIGINAL_DST`, netfilter).
fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let raw = getsockopt(&stream.as_fd(), sockopt::OriginalDst)?;
    let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
    Ok(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
}
