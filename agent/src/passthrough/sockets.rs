//! The TCP sockets of a network namespace, as the kernel lists them (sock_diag(7)).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use agent_abi::MARK;
use netlink_sys::Socket;

use super::sock_diag::{self, AF_INET, AF_INET6, Answer, Request, u16_at, u32_at};
use crate::capture::Netns;

/// linux/sock_diag.h and linux/netlink.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_DUMP: u16 = 0x300;
/// TCP states as bits: ESTABLISHED and CLOSE_WAIT, FIN_WAIT1 and FIN_WAIT2 hold a connection; LISTEN does not.
const LISTEN: u8 = 10;
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << LISTEN;
/// `INET_DIAG_MARK`: the attribute that tells the mark.
const ATTRIBUTE_MARK: u16 = 15;
/// struct inet_diag_msg.
const MESSAGE: usize = 72;
/// Sockets that are read of one namespace, and how long the kernel may take: how many there are is its pod's choice.
const MOST: usize = 65_536;
const PATIENCE: Duration = Duration::from_secs(2);

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    listens: bool,
    local: SocketAddr,
    remote: SocketAddr,
    mark: u32,
}

/// The connections that applications in the namespace have accepted from elsewhere, as (remote, local) each. Those that
/// the agent has brought to them are not among them: their sockets carry its mark.
///
/// # Errors
/// The kernel does not list them, or not in time.
pub(crate) fn accepted(netns: &Netns) -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        list(&sock_diag::ask(netns, &all_of(family))?, &mut all)?;
    }
    Ok(inbound(&all))
}

/// A connection whose local port somebody listens on was accepted there.
fn inbound(all: &[Found]) -> Vec<(SocketAddr, SocketAddr)> {
    let ports: HashSet<u16> = all.iter().filter(|one| one.listens).map(|one| one.local.port()).collect();
    let accepted = all.iter().filter(|one| !one.listens && one.mark != MARK && ports.contains(&one.local.port()));
    accepted.map(|one| (one.remote, one.local)).collect()
}

/// Every socket of a family that holds a connection, or listens.
fn all_of(family: u8) -> Request {
    Request { message: (SOCK_DIAG_BY_FAMILY, NLM_F_DUMP), family, states: STATES, id: [0; 48] }
}

fn list(socket: &Socket, all: &mut Vec<Found>) -> io::Result<()> {
    socket2::SockRef::from(socket).set_read_timeout(Some(PATIENCE))?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    while all.len() < MOST {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        if !read(&buffer, all)? {
            break;
        }
    }
    Ok(())
}

/// Takes sockets out of what the kernel has sent. Returns whether there is more to come.
fn read(mut bytes: &[u8], all: &mut Vec<Found>) -> io::Result<bool> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off");
    while let Some(answer) = sock_diag::next(&mut bytes)? {
        match answer {
            Answer::Done => return Ok(false),
            Answer::Message(SOCK_DIAG_BY_FAMILY, message) => all.push(socket(message).ok_or_else(broken)?),
            Answer::Message(..) | Answer::Acknowledged => {}
        }
    }
    Ok(true)
}

fn socket(message: &[u8]) -> Option<Found> {
    let (family, state) = (*message.first()?, *message.get(1)?);
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
        let v4 = Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]);
        Some(if family == AF_INET { v4.into() } else { IpAddr::from(Ipv6Addr::from(bytes)).to_canonical() })
    };
    let local = SocketAddr::new(address(8)?, port(4)?);
    let remote = SocketAddr::new(address(24)?, port(6)?);
    Some(Found { listens: state == LISTEN, local, remote, mark: mark(message.get(MESSAGE..)?) })
}

/// The mark among a socket's attributes.
fn mark(mut attributes: &[u8]) -> u32 {
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        if kind == ATTRIBUTE_MARK {
            return u32_at(attributes, 4).unwrap_or(0);
        }
        let next = usize::from(length).max(4).next_multiple_of(4);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_what_was_accepted_here_and_not_what_was_dialled() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _server = listener.accept().unwrap();
        let (near, far) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        let mut all = Vec::new();
        let socket = Socket::new(netlink_sys::protocols::NETLINK_SOCK_DIAG).unwrap();
        list(&sock_diag::send(socket, &all_of(AF_INET)).unwrap(), &mut all).unwrap();
        let found = inbound(&all);
        assert!(found.contains(&(near, far)), "{near} -> {far} is not among {found:?}");
        assert!(!found.contains(&(far, near)));
    }

    #[test]
    fn what_the_agent_brought_is_known_by_its_mark() {
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let one = |listens, mark| Found { listens, local: at(80), remote: at(40_000), mark };
        assert_eq!(inbound(&[one(true, 0), one(false, 0)]), [(at(40_000), at(80))]);
        assert!(inbound(&[one(true, 0), one(false, MARK)]).is_empty());
        assert!(inbound(&[one(false, 0)]).is_empty(), "nobody listens there: it was dialled");
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        let mut all = Vec::new();
        assert!(read(&[72, 0, 0, 0, 20, 0], &mut all).is_err());
        assert!(read(&[200, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut all).is_err());
        assert!(!read(&[16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut all).unwrap());
    }
}
