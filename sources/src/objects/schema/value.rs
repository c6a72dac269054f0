//! Pure. Values with a form: ports, address ranges, patterns, times. What has not the form is an error at its own line.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use mesh::model::rule::{PathMatches, StringMatch};
use mesh::policy::pattern;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A port, 1 to 65535, written as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) u16);

/// A port, 1 to 65535, written as a string (AuthorizationPolicy, keys of `portLevelMtls`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortText(pub(crate) u16);

/// `targetPort`: a number or the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    Name(String),
}

/// `clusterIP`: an address, or `None` for a headless service, or empty when there is none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterIp {
    Headless,
    Unset,
    Address(IpAddr),
}

/// An address or a range of addresses in CIDR notation; host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr(pub(crate) IpNet);

/// A text to compare with: exact, `prefix*`, `*suffix` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(pub(crate) StringMatch);

/// An identity to compare with, as a [`Pattern`]; `spiffe://` before it is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) pattern: StringMatch,
    /// The text, if `spiffe://` was left out of it.
    pub(crate) with_scheme: Option<String>,
}

/// A path to compare with: a [`Pattern`], or a template with `{*}` and `{**}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathText(pub(crate) PathMatches);

/// A time in RFC 3339, as seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timestamp(pub(crate) i64);

impl FromStr for PortText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(format!("{text:?} must be a number from 1 to 65535")),
        }
    }
}

impl FromStr for TargetPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 63 {
            return Err(format!("{text:?} is neither a port nor the name of one"));
        }
        Ok(text.parse::<PortText>().map_or_else(|_| Self::Name(text.to_owned()), |port| Self::Number(port.0)))
    }
}

impl FromStr for ClusterIp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "None" => Ok(Self::Headless),
            "" => Ok(Self::Unset),
            _ => text.parse().map(Self::Address).map_err(|_| format!("{text:?} is neither an address nor None")),
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| format!("{text:?} is neither an address nor a CIDR range"))?,
        };
        Ok(Self(net.trunc()))
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl FromStr for Principal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("spiffe://");
        let pattern = rest.unwrap_or(text).parse()?;
        Ok(Self { pattern, with_scheme: rest.map(|_| text.to_owned()) })
    }
}

impl FromStr for PathText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pattern::parse(text).map(Self)
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        OffsetDateTime::parse(text, &Rfc3339)
            .map(|time| Self(time.unix_timestamp()))
            .map_err(|_| format!("{text:?} is not a time in RFC 3339"))
    }
}

struct FromText<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = String>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

struct FromNumber;

impl Visitor<'_> for FromNumber {
    type Value = u16;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u16, E> {
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(E::custom(format!("{number} must be a number from 1 to 65535"))),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u16, E> {
        Err(E::custom(format!("{number} must be a number from 1 to 65535")))
    }
}

struct NumberOrText;

impl Visitor<'_> for NumberOrText {
    type Value = TargetPort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port or the name of one")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<TargetPort, E> {
        FromNumber.visit_u64(number).map(TargetPort::Number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<TargetPort, E> {
        FromNumber.visit_i64(number).map(TargetPort::Number)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TargetPort, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! read_as {
    ($($name:ty: $method:ident, $visitor:expr;)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.$method($visitor)
            }
        }
    )*};
}

read_as! {
    PortText: deserialize_str, FromText::<Self>(std::marker::PhantomData, "a port as a string");
    ClusterIp: deserialize_str, FromText::<Self>(std::marker::PhantomData, "an address or None");
    Cidr: deserialize_str, FromText::<Self>(std::marker::PhantomData, "an address or a CIDR range");
    Pattern: deserialize_str, FromText::<Self>(std::marker::PhantomData, "a string");
    Principal: deserialize_str, FromText::<Self>(std::marker::PhantomData, "a string");
    PathText: deserialize_str, FromText::<Self>(std::marker::PhantomData, "a path");
    Timestamp: deserialize_str, FromText::<Self>(std::marker::PhantomData, "a time in RFC 3339");
    TargetPort: deserialize_any, NumberOrText;
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(FromNumber).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_an_address_or_a_cidr_without_host_bits() {
        for (text, net) in [
            ("10.0.0.1", Some("10.0.0.1/32")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("::1", Some("::1/128")),
            ("fd00::1/64", Some("fd00::/64")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.0.0.0/33", None),
            ("10.0.0", None),
            ("", None),
            ("shop", None),
        ] {
            assert_eq!(text.parse::<Cidr>().ok().map(|cidr| cidr.0.to_string()), net.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_pattern_has_one_star_at_an_end() {
        for (text, is_pattern) in [
            ("a", true),
            ("a*", true),
            ("*a", true),
            ("*", true),
            ("", false),
            ("*a*", false),
            ("a*b", false),
            ("**", false),
        ] {
            assert_eq!(text.parse::<Pattern>().is_ok(), is_pattern, "{text}");
        }
    }

    #[test]
    fn a_port_is_one_to_65535() {
        for (text, port) in
            [("1", Some(1)), ("65535", Some(65535)), ("0", None), ("65536", None), ("-1", None), ("http", None)]
        {
            assert_eq!(text.parse::<PortText>().ok().map(|port| port.0), port, "{text}");
        }
        assert_eq!("http".parse(), Ok(TargetPort::Name("http".to_owned())));
        assert_eq!("8080".parse(), Ok(TargetPort::Number(8080)));
        assert!("".parse::<TargetPort>().is_err());
    }

    #[test]
    fn a_cluster_ip_may_be_none() {
        assert_eq!("None".parse(), Ok(ClusterIp::Headless));
        assert_eq!("".parse(), Ok(ClusterIp::Unset));
        assert!("none".parse::<ClusterIp>().is_err());
    }

    #[test]
    fn a_time_counts_from_1970() {
        assert_eq!("1970-01-01T00:01:00Z".parse(), Ok(Timestamp(60)));
        assert_eq!("1970-01-01T01:01:00.5+01:00".parse(), Ok(Timestamp(60)));
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
