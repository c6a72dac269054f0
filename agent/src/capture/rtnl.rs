//! Blocking routing netlink in one network namespace: addresses, our rule, our route.
//!
//! The pod controls how much there is in its namespace: lists are read up to a bound, and objects that matter are then
//! looked up individually.

use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use agent_abi::{LOOPBACK_INDEX, MARK, MARK_MASK};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netns::Netns;

/// Our routing table in a pod. Not a small number: the source-based routing plugin counts from 100.
pub(super) const TABLE: u32 = 1_500_800_111;
/// Preference of our rule: after the local table (0), before those of plugins (from 32765 down) and of people.
pub(super) const PREFERENCE: u32 = 500;
/// Receive buffer in bytes; the kernel sends no larger datagram to a waiting reader (NLMSG_GOODSIZE is less).
const BUFFER: usize = 32 * 1024;

/// Upper bound of messages read of one list.
const MOST: usize = 4096;
/// Timeout of a response.
const PATIENCE: Duration = Duration::from_secs(2);

/// The address family of an IP version.
fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// A netlink socket in a network namespace.
pub(super) struct Rtnl<'a> {
    netns: &'a Netns,
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// How much of a list was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// All of it.
    Whole,
    /// Up to the bound.
    Part,
}

impl<'a> Rtnl<'a> {
    /// Opens a socket in the namespace.
    pub(super) fn open(netns: &'a Netns) -> io::Result<Self> {
        Ok(Self { netns, socket: connect(netns)?, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// The addresses of the namespace, up to the bound.
    pub(super) fn addresses(&mut self) -> io::Result<(Vec<IpAddr>, Read)> {
        let mut found = Vec::new();
        let read = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                found.extend(own_address(message));
            }
            ControlFlow::Continue(())
        })?;
        Ok((found, read))
    }

