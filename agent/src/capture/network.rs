//! The setup of a pod's network namespace: `lo`, one rule and one route per address family, three sysctls.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::error::CaptureError;
use super::netns::{Netns, WayOut};
use super::rtnl::{Read, Rtnl};

/// Sysctls set to 1, below /proc/sys/net. The first gives the application's side of a connection the mark of our SYN,
/// so that its responses, addressed to the client, come back over `lo`; the others do so for resets.
const SYSCTLS: [&str; 3] = ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"];

/// The addresses of a prepared namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arranged {
    /// The pod's addresses that are present, then others up to the quota.
    pub(super) own: Vec<IpAddr>,
    /// The pod's addresses that are missing.
    pub(super) missing: Vec<IpAddr>,
    /// The number of further addresses, or a lower bound of it: they exceed the pod's quota.
    pub(super) beyond: usize,
}

/// Prepares or repairs the namespace, and finds the route out of it. `preferred` are the pod's addresses, most
/// important first; `quota` bounds the pod's addresses.
pub(super) fn arrange(netns: &Netns, preferred: &[IpAddr], quota: usize) -> Result<Arranged, CaptureError> {
    let failed = |what| {
        let path = netns.path().to_owned();
        move |source| CaptureError::Network { path, what, source }
    };
    let mut rtnl = Rtnl::open(netns).map_err(failed("opening a netlink socket"))?;
    // The container runtime does so for real pods, but not `ip netns add`.
    rtnl.set_loopback_up().map_err(failed("switching lo on"))?;
    let arranged = read(&mut rtnl, preferred, quota).map_err(failed("reading addresses"))?;
    for v6 in [false, true] {
        let Some(from) = source(&arranged.own, preferred, v6) else { continue };
        rtnl.add_rule(v6).map_err(failed("adding the rule"))?;
        let present = rtnl.route_source(v6).map_err(failed("reading the route"))?;
        if present != Some(Some(from)) {
            rtnl.set_route(from).map_err(failed("adding the route"))?;
        }
    }
    let only = rtnl.only_way_out().map_err(failed("reading interfaces"))?;
    netns.set_way_out(WayOut { only, own: arranged.own.clone() });
    Ok(arranged)
}

/// The addresses of `preferred` that are on an interface of the namespace at `path`: only the pod itself, or whoever
/// set it up, can put them there. May block.
///
/// # Errors
/// The path is no network namespace, or the node's; or the kernel does not answer.
pub fn addresses_shown(path: &Path, preferred: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    let netns = Netns::open(path)?;
    if netns.is_of_the_node()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "must not be the network namespace of the node"));
    }
    let mut found = shown(&netns, preferred)?.own;
    found.truncate(preferred.len());
    found.retain(|ip| preferred.contains(ip));
    Ok(found)
}

/// The addresses of an open namespace, without changing anything in it.
pub(super) fn shown(netns: &Netns, preferred: &[IpAddr]) -> io::Result<Arranged> {
    read(&mut Rtnl::open(netns)?, preferred, preferred.len())
}

fn read(rtnl: &mut Rtnl<'_>, preferred: &[IpAddr], quota: usize) -> io::Result<Arranged> {
    let (there, read) = rtnl.addresses()?;
    let mut arranged = sort(&there, preferred, quota);
    if read == Read::Part {
        let unseen = std::mem::take(&mut arranged.missing);
        let mut seen = Vec::new();
        for ip in unseen {
            if rtnl.has_address(ip)? { seen.push(ip) } else { arranged.missing.push(ip) }
        }
        arranged.own.splice(0..0, seen);
        arranged.own.truncate(quota.max(preferred.len()));
    }
    Ok(arranged)
}

/// Selects the addresses within the quota. Loopback needs no entry: it is recognized as such.
fn sort(there: &[IpAddr], preferred: &[IpAddr], quota: usize) -> Arranged {
    let here: HashSet<IpAddr> = there.iter().copied().filter(|ip| !ip.is_loopback()).collect();
    let (mut own, missing): (Vec<_>, Vec<_>) = preferred.iter().copied().partition(|ip| here.contains(ip));
    let known = own.len();
    // Routable addresses come before link-local ones.
    let local = |ip: &&IpAddr| agent_abi::Address::from(**ip).is_local();
    let others = || there.iter().filter(|ip| !ip.is_loopback() && !preferred.contains(ip));
    own.extend(others().filter(|ip| !local(ip)).chain(others().filter(local)).take(quota.saturating_sub(known)));
    Arranged { beyond: here.len().saturating_sub(own.len()), own, missing }
}

