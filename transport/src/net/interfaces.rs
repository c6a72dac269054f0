//! Addresses of the interfaces of this network namespace, and of the routers next to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// Every address of every interface, broadcast addresses included.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let ip = |address: Option<SockaddrStorage>| {
        let address = address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    };
    let all = getifaddrs()?.flat_map(|interface| [ip(interface.address), ip(interface.broadcast)]);
    Ok(all.flatten().collect())
}

/// The next hops of all routes: in a pod, an address of its node. Empty where `/proc` is not readable.
pub fn routers() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = v4_routers(&read("/proc/self/net/route"));
    let v6 = v6_routers(&read("/proc/self/net/ipv6_route"));
    v4.into_iter().map(IpAddr::from).chain(v6.into_iter().map(IpAddr::from)).collect()
}

/// Lines of `Iface Destination Gateway …`, addresses in hexadecimal in native byte order.
fn v4_routers(table: &str) -> Vec<Ipv4Addr> {
    let lines = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2));
    let read = lines.filter_map(|gateway| u32::from_str_radix(gateway, 16).ok());
    read.map(|raw| Ipv4Addr::from(raw.to_ne_bytes())).filter(|ip| !ip.is_unspecified()).collect()
}

/// `destination length source length next-hop …`, addresses in hexadecimal.
fn v6_routers(table: &str) -> Vec<Ipv6Addr> {
    let lines = table.lines().filter_map(|line| line.split_whitespace().nth(4));
    let read = lines.filter_map(|hop| u128::from_str_radix(hop, 16).ok());
    read.map(Ipv6Addr::from).filter(|ip| !ip.is_unspecified()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_addresses() {
        assert!(addresses().unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn next_hops_are_read_from_the_kernels_tables() {
        let gateway = u32::from_ne_bytes([10, 1, 0, 1]);
        let table = format!(
            "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t{gateway:08X}\t0003\neth0\t0000010A\t00000000\t0001\n"
        );
        assert_eq!(v4_routers(&table), [Ipv4Addr::new(10, 1, 0, 1)]);
        let table = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                     fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n\
                     fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n";
        assert_eq!(v6_routers(table), ["fd00::1".parse::<Ipv6Addr>().unwrap()]);
    }
}
