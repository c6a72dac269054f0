//! Pure. Addresses in the form of the maps.

use core::net::{IpAddr, Ipv6Addr};

/// An IP address: four words in network byte order, IPv4 as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// From an IPv4 address in network byte order.
    #[inline(always)]
    pub const fn from_v4(word: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), word])
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be()
    }

    /// 127.0.0.0/8 or ::1.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.0[3]) >> 24 == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be()
        }
    }

    /// Loopback, unspecified or link-local (169.254.0.0/16, fe80::/10): never leaves the pod or its link.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        if self.is_v4() {
            let ip = u32::from_be(self.0[3]);
            ip >> 24 == 127 || ip == 0 || ip >> 16 == 0xa9fe
        } else {
            let low = self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0;
            (low && (self.0[3] == 0 || self.0[3] == 1_u32.to_be())) || u32::from_be(self.0[0]) >> 22 == 0x3fa
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = v6.octets();
                Self([[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes))
            }
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let mut octets = [0; 16];
        for (octets, word) in octets.chunks_exact_mut(4).zip(address.0) {
            octets.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets)).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::Address;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["10.1.2.3", "::1", "fd00::1234", "255.255.255.255", "2001:db8:1:2:3:4:5:6"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(ip)), ip);
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
        assert!(address("10.0.0.1").is_v4());
        assert!(!address("fd00::1").is_v4());
    }

    #[test]
    fn local_is_loopback_unspecified_and_link_local() {
        for text in [
            "127.0.0.1",
            "127.9.8.7",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(address(text).is_local(), "{text}");
        }
        for text in ["128.0.0.1", "10.0.0.1", "169.253.0.1", "fec0::1", "fd00::1", "::2", "1::"] {
            assert!(!address(text).is_local(), "{text}");
        }
        assert!(address("127.0.0.1").is_loopback() && address("::1").is_loopback());
        assert!(!address("fe80::1").is_loopback() && !address("0.0.0.0").is_loopback());
    }
}
