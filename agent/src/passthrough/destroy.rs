//! Destroys a TCP connection of a workload (sock_diag(7), `SOCK_DESTROY`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::sock_diag::{self, AF_INET, AF_INET6, Answer, Request};
use crate::capture::Netns;

/// linux/sock_diag.h.
const SOCK_DESTROY: u16 = 21;
/// linux/netlink.h.
const NLM_F_ACK: u16 = 4;
/// Every TCP state (linux/inet_diag.h, `idiag_states`).
const ALL_STATES: u32 = !0;
/// `INET_DIAG_NOCOOKIE`, both halves.
const NO_COOKIE: u32 = !0;

/// Resets the connection between `local`, an address in the namespace, and `remote`. It is no error if it has ended
/// already.
pub(crate) fn destroy(netns: &Netns, local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
    match request(netns, &one(local, remote, false)) {
        // A dual-stack server's socket has IPv4-mapped addresses.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) && local.is_ipv4() => {
            request(netns, &one(local, remote, true)).or_else(gone_is_fine)
        }
        result => result.or_else(gone_is_fine),
    }
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
}

fn request(netns: &Netns, request: &Request) -> io::Result<()> {
    let socket = sock_diag::ask(netns, request)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    match sock_diag::next(&mut &answer[..])? {
        Some(Answer::Acknowledged) => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no acknowledgement")),
    }
}

/// The request for the one socket between `local` and `remote`.
fn one(local: SocketAddr, remote: SocketAddr, mapped: bool) -> Request {
    let mut id = [0; 48];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    id[4..20].copy_from_slice(&words(local.ip(), mapped));
    id[20..36].copy_from_slice(&words(remote.ip(), mapped));
    // Of any interface: that word stays 0.
    id[40..44].copy_from_slice(&NO_COOKIE.to_ne_bytes());
    id[44..].copy_from_slice(&NO_COOKIE.to_ne_bytes());
    let family = if local.is_ipv6() || mapped { AF_INET6 } else { AF_INET };
    Request { message: (SOCK_DESTROY, NLM_F_ACK), family, states: ALL_STATES, id }
}

fn words(address: IpAddr, mapped: bool) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) if mapped => address.to_ipv6_mapped().octets(),
        IpAddr::V4(address) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&address.octets());
            out
        }
    }
}
