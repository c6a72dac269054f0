//! Sockets with the options that applications in the wild set, and the standard output both sides report on.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// How a client opens its socket.
#[derive(Args, Clone, Debug, Default)]
pub struct SocketOptions {
    /// Bind to this address first.
    #[arg(long)]
    pub bind: Option<SocketAddr>,
    /// SO_BINDTODEVICE.
    #[arg(long)]
    pub device: Option<String>,
    /// SO_MARK.
    #[arg(long)]
    pub mark: Option<u32>,
    /// Use an IPv6 socket and an IPv4-mapped address, as Java does.
    #[arg(long)]
    pub mapped: bool,
    /// Use multipath TCP.
    #[arg(long)]
    pub mptcp: bool,
    /// Connect without blocking, then wait, as event loops do.
    #[arg(long)]
    pub nonblocking: bool,
    /// Give up after this many seconds of silence.
    #[arg(long, default_value_t = 20)]
    pub timeout: u64,
}

/// Connects as told.
pub fn connect(target: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    let target = match target.ip() {
        IpAddr::V4(ip) if options.mapped => SocketAddr::new(ip.to_ipv6_mapped().into(), target.port()),
        _ => target,
    };
    let protocol = if options.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(protocol))?;
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(address) = options.bind {
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
    }
    let patience = Duration::from_secs(options.timeout);
    if options.nonblocking {
        socket.connect_timeout(&target.into(), patience)?;
    } else {
        // SO_SNDTIMEO also bounds a blocking connect.
        socket.set_write_timeout(Some(patience))?;
        socket.connect(&target.into())?;
    }
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// One listener per family, so that each sees its own kind of address.
pub fn listen(port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let any: [IpAddr; 2] = [[0, 0, 0, 0].into(), Ipv6Addr::UNSPECIFIED.into()];
    for ip in any {
        let address = SocketAddr::new(ip, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// One UDP socket per family.
pub fn bind_udp(port: u16) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    for ip in [IpAddr::from([0, 0, 0, 0]), Ipv6Addr::UNSPECIFIED.into()] {
        let address = SocketAddr::new(ip, port);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// An IPv4-mapped address as the IPv4 address it stands for.
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Prints one line of JSON; ignores a reader that is gone.
pub fn say(line: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(line) {
        let mut out = io::stdout().lock();
        let _gone = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}