    /// Whether `ip` is an address of the namespace, beyond the bound too: the kernel keeps a local route to each.
    pub(super) fn has_address(&mut self, ip: IpAddr) -> io::Result<bool> {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let mut message = RouteMessage::default();
        message.header.address_family = family(ip.is_ipv6());
        message.header.destination_prefix_length = bits;
        // Ask for the matching entry, not the resolved route. IPv6 has no other flag here.
        message.header.flags = RouteFlags::FibMatch;
        if ip.is_ipv4() {
            message.header.flags |= RouteFlags::LookupTable;
        }
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(ip)));
        let answers = match self.exchange(RouteNetlinkMessage::GetRoute(message), 0, |_| ControlFlow::Break(())) {
            // There is no route at all.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                return Ok(false);
            }
            answers => answers?,
        };
        Ok(matches!(answers, Some(RouteNetlinkMessage::NewRoute(route))
            if route.header.kind == RouteType::Local
                && route.header.protocol == RouteProtocol::Kernel
                && route.header.destination_prefix_length == bits))
    }

    /// Index of the only interface that leads out of the namespace; `None` if there are several, or none.
    pub(super) fn only_way_out(&mut self) -> io::Result<Option<u32>> {
        let mut out = Vec::new();
        let read = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| match message {
            RouteNetlinkMessage::NewLink(link) if leads_out(link.header.flags) => {
                out.push(link.header.index);
                if out.len() > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            _ => ControlFlow::Continue(()),
        })?;
        Ok(out.first().copied().filter(|_| read == Read::Whole && out.len() == 1))
    }

    /// Sets `lo` up.
    pub(super) fn set_loopback_up(&mut self) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = LOOPBACK_INDEX;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Adds our rule, if missing.
    pub(super) fn add_rule(&mut self, v6: bool) -> io::Result<()> {
        let done = self.request(RouteNetlinkMessage::NewRule(rule(v6)), NLM_F_CREATE | NLM_F_EXCL);
        ignore(done, libc::EEXIST)
    }

    /// Removes our rule, if present.
    pub(super) fn remove_rule(&mut self, v6: bool) -> io::Result<()> {
        let done = self.request(RouteNetlinkMessage::DelRule(rule(v6)), 0);
        ignore(ignore(done, libc::ENOENT), libc::EAFNOSUPPORT)
    }

    /// Source address of our route; the outer `None` if there is no such route.
    pub(super) fn route_source(&mut self, v6: bool) -> io::Result<Option<Option<IpAddr>>> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family(v6);
        filter.attributes.push(RouteAttribute::Table(TABLE));
        let mut found = None;
        let read = self.dump(RouteNetlinkMessage::GetRoute(filter), |message| match message {
            RouteNetlinkMessage::NewRoute(message) if is_ours(message) => {
                found = Some(source(message));
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        match read {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            read => read.map(|_| found),
        }
    }

    /// Sets our route: everything is local to `lo`, with the source address `from`.
    pub(super) fn set_route(&mut self, from: IpAddr) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(route(from.is_ipv6(), Some(from))), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes our route, if present.
    pub(super) fn remove_route(&mut self, v6: bool) -> io::Result<()> {
        let done = self.request(RouteNetlinkMessage::DelRoute(route(v6, None)), 0);
        ignore(ignore(done, libc::ESRCH), libc::EAFNOSUPPORT)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | flags, |_| ControlFlow::Continue(())).map(drop)
    }

    /// Reads a list until `each` breaks or the bound is reached.
    fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        mut each: impl FnMut(&RouteNetlinkMessage) -> ControlFlow<()>,
    ) -> io::Result<Read> {
        let mut count = 0;
        let stopped = self.exchange(message, NLM_F_DUMP, |message| {
            count += 1;
            match each(message) {
                ControlFlow::Continue(()) if count < MOST => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        if stopped.is_none() {
            return Ok(Read::Whole);
        }
        // The rest of the list would still arrive on the old socket.
        self.socket = connect(self.netns)?;
        Ok(Read::Part)
    }

    /// Sends one message and passes the responses to `each` until it is acknowledged, refused or complete, or `each`
    /// breaks; then that message is returned.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(&RouteNetlinkMessage) -> ControlFlow<()>,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
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
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(None),
                    NetlinkPayload::InnerMessage(message) if each(&message).is_break() => return Ok(Some(message)),
                    _ => {}
                }
            }
        }
    }
}

fn connect(netns: &Netns) -> io::Result<Socket> {
    let mut socket = netns.run(|| Socket::new(NETLINK_ROUTE))??;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_netlink_get_strict_chk(true)?;
    socket2::SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A socket that becomes readable when interfaces, addresses, rules or routes of a namespace change.
pub(super) struct Changes(Socket);

impl Changes {
    /// Opens the socket in the namespace.
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

    /// Discards the messages; only their arrival matters.
    pub(super) fn drain(&self) {
        let mut buffer = [0_u8; 4096];
        // Bounded, since a pod can cause messages faster than they are discarded; the rest wakes the thread again.
        for _ in 0..MOST {
            match self.0.recv(&mut &mut buffer[..], libc::MSG_TRUNC) {
                Ok(_) => {}
                // The receive buffer has overflowed.
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

/// Treats one error code as success.
fn ignore(done: io::Result<()>, code: i32) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(code) => Ok(()),
        done => done,
    }
}

/// Whether an interface is up and not loopback. Some kernels give each namespace a few that are down.
fn leads_out(flags: LinkFlags) -> bool {
    flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback)
}

/// `Local` is the own address if the interface has a peer; elsewhere there is only `Address`.
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

    use super::leads_out;

    #[test]
    fn what_is_up_and_not_loopback_leads_out() {
        assert!(!leads_out(LinkFlags::Up | LinkFlags::Loopback));
        assert!(leads_out(LinkFlags::Up | LinkFlags::Running));
        assert!(leads_out(LinkFlags::Up));
        assert!(!leads_out(LinkFlags::empty()));
    }
}
