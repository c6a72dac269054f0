//! Destroys a TCP connection of a workload (sock_diag(7), `SOCK_DESTROY`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};

use crate::capture::Netns;

/// linux/sock_diag.h.
const SOCK_DESTROY: u16 = 21;
/// linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// netinet/in.h and sys/socket.h.
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Every TCP state (linux/inet_diag.h, `idiag_states`).
const ALL_STATES: u32 = !0;
/// `INET_DIAG_NOCOOKIE`, both halves.
const NO_COOKIE: u32 = !0;
/// struct nlmsghdr and struct inet_diag_req_v2.
const HEADER: usize = 16;
const LENGTH: usize = HEADER + 56;

/// Resets the connection between `local`, an address in the namespace, and `remote`. It is no error if it has ended
/// already.
pub(crate) fn destroy(netns: &Netns, local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
    match request(netns, &message(local, remote, false)) {
        // A dual-stack server's socket has IPv4-mapped addresses.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) && local.is_ipv4() => {
            request(netns, &message(local, remote, true)).or_else(gone_is_fine)
        }
        result => result.or_else(gone_is_fine),
    }
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
}

fn request(netns: &Netns, message: &[u8; LENGTH]) -> io::Result<()> {
    let socket = netns.run(|| Socket::new(NETLINK_SOCK_DIAG))??;
    socket.send_to(message, &NetlinkAddress::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, word(HEADER)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no acknowledgement")),
    }
}

/// The request, in native byte order except for ports and addresses.
fn message(local: SocketAddr, remote: SocketAddr, mapped: bool) -> [u8; LENGTH] {
    let mut out = Vec::with_capacity(LENGTH);
    out.extend(u32::try_from(LENGTH).unwrap_or(0).to_ne_bytes());
    out.extend(SOCK_DESTROY.to_ne_bytes());
    out.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    out.extend([0; 8]);
    out.extend([if local.is_ipv6() || mapped { AF_INET6 } else { AF_INET }, IPPROTO_TCP, 0, 0]);
    out.extend(ALL_STATES.to_ne_bytes());
    out.extend(local.port().to_be_bytes());
    out.extend(remote.port().to_be_bytes());
    out.extend(words(local.ip(), mapped));
    out.extend(words(remote.ip(), mapped));
    out.extend(0_u32.to_ne_bytes());
    out.extend(NO_COOKIE.to_ne_bytes());
    out.extend(NO_COOKIE.to_ne_bytes());
    let mut whole = [0; LENGTH];
    whole.copy_from_slice(&out);
    whole
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
