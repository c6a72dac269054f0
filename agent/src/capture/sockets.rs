//! The agent's own sockets in a pod: to the network as the pod, and to the application as the client.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use agent_abi::{Kind, MARK};
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::Netns;
use super::option;

/// Ports for connections to the application under the client's address. Clients choose theirs from 32768 on (the default of
/// net.ipv4.ip_local_port_range), and both ends meet in one namespace: the same port would be the same connection.
const TO_APPLICATION: (u16, u16) = (10_000, 32_767);
/// Where the ports of listeners are chosen: above what `connect` takes by default, so that a server which starts later does not find
/// its port taken.
const LISTENER_PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;
/// How many of them are tried.
const ATTEMPTS: usize = 16;
/// Connections that may wait for accept; net.core.somaxconn caps it.
const BACKLOG: i32 = 4096;

fn new(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
}

/// A socket to `dst` in the pod's namespace, not connected yet: its packets leave as the pod's own.
pub fn upstream_socket(netns: &Netns, dst: SocketAddr) -> io::Result<Socket> {
    netns.run(|| new(dst.is_ipv6()))?
}

/// A socket to the pod's application, not connected yet, under the address of the client. When the client is the pod itself
/// (`pod_addresses`), or of another address family than `dst`, it is an ordinary socket.
///
/// Its packets carry the mark and leave on `lo`, so that the answers, which are addressed to the client, come back to us.
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
        socket.bind_device(Some(b"lo"))?;
        option::set_transparent(&socket, dst.is_ipv6())?;
        option::set_bind_address_no_port(&socket)?;
        // Before Linux 6.3 the kernel chooses from the clients' range; a collision then costs one connection.
        let _ = option::set_local_port_range(&socket, TO_APPLICATION.0, TO_APPLICATION.1);
        socket.bind(&SocketAddr::new(client, 0).into())?;
        Ok(socket)
    })?
}

/// A listener of the agent, on a loopback address of the namespace the thread is in.
pub(super) fn listener(kind: Kind, v6: bool) -> io::Result<TcpListener> {
    let address: IpAddr = if v6 { std::net::Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() };
    let chosen = std::iter::repeat_with(|| fastrand::u16(LISTENER_PORTS)).take(ATTEMPTS);
    let mut last = io::ErrorKind::AddrInUse.into();
    for port in chosen.chain([0]) {
        let socket = new(v6)?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        option::set_transparent(&socket, v6)?;
        if kind == Kind::Outbound {
            socket.bind_device(Some(b"lo"))?;
        }
        match socket.bind(&SocketAddr::new(address, port).into()).and_then(|()| socket.listen(BACKLOG)) {
            Ok(()) => return Ok(socket.into()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
