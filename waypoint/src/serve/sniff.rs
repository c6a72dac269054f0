//! Pure. What the first bytes of a connection say about its protocol.

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Any other protocol.
    Opaque,
}

/// The preface of HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that is still taken for one.
const LONGEST_METHOD: usize = 17;

/// Empty lines that may precede a request (RFC 9112, 2.2).
const EMPTY_LINES: usize = 4;

/// Whether a lenient server could take the bytes for the beginning of a request: a word, after white space if any.
pub fn could_be_http(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    first.is_none_or(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// What the bytes say so far; `None` when more are needed.
pub fn sniff(bytes: &[u8]) -> Option<Spoken> {
    let mut bytes = bytes;
    for _ in 0..EMPTY_LINES {
        match bytes.strip_prefix(b"\r\n") {
            Some(rest) => bytes = rest,
            None if bytes == b"\r" => return None,
            None => break,
        }
    }
    if bytes.starts_with(PREFACE) {
        return Some(Spoken::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    // A request line: a method of capital letters, a space, and a target.
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    match bytes.get(method) {
        None if method <= LONGEST_METHOD => None,
        Some(b' ') if (3..=LONGEST_METHOD).contains(&method) => match bytes.get(method + 1) {
            None => None,
            Some(byte) if *byte == b'/' || *byte == b'*' || byte.is_ascii_alphanumeric() || *byte == b'[' => {
                Some(Spoken::Http1)
            }
            Some(_) => Some(Spoken::Opaque),
        },
        _ => Some(Spoken::Opaque),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        for (bytes, spoken) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Spoken::Http1)),
            (b"OPTIONS * HTTP/1.1", Some(Spoken::Http1)),
            (b"CONNECT host:1", Some(Spoken::Http1)),
            (b"POST http://a/", Some(Spoken::Http1)),
            (PREFACE, Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"PRI /x HTTP/1.1", Some(Spoken::Http1)),
            (b"", None),
            (b"GE", None),
            (b"GET ", None),
            (b"\x16\x03\x01", Some(Spoken::Opaque)),
            (b"*1\r\n$4\r\nPING", Some(Spoken::Opaque)),
            (b"EHLO\r\n", Some(Spoken::Opaque)),
            (b"AAAAAAAAAAAAAAAAAAAAAAA", Some(Spoken::Opaque)),
            (b"HI \x00", Some(Spoken::Opaque)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\r\n\r", None),
            (b"\r\n", None),
            (b"\n\nGET / ", Some(Spoken::Opaque)),
        ] {
            assert_eq!(sniff(bytes), spoken, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn what_a_lenient_server_takes_for_http_is_told_from_what_none_does() {
        for bytes in [&b"get / HTTP/1.1"[..], b" GET /", b"\n\nGET /", b"GET_X /", b"SSH-2.0-x", b"", b"\r\n"] {
            assert!(could_be_http(bytes), "{bytes:?}");
        }
        for bytes in [&b"\x16\x03\x01"[..], b"\0", b"\xff\xfe", b"{\"a\":1}", b"(", b"\x80"] {
            assert!(!could_be_http(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn enough_bytes_always_decide() {
        for byte in 0..=255u8 {
            for seed in [&b"PRI * "[..], b"GET ", b"", b"PUT"] {
                let mut bytes = seed.to_vec();
                bytes.resize(PREFACE.len(), byte);
                assert!(sniff(&bytes).is_some(), "{bytes:?}");
            }
        }
    }
}
