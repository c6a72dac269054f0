//! Pure. Addresses that a waypoint may dial: never itself, its node, or an address that is local to each machine.
//!
//! Tenants write the addresses of endpoints, mirrors, JWKS and collectors. A waypoint that dialled any of them would
//! open its own position in the network to tenants (SSRF): admin servers on loopback, the node's own services, the
//! metadata server of a cloud. An address is refused wherever it came from (an object, DNS) and in whichever form it is
//! written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Addresses that are local to a waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Addresses of the waypoint's own interfaces, broadcast addresses included, and of its pod.
    pub own: Vec<IpAddr>,
    /// Addresses of the node that it runs on.
    pub node: Vec<IpAddr>,
    /// Listeners of the waypoint itself; an unspecified address stands for each of `own` and loopback. They are never
    /// dialled, not even if `allowed` has their address.
    pub served: Vec<SocketAddr>,
    /// Ranges that the operator allows in spite of these rules (`--allow-local-targets`).
    pub allowed: Vec<IpNet>,
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 0.0.0.0/8, `::`: Linux connects to loopback instead (RFC 1122, 3.2.1.3).
    Unspecified,
    /// 169.254.0.0/16, `fe80::/10` (RFC 3927, RFC 4291 2.5.6): metadata servers of clouds among others.
    LinkLocal,
    /// 224.0.0.0/4, `ff00::/8`.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// An address of the waypoint itself.
    Own,
    /// An address of its node.
    Node,
    /// A listener of the waypoint itself.
    Served,
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Unspecified => "an unspecified address",
            Self::LinkLocal => "a link-local address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
            Self::Own => "the waypoint's own address",
            Self::Node => "an address of the waypoint's node",
            Self::Served => "a server of the waypoint itself",
        })
    }
}

/// Checks whether a waypoint with these surroundings may dial `target`; the error says why not.
pub fn may_dial(around: &Surroundings, target: SocketAddr) -> Result<(), Off> {
    let embedded = embedded(target.ip());
    let forms = || std::iter::once(target.ip()).chain(embedded);
    if forms().any(|ip| is_served(around, ip, target.port())) {
        return Err(Off::Served);
    }
    for ip in forms() {
        let Some(off) = off(around, ip) else { continue };
        if !around.allowed.iter().any(|range| range.contains(&ip)) {
            return Err(off);
        }
    }
    Ok(())
}

fn off(around: &Surroundings, ip: IpAddr) -> Option<Off> {
    let special = match ip {
        IpAddr::V4(ip) if ip.is_loopback() => Some(Off::Loopback),
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some(Off::Unspecified),
        IpAddr::V4(ip) if ip.is_link_local() => Some(Off::LinkLocal),
        IpAddr::V4(ip) if ip.is_multicast() => Some(Off::Multicast),
        IpAddr::V4(ip) if ip.is_broadcast() => Some(Off::Broadcast),
        IpAddr::V6(ip) if ip.is_loopback() => Some(Off::Loopback),
        IpAddr::V6(ip) if ip.is_unspecified() => Some(Off::Unspecified),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(Off::LinkLocal),
        IpAddr::V6(ip) if ip.is_multicast() => Some(Off::Multicast),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    let own = around.own.contains(&ip).then_some(Off::Own);
    let node = around.node.contains(&ip).then_some(Off::Node);
    special.or(own).or(node)
}

fn is_served(around: &Surroundings, ip: IpAddr, port: u16) -> bool {
    around.served.iter().filter(|served| served.port() == port).any(|served| match served.ip() {
        any if any.is_unspecified() => {
            around.own.contains(&ip) || matches!(off(around, ip), Some(Off::Loopback | Off::Unspecified))
        }
        one => one == ip || off(around, ip) == Some(Off::Unspecified),
    })
}

/// The IPv4 address that an IPv6 address stands for, as the kernel or a translator on the way reads it: IPv4-mapped and
/// -compatible (RFC 4291, 2.5.5), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380, 4).
fn embedded(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    if ip.is_loopback() || ip.is_unspecified() {
        return None;
    }
    let segments = ip.segments();
    let v4 = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        Some(Ipv4Addr::new(a, b, c, d).into())
    };
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => v4(high, low),
        // RFC 2765: IPv4-translated.
        [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 1, ..] => nat64(ip),
        [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        _ => None,
    }
}

