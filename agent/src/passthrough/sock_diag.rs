//! How sock_diag(7) frames what it is asked about TCP sockets, and what it answers. In the byte order of the machine
//! but for ports and addresses.

use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};

use crate::capture::Netns;

/// linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
/// netinet/in.h and sys/socket.h.
const IPPROTO_TCP: u8 = 6;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
/// struct nlmsghdr, struct inet_diag_req_v2.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;

/// What is asked for.
pub(super) struct Request {
    /// The message's type, and its flags beside `NLM_F_REQUEST`.
    pub(super) message: (u16, u16),
    /// `AF_INET` or `AF_INET6`.
    pub(super) family: u8,
    /// TCP states as bits.
    pub(super) states: u32,
    /// struct inet_diag_sockid.
    pub(super) id: [u8; 48],
}

/// What the kernel says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// A message of this type, without its header.
    Message(u16, &'a [u8]),
    /// It has done what was asked.
    Acknowledged,
    /// There is no more.
    Done,
}

/// Asks the kernel about a namespace; the answer comes on the socket.
pub(super) fn ask(netns: &Netns, request: &Request) -> io::Result<Socket> {
    send(netns.run(|| Socket::new(NETLINK_SOCK_DIAG))??, request)
}

/// Asks the kernel on a socket.
pub(super) fn send(socket: Socket, request: &Request) -> io::Result<Socket> {
    socket.send_to(&request.bytes(), &NetlinkAddress::new(0, 0), 0)?;
    Ok(socket)
}

impl Request {
    fn bytes(&self) -> [u8; REQUEST] {
        let (kind, flags) = self.message;
        let mut whole = [0; REQUEST];
        whole[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
        whole[4..6].copy_from_slice(&kind.to_ne_bytes());
        whole[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        (whole[HEADER], whole[HEADER + 1]) = (self.family, IPPROTO_TCP);
        whole[HEADER + 4..HEADER + 8].copy_from_slice(&self.states.to_ne_bytes());
        whole[HEADER + 8..].copy_from_slice(&self.id);
        whole
    }
}

/// Takes the first answer off what the kernel has sent; `None` when there is none left.
///
/// # Errors
/// It is cut off, or the kernel refuses what was asked.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> io::Result<Option<Answer<'a>>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off");
    if bytes.is_empty() {
        return Ok(None);
    }
    let length = u32_at(bytes, 0).ok_or_else(broken)? as usize;
    let message = bytes.get(..length).filter(|_| length >= HEADER).ok_or_else(broken)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some(match u16_at(message, 4).ok_or_else(broken)? {
        NLMSG_DONE => Answer::Done,
        NLMSG_ERROR => match u32_at(message, HEADER).ok_or_else(broken)?.cast_signed() {
            0 => Answer::Acknowledged,
            code => return Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        },
        kind => Answer::Message(kind, &message[HEADER..]),
    }))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_one_by_one() {
        let message = |kind: u16, payload: &[u8]| {
            let length = (HEADER + payload.len()) as u32;
            let mut all = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], payload].concat();
            all.resize(all.len().next_multiple_of(4), 0);
            all
        };
        let all = [message(20, b"abc"), message(2, &[0; 4]), message(3, b"")].concat();
        let mut rest = &all[..];
        for expected in [Answer::Message(20, b"abc"), Answer::Acknowledged, Answer::Done] {
            assert_eq!(next(&mut rest).unwrap(), Some(expected));
        }
        assert_eq!(next(&mut rest).unwrap(), None);
        let refused = message(2, &(-libc::ENOENT).to_ne_bytes());
        assert_eq!(next(&mut &refused[..]).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        for cut in [&[72, 0, 0, 0, 20, 0][..], &message(20, b"abc")[..18], &[4, 0, 0, 0, 20, 0]] {
            assert!(next(&mut &*cut).is_err(), "{cut:?}");
        }
    }
}
