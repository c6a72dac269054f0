//! The agent's sockets in a pod: to the network as the pod, and to the application as the client.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use agent_abi::{Kind, LOOPBACK_INDEX, MARK};
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::Netns;
use super::option;

/// Source ports of connections to the application from the client's address. Clients choose theirs from 32768 on (the
/// default of net.ipv4.ip_local_port_range), and both ends meet in one namespace: with the same port they would be the
/// same connection. IP_LOCAL_PORT_RANGE cannot express this: the kernel accepts only what is within the range of the
/// namespace.
const TO_APPLICATION: RangeInclusive<u16> = 10_000..=32_767;
/// Ports of listeners: above the default range of `connect`, so that a server that starts later does not find its port
/// taken.
const LISTENER_PORTS: RangeInclusive<u16> = 61_000..=65_535;
/// Ports tried.
const ATTEMPTS: usize = 16;
/// Listen backlog; net.core.somaxconn caps it.
const BACKLOG: i32 = 4096;

fn new(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
}

/// An unconnected socket for `dst` in the pod's namespace: its packets leave as the pod's own.
///
/// It is bound to the interface that leads out. The application's socket, which has the same addresses, is bound to
/// `lo`; if ours were unbound, the kernel could give it the same port (`inet_match` compares interfaces) and then
/// deliver the other socket's packets to it. Where several interfaces lead out, routes decide and a clash is left to
/// chance: its price is a retransmitted SYN.
pub fn upstream_socket(netns: &Netns, dst: SocketAddr) -> io::Result<Socket> {
    let socket = netns.run(|| new(dst.is_ipv6()))??;
    if let Some(index) = netns.way_to(dst.ip().to_canonical()) {
        // Fails if the interface has just disappeared; then routes decide.
        let _gone = option::bind_to_interface(&socket, index);
    }
    Ok(socket)
}

/// An unconnected socket for the pod's application, bound to the client's address. If the client is the pod itself
/// (`pod_addresses`), or of another address family than `dst`, it is an ordinary socket.
///
/// Its packets carry the mark and leave on `lo`, so that the responses, which are addressed to the client, come back to
/// us.
pub fn app_socket(netns: &Netns, client: IpAddr, dst: SocketAddr, pod_addresses: &[IpAddr]) -> io::Result<Socket> {
    let client = client.to_canonical();
    let spoofed = client.is_ipv6() == dst.is_ipv6()
        && !client.is_loopback()
        && !client.is_unspecified()
        && !pod_addresses.contains(&client);
    netns.run(|| {
        let socket = new(dst.is_ipv6())?;
        if !spoofed {
            return Ok(socket);
        }
        socket.set_mark(MARK)?;
        // By index, not by name: a pod can rename interfaces.
        option::bind_to_interface(&socket, LOOPBACK_INDEX)?;
        option::set_transparent(&socket, dst.is_ipv6())?;
        option::set_bind_address_no_port(&socket)?;
        bind_to_any(&socket, client, TO_APPLICATION)?;
        Ok(socket)
    })?
}

/// A listener of the agent, on a loopback address of the thread's current namespace.
pub(super) fn listener(kind: Kind, v6: bool) -> io::Result<TcpListener> {
    let address: IpAddr = if v6 { std::net::Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() };
    let socket = new(v6)?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    option::set_transparent(&socket, v6)?;
    if kind == Kind::Outbound {
        option::bind_to_interface(&socket, LOOPBACK_INDEX)?;
    }
    bind_to_any(&socket, address, LISTENER_PORTS)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds to a random free port of the range, or to any port after a few attempts.
fn bind_to_any(socket: &Socket, address: IpAddr, ports: RangeInclusive<u16>) -> io::Result<()> {
    let chosen = std::iter::repeat_with(|| fastrand::u16(ports.clone())).take(ATTEMPTS);
    let mut last = io::ErrorKind::AddrInUse.into();
    for port in chosen.chain([0]) {
        match socket.bind(&SocketAddr::new(address, port).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            done => return done,
        }
    }
    Err(last)
}
