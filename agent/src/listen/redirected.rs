//! `--capture none`: listeners on ztunnel's fixed ports, for traffic that something else redirects to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use mesh::model::waypoint::HBONE_PORT;
use socket2::{Domain, Protocol, Socket, Type};

use crate::capture::{Kind, Listener, Netns};
use crate::listen::listeners::{Listeners, Original};

const OUTBOUND: u16 = 15001;
const PLAINTEXT: u16 = 15006;

/// Ids of captures that no kernel map knows.
#[derive(Default)]
pub(crate) struct Ids(AtomicU32);

impl Ids {
    /// The next id, starting at 1.
    pub(crate) fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Listens in a network namespace on the fixed ports, in both address families where it has both.
pub(crate) fn listen(path: &Path) -> Result<(Arc<Netns>, Listeners)> {
    let opening = || format!("opening {}", path.display());
    let netns = Netns::open(path).with_context(opening)?;
    ensure!(!netns.is_of_the_node().with_context(opening)?, "{} is the node's own network namespace", path.display());
    let listeners = netns.run(|| -> Result<Listeners> {
        let kinds = [Kind::Outbound, Kind::Plaintext, Kind::Hbone];
        let [outbound, plaintext, hbone] = kinds.map(|kind| both(port(kind)).map(|made| (kind, made)));
        Ok(Listeners::new(Original::Redirected, [outbound?, plaintext?, hbone?]))
    })??;
    Ok((Arc::new(netns), listeners))
}

/// Recreates one of the listeners.
pub(crate) fn listen_again(netns: &Netns, which: Listener) -> Result<TcpListener> {
    let any: IpAddr = if which.v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let port = port(which.kind);
    netns.run(|| on((any, port).into()))?.with_context(|| format!("listening on port {port}"))
}

fn port(kind: Kind) -> u16 {
    match kind {
        Kind::Outbound => OUTBOUND,
        Kind::Plaintext => PLAINTEXT,
        Kind::Hbone => HBONE_PORT,
    }
}

fn both(port: u16) -> Result<Vec<TcpListener>> {
    let v4 = on((Ipv4Addr::UNSPECIFIED, port).into()).with_context(|| format!("listening on port {port}"))?;
    // The namespace may lack IPv6.
    let v6 = on((Ipv6Addr::UNSPECIFIED, port).into()).ok();
    Ok([Some(v4), v6].into_iter().flatten().collect())
}

fn on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A new agent listens beside the draining one, like ztunnel.
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
