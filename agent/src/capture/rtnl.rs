//! Routing netlink in one network namespace: addresses, our rule, our route. Waits for each answer.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use agent_abi::{LOOPBACK_INDEX, MARK, MARK_MASK};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netns::Netns;

/// Number of our routing table in a pod. Not a small one: the source-based routing plugin counts from 100.
pub(super) const TABLE: u32 = 1_500_800_111;
/// Preference of our rule: after the local table (0), before what plugins add (from 32765 down) and before what people do.
pub(super) const PREFERENCE: u32 = 500;
/// Room for answers; the kernel sends no larger datagram to a reader that waits (NLMSG_GOODSIZE is less).
const BUFFER: usize = 32 * 1024;

/// Address family of an IP version.
fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// A netlink socket in a network namespace.
pub(super) struct Rtnl {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Rtnl {
    /// Opens a socket in the namespace; it stays there.
    pub(super) fn open(netns: &Netns) -> io::Result<Self> {
        let mut socket = netns.run(|| Socket::new(NETLINK_ROUTE))??;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// All addresses of the namespace.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<IpAddr>> {
        let answers = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => own_address(&message),
                _ => None,
            })
            .collect())
    }

    /// Index of the one interface that leads out of the namespace; `None` when there are several, or none.
    pub(super) fn only_way_out(&mut self) -> io::Result<Option<u32>> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(only_one(answers.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some((link.header.index, link.header.flags)),
            _ => None,
        })))
    }

    /// Switches `lo` on.
    pub(super) fn set_loopback_up(&mut self) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = LOOPBACK_INDEX;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Adds our rule unless it is there.
    pub(super) fn add_rule(&mut self, v6: bool) -> io::Result<()> {
        let done = self.request(RouteNetlinkMessage::NewRule(rule(v6)), NLM_F_CREATE | NLM_F_EXCL);
        ignore(done, libc::EEXIST)
    }

    /// Removes our rule if it is there.
    pub(super) fn remove_rule(&mut self, v6: bool) -> io::Result<()> {
        let done = self.request(RouteNetlinkMessage::DelRule(rule(v6)), 0);
        ignore(ignore(done, libc::ENOENT), libc::EAFNOSUPPORT)
    }

    /// Source address of our route; `None` when there is no such route.
    pub(super) fn route_source(&mut self, v6: bool) -> io::Result<Option<Option<IpAddr>>> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family(v6);
        filter.attributes.push(RouteAttribute::Table(TABLE));
        let answers = match self.dump(RouteNetlinkMessage::GetRoute(filter)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            answers => answers?,
        };
        Ok(answers.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewRoute(message) if is_ours(&message) => Some(source(&message)),
            _ => None,
        }))
    }

    /// Makes our route: everything is on `lo`, and answers come from `from`.
    pub(super) fn set_route(&mut self, from: IpAddr) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(route(from.is_ipv6(), Some(from))), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes our route if it is there.
    pub(super) fn remove_route(&mut self, v6: bool) -> io::Result<()> {
        let done = self.request(RouteNetlinkMessage::DelRoute(route(v6, None)), 0);
        ignore(ignore(done, libc::ESRCH), libc::EAFNOSUPPORT)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | flags).map(drop)
    }

    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_DUMP)
    }

    /// Sends one message and collects what comes back until it is acknowledged, refused or done.
    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let mut rest = &self.buffer[..length.min(BUFFER)];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let used = (answer.header.length as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[used.max(1)..];
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }
}

/// A socket that becomes readable when interfaces, addresses, rules or routes of a namespace change.
pub(super) struct Changes(Socket);

impl Changes {
    /// Opens it in the namespace; it stays there.
    pub(super) fn open(netns: &Netns) -> io::Result<Self> {
        let mut socket = netns.run(|| Socket::new(NETLINK_ROUTE))??;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        let groups = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
        ];
        groups.iter().try_for_each(|group| socket.add_membership(*group))?;
        Ok(Self(socket))
    }

    /// Throws away what has arrived; that something has is all that counts.
    pub(super) fn drain(&self) {
        let mut buffer = [0_u8; 4096];
        loop {
            match self.0.recv(&mut &mut buffer[..], libc::MSG_TRUNC) {
                Ok(_) => {}
                // More arrived than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// One kind of refusal is as good as success.
fn ignore(done: io::Result<()>, code: i32) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(code) => Ok(()),
        done => done,
    }
}

/// The one interface that is up and not loopback. Those that are down carry nothing: some kernels give each namespace a few.
fn only_one(links: impl Iterator<Item = (u32, LinkFlags)>) -> Option<u32> {
    let mut out = links.filter(|(_, flags)| flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback));
    let first = out.next();
    first.filter(|_| out.next().is_none()).map(|(index, _)| index)
}

/// `Local` is ours where the interface has a peer; elsewhere there is only `Address`.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let pick = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    pick(true).or_else(|| pick(false))
}

fn rule(v6: bool) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(v6);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PREFERENCE),
        RuleAttribute::FwMark(MARK),
        RuleAttribute::FwMask(MARK_MASK),
        RuleAttribute::Table(TABLE),
    ];
    message
}

fn route(v6: bool, from: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(v6),
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: RouteProtocol::Static,
        scope: if v6 { RouteScope::Universe } else { RouteScope::Host },
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Table(TABLE), RouteAttribute::Oif(LOOPBACK_INDEX)];
    message.attributes.extend(from.map(|ip| RouteAttribute::PrefSource(RouteAddress::from(ip))));
    message
}

fn is_ours(message: &RouteMessage) -> bool {
    message.header.kind == RouteType::Local
        && message.header.destination_prefix_length == 0
        && message.attributes.contains(&RouteAttribute::Table(TABLE))
}

fn source(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkFlags;

    use super::only_one;

    #[test]
    fn the_way_out_is_known_when_there_is_but_one() {
        let (lo, eth0) = ((1, LinkFlags::Up | LinkFlags::Loopback), (2, LinkFlags::Up | LinkFlags::Running));
        let (tunl0, net1) = ((3, LinkFlags::empty()), (4, LinkFlags::Up));
        assert_eq!(only_one([lo, eth0, tunl0].into_iter()), Some(2));
        assert_eq!(only_one([lo, eth0, net1].into_iter()), None);
        assert_eq!(only_one([lo, tunl0].into_iter()), None);
    }
}