/// RFC 8215's range is for prefixes of /48 to /96 (RFC 6052, 2.2): the address is where the shortest of them that
/// leaves the rest zero would put it.
fn nat64(ip: Ipv6Addr) -> Option<IpAddr> {
    let o = ip.octets();
    let v4 = |a, b, c, d| Some(Ipv4Addr::new(o[a], o[b], o[c], o[d]).into());
    match () {
        () if o[11..].iter().all(|octet| *octet == 0) && (o[6], o[7]) != (0, 0) => v4(6, 7, 9, 10),
        () if o[13..].iter().all(|octet| *octet == 0) && o[9..13] != [0; 4] => v4(9, 10, 11, 12),
        () => v4(12, 13, 14, 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around() -> Surroundings {
        Surroundings {
            own: vec!["10.1.0.7".parse().unwrap(), "fd00::7".parse().unwrap(), "10.1.0.255".parse().unwrap()],
            node: vec!["192.168.3.4".parse().unwrap()],
            served: vec!["127.0.0.1:15000".parse().unwrap(), "0.0.0.0:15020".parse().unwrap()],
            allowed: vec![],
        }
    }

    fn dial(around: &Surroundings, target: &str) -> Result<(), Off> {
        may_dial(around, target.parse().unwrap())
    }

    #[test]
    fn what_is_close_to_the_waypoint_is_never_dialled() {
        for (target, off) in [
            ("127.0.0.1:80", Off::Loopback),
            ("127.9.9.9:80", Off::Loopback),
            ("[::1]:80", Off::Loopback),
            ("0.0.0.0:80", Off::Unspecified),
            ("0.1.2.3:80", Off::Unspecified),
            ("[::]:80", Off::Unspecified),
            ("169.254.169.254:80", Off::LinkLocal),
            ("[fe80::1]:80", Off::LinkLocal),
            ("[febf::1]:80", Off::LinkLocal),
            ("224.0.0.1:80", Off::Multicast),
            ("239.255.255.255:80", Off::Multicast),
            ("[ff02::1]:80", Off::Multicast),
            ("255.255.255.255:80", Off::Broadcast),
            ("10.1.0.7:80", Off::Own),
            ("10.1.0.255:80", Off::Own),
            ("[fd00::7]:80", Off::Own),
            ("192.168.3.4:10250", Off::Node),
        ] {
            assert_eq!(dial(&around(), target), Err(off), "{target}");
        }
        for target in ["10.1.0.8:80", "8.8.8.8:443", "[2001:db8::1]:80", "[fd00::8]:80", "240.0.0.1:80"] {
            assert_eq!(dial(&around(), target), Ok(()), "{target}");
        }
    }

    #[test]
    fn an_address_in_another_form_is_the_same_address() {
        for (target, off) in [
            ("[::ffff:127.0.0.1]:80", Off::Loopback),
            ("[::127.0.0.1]:80", Off::Loopback),
            ("[::ffff:0:127.0.0.1]:80", Off::Loopback),
            ("[::ffff:0.0.0.0]:80", Off::Unspecified),
            ("[::ffff:169.254.169.254]:80", Off::LinkLocal),
            ("[::ffff:10.1.0.7]:80", Off::Own),
            ("[::ffff:192.168.3.4]:80", Off::Node),
            ("[64:ff9b::127.0.0.1]:80", Off::Loopback),
            ("[64:ff9b::10.1.0.7]:80", Off::Own),
            ("[64:ff9b:1::169.254.169.254]:80", Off::LinkLocal),
            ("[64:ff9b:1:7f00:0:100::]:80", Off::Loopback),
            ("[64:ff9b:1:0:7f:0:100:0]:80", Off::Loopback),
            ("[2002:7f00:1::1]:80", Off::Loopback),
            ("[2001:0:1:2:3:4:80ff:fffe]:80", Off::Loopback),
        ] {
            assert_eq!(dial(&around(), target), Err(off), "{target}");
        }
        for target in ["[::ffff:10.1.0.8]:80", "[64:ff9b::8.8.8.8]:80", "[2002:808:808::1]:80"] {
            assert_eq!(dial(&around(), target), Ok(()), "{target}");
        }
    }

    #[test]
    fn an_operator_may_allow_ranges_but_never_the_waypoints_own_servers() {
        let mut around = around();
        around.allowed = vec!["127.0.0.0/8".parse().unwrap(), "10.1.0.0/24".parse().unwrap()];
        for target in ["127.0.0.1:80", "[::ffff:127.0.0.1]:9", "10.1.0.7:80"] {
            assert_eq!(dial(&around, target), Ok(()), "{target}");
        }
        assert_eq!(dial(&around, "192.168.3.4:80"), Err(Off::Node));
        for target in [
            "127.0.0.1:15000",
            "0.0.0.0:15000",
            "[::ffff:127.0.0.1]:15000",
            "127.0.0.1:15020",
            "10.1.0.7:15020",
            "[::1]:15020",
        ] {
            assert_eq!(dial(&around, target), Err(Off::Served), "{target}");
        }
        assert_eq!(dial(&around, "10.1.0.8:15020"), Ok(()), "another's");
    }
}
