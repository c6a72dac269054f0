//! Pure. How one workload is reached, whoever dials: at which of its addresses, in a tunnel or not, and who must
//! answer there.

use std::iter;
use std::net::{IpAddr, SocketAddr};

use super::identity::Identity;
use super::waypoint::HBONE_PORT;
use super::workload::Workload;

/// An address of the wanted family if the workload has one, else its first: inside a tunnel both work.
pub fn address_of(workload: &Workload, ipv6: bool) -> Option<IpAddr> {
    let same = workload.addresses.iter().find(|address| address.is_ipv6() == ipv6);
    same.or_else(|| workload.addresses.first()).copied()
}

/// The HBONE port to dial for an enrolled workload at one of its addresses, and who may answer there; `None` is plain
/// TCP. `alt_names` is what the service that it is reached for lists besides its own identity (`subjectAltNames`).
pub fn tunnel_to<L: FromIterator<Identity>>(
    workload: &Workload,
    address: IpAddr,
    alt_names: &[Identity],
) -> Option<(SocketAddr, L)> {
    workload.is_enrolled().then(|| (SocketAddr::new(address, HBONE_PORT), expected(workload, alt_names)))
}

/// Identities that a workload may prove: its own, and those that stand for it.
pub fn expected<L: FromIterator<Identity>>(workload: &Workload, alt_names: &[Identity]) -> L {
    iter::once(workload.identity()).chain(alt_names.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::workload::TunnelProtocol;

    #[test]
    fn the_callers_family_is_preferred_and_the_other_taken() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let both = Workload::sample("both", "default", &[v4, v6]);
        assert_eq!((address_of(&both, false), address_of(&both, true)), (Some(v4), Some(v6)));
        assert_eq!(address_of(&Workload::sample("six", "default", &[v6]), false), Some(v6));
        assert_eq!(address_of(&Workload::sample("none", "default", &[]), false), None);
    }

    #[test]
    fn only_the_enrolled_are_reached_in_a_tunnel_and_only_those_who_may_answer() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let enrolled = Workload::sample("shop", "default", &[address]);
        let other = Identity::new("cluster.local", "default", "other");
        let (via, expected) = tunnel_to::<Vec<_>>(&enrolled, address, std::slice::from_ref(&other)).unwrap();
        assert_eq!((via, expected), ("10.0.0.1:15008".parse().unwrap(), vec![enrolled.identity(), other]));
        let plain = Workload { protocol: TunnelProtocol::None, ..enrolled };
        assert_eq!(tunnel_to::<Vec<_>>(&plain, address, &[]), None);
    }
}
