//! Pure. Who owns a network namespace, and which addresses prove ownership.

use std::net::IpAddr;

use aws_lc_rs::digest;

use super::error::CaptureError;

/// Checks the addresses by which a workload claims a namespace: at least one, and none that every namespace has or none
/// can have. Finding one of them in the namespace proves ownership.
///
/// # Errors
/// The address that proves nothing.
pub(super) fn eligible(owner: &str, addresses: &[IpAddr]) -> Result<(), CaptureError> {
    let refuse = |address, what| CaptureError::Address { workload: owner.to_owned(), address, what };
    if addresses.is_empty() {
        return Err(CaptureError::NoAddress { workload: owner.to_owned() });
    }
    addresses.iter().try_for_each(|address| match what_it_is(address.to_canonical()) {
        Some(what) => Err(refuse(*address, what)),
        None => Ok(()),
    })
}

/// Why an address cannot belong to a single pod; `None` if it can.
fn what_it_is(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    match address {
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_unspecified() || matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0) => {
            Some("the unspecified address")
        }
        _ if address.is_multicast() => Some("a multicast address"),
        _ if link_local => Some("a link-local address"),
        _ => None,
    }
}

/// The digest by which the kernel maps record an owner; collision-resistant, so that nobody can choose a name with the
/// same one.
pub(super) fn digest_of(owner: &str) -> [u8; 16] {
    let whole = digest::digest(&digest::SHA256, owner.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&whole.as_ref()[..16]);
    half
}

/// The current owner of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incumbent<'a> {
    /// None, or a workload whose new connections are no longer captured.
    Nobody,
    /// A workload captured by this agent.
    Captured(&'a str),
    /// A workload captured by an earlier agent that may still be enrolled again.
    Left([u8; 16]),
}

/// Whether a workload may claim the namespace: an owner keeps it.
pub(super) fn may_have(claimant: &str, incumbent: Incumbent<'_>) -> bool {
    match incumbent {
        Incumbent::Nobody => true,
        Incumbent::Captured(owner) => owner == claimant,
        Incumbent::Left(owner) => owner == [0; 16] || owner == digest_of(claimant),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(addresses: &[&str]) -> String {
        let addresses: Vec<IpAddr> = addresses.iter().map(|one| one.parse().unwrap()).collect();
        eligible("default/thief", &addresses).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_address_that_every_namespace_has_shows_nothing() {
        for address in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(refused(&[address]).contains("loopback"), "{address}");
            assert!(refused(&["10.0.0.1", address]).contains(address), "{address}");
        }
        for address in ["0.0.0.0", "::", "0.1.2.3"] {
            assert!(refused(&[address]).contains("unspecified"), "{address}");
        }
        for address in ["169.254.1.1", "fe80::1", "255.255.255.255"] {
            assert!(refused(&[address]).contains("link-local"), "{address}");
        }
        for address in ["224.0.0.1", "ff02::1"] {
            assert!(refused(&[address]).contains("multicast"), "{address}");
        }
        assert!(refused(&[]).contains("default/thief"));
        assert_eq!(refused(&["10.0.0.1", "fd00::1", "2001:db8::1"]), "");
    }

    #[test]
    fn who_is_in_a_namespace_stays_in_it() {
        assert!(may_have("a", Incumbent::Nobody));
        assert!(may_have("a", Incumbent::Captured("a")) && !may_have("b", Incumbent::Captured("a")));
        assert!(may_have("a", Incumbent::Left(digest_of("a"))) && !may_have("b", Incumbent::Left(digest_of("a"))));
        // Left by an agent that did not record owners.
        assert!(may_have("b", Incumbent::Left([0; 16])));
    }
}
