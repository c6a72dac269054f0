//! What capture needs in a pod's network namespace: `lo`, one rule and one route per address family, three sysctls.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::error::CaptureError;
use super::netns::{Netns, WayOut};
use super::rtnl::Rtnl;

/// Sysctls that are set to 1, below /proc/sys/net. The first gives the application's side of a connection the mark of our SYN, so that
/// its answers, addressed to the client, come back over `lo`; the others give it to resets.
const SYSCTLS: [&str; 3] = ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"];

/// Prepares the namespace, or repairs it, and learns which way leads out of it. Returns all of its addresses. `preferred` are the pod's addresses, most important first.
pub(super) fn arrange(netns: &Netns, preferred: &[IpAddr]) -> Result<Vec<IpAddr>, CaptureError> {
    let failed = |what| {
        let path = netns.path().to_owned();
        move |source| CaptureError::Network { path, what, source }
    };
    let mut rtnl = Rtnl::open(netns).map_err(failed("opening a netlink socket"))?;
    // The runtime does so for real pods, but not `ip netns add`.
    rtnl.set_loopback_up().map_err(failed("switching lo on"))?;
    let addresses = rtnl.addresses().map_err(failed("reading addresses"))?;
    for v6 in [false, true] {
        let Some(from) = source(&addresses, preferred, v6) else { continue };
        rtnl.add_rule(v6).map_err(failed("adding the rule"))?;
        let present = rtnl.route_source(v6).map_err(failed("reading the route"))?;
        if present != Some(Some(from)) {
            rtnl.set_route(from).map_err(failed("adding the route"))?;
        }
    }
    let only = rtnl.only_way_out().map_err(failed("reading interfaces"))?;
    netns.set_way_out(WayOut { only, own: addresses.clone() });
    Ok(addresses)
}

/// Takes rules and routes away again.
pub(super) fn dismantle(netns: &Netns) -> io::Result<()> {
    let mut rtnl = Rtnl::open(netns)?;
    for v6 in [false, true] {
        rtnl.remove_rule(v6)?;
        rtnl.remove_route(v6)?;
    }
    Ok(())
}

/// The address that answers come from: the first preferred one that is there, else the first that is not local to the link.
fn source(addresses: &[IpAddr], preferred: &[IpAddr], v6: bool) -> Option<IpAddr> {
    let fits = |ip: &&IpAddr| ip.is_ipv6() == v6 && addresses.contains(ip);
    let reachable = |ip: &&IpAddr| ip.is_ipv6() == v6 && !agent_abi::Address::from(**ip).is_local();
    preferred.iter().find(fits).or_else(|| addresses.iter().find(reachable)).copied()
}

/// Switches the sysctls on. Returns one bit for each that was off before.
pub(super) fn set_sysctls(netns: &Netns) -> Result<u32, CaptureError> {
    let set = || -> Result<u32, CaptureError> {
        let mut changed = 0;
        for (bit, name) in SYSCTLS.iter().enumerate() {
            let path = Path::new("/proc/sys/net").join(name);
            // A kernel without IPv6 has no such file.
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

/// Switches those sysctls off that `set_sysctls` had switched on.
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

    use super::source;

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
}
