//! Pure. Validates a host: an unambiguous name or address, with or without a port.
//!
//! RFC 3986 allows more in a host than any name of a host has: escapes, sub-delimiters, user information before it. Two
//! parsers could take such a host for different ones, so it is refused (RFC 9110, 4.2.1, 4.2.4, 7.2).

use std::net::Ipv6Addr;

/// Longest name (RFC 1035, 2.3.4).
const LONGEST: usize = 255;

/// Whether these bytes are a host, with or without a port.
pub fn is_valid(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let (is_name_good, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let end = host.find(':').unwrap_or(host.len());
            (is_name(&host[..end]), &host[end..])
        }
    };
    is_name_good && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    // A name of dots alone is none.
    name.len() <= LONGEST && name.bytes().all(allowed) && name.bytes().any(|byte| byte != b'.')
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        for host in
            ["shop", "shop:80", "shop.default.svc.cluster.local.", "my_shop", "10.0.0.1:8080", "[::1]", "[fd00::1]:80"]
        {
            assert!(is_valid(host.as_bytes()), "{host}");
        }
        let long = "a".repeat(256);
        for host in [
            "",
            ":80",
            ".",
            "shop:",
            "shop:x",
            "shop:99999",
            "shop:+80",
            "shop:80:80",
            "user@shop",
            "user:pw@shop",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "%73hop",
            "a,b",
            "a;b",
            "a\\b",
            "[::1",
            "::1",
            "[shop]",
            "[::1]x",
            "[::1]:",
            "sh\u{f6}p",
            "a\tb",
            "a\"b",
            &long,
        ] {
            assert!(!is_valid(host.as_bytes()), "{host}");
        }
        assert!(!is_valid(b"shop\xff"));
    }
}