/// Removes rules and routes.
pub(super) fn dismantle(netns: &Netns) -> io::Result<()> {
    let mut rtnl = Rtnl::open(netns)?;
    for v6 in [false, true] {
        rtnl.remove_rule(v6)?;
        rtnl.remove_route(v6)?;
    }
    Ok(())
}

/// The source address of responses: the first preferred one that is present, else the first that is not link-local.
fn source(addresses: &[IpAddr], preferred: &[IpAddr], v6: bool) -> Option<IpAddr> {
    let suits = |ip: &&IpAddr| ip.is_ipv6() == v6 && addresses.contains(ip);
    let reachable = |ip: &&IpAddr| ip.is_ipv6() == v6 && !agent_abi::Address::from(**ip).is_local();
    preferred.iter().find(suits).or_else(|| addresses.iter().find(reachable)).copied()
}

/// Enables the sysctls. Returns one bit for each that was off before.
pub(super) fn set_sysctls(netns: &Netns) -> Result<u32, CaptureError> {
    let set = || -> Result<u32, CaptureError> {
        let mut changed = 0;
        for (bit, name) in SYSCTLS.iter().enumerate() {
            let path = Path::new("/proc/sys/net").join(name);
            // The file does not exist without IPv6.
            let Ok(before) = std::fs::read_to_string(&path) else { continue };
            if before.trim() == "0" {
                std::fs::write(&path, "1").map_err(CaptureError::file(&path))?;
                changed |= 1 << bit;
            }
        }
        Ok(changed)
    };
    netns.run(set).map_err(|source| CaptureError::Netns { path: netns.path().to_owned(), source })?
}

/// Disables the sysctls that `set_sysctls` had enabled.
pub(super) fn restore_sysctls(netns: &Netns, changed: u32) -> io::Result<()> {
    netns.run(|| {
        let ours = SYSCTLS.iter().enumerate().filter(|(bit, _)| changed & (1 << bit) != 0);
        for (_, name) in ours {
            std::fs::write(Path::new("/proc/sys/net").join(name), "0")?;
        }
        Ok(())
    })?
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{sort, source};

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn answers_come_from_the_pods_own_address() {
        let there = ips(&["127.0.0.1", "10.0.0.9", "10.0.0.1", "::1", "fe80::1", "fd00::1"]);
        assert_eq!(source(&there, &ips(&["10.0.0.1"]), false), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(source(&there, &[], false), Some("10.0.0.9".parse().unwrap()));
        assert_eq!(source(&there, &[], true), Some("fd00::1".parse().unwrap()));
        assert_eq!(source(&there, &ips(&["10.0.0.77"]), false), Some("10.0.0.9".parse().unwrap()));
        assert_eq!(source(&ips(&["127.0.0.1", "::1", "fe80::1"]), &[], true), None);
    }

    #[test]
    fn the_pods_own_addresses_have_a_place_however_many_there_are() {
        let mut there: Vec<IpAddr> = (0..17_000_u32).map(|n| IpAddr::from((0x0a63_0000 + n).to_be_bytes())).collect();
        there.extend(ips(&["127.0.0.1", "127.0.0.2", "::1", "fe80::1", "10.0.0.1", "fd00::1"]));
        let arranged = sort(&there, &ips(&["10.0.0.1", "fd00::1"]), 8);
        assert_eq!(arranged.own[..3], ips(&["10.0.0.1", "fd00::1", "10.99.0.0"]));
        assert_eq!((arranged.own.len(), arranged.beyond), (8, 17_003 - 8));
        assert!(arranged.missing.is_empty());
    }

    #[test]
    fn addresses_within_the_quota_all_have_a_place_those_of_the_link_last() {
        let there = ips(&["127.0.0.1", "10.0.0.1", "::1", "fe80::1", "10.0.0.9"]);
        let arranged = sort(&there, &ips(&["10.0.0.1", "10.0.0.7"]), 8);
        assert_eq!(arranged.own, ips(&["10.0.0.1", "10.0.0.9", "fe80::1"]));
        assert_eq!((arranged.missing, arranged.beyond), (ips(&["10.0.0.7"]), 0));
    }
}
