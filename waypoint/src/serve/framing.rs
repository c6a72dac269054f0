//! Pure. Follows where the requests of an HTTP/1 connection begin and end, byte by byte, and refuses heads that two
//! parsers could read differently (RFC 9112, 5.2, 6.1, 6.3, 11.2). The parser behind it sees only heads that passed.
//!
//! Stricter than the standard asks a server to be: a length beside chunked, a length given twice, lines that end
//! without CR, folded lines and any coding but `chunked` are refused, whoever sends them.

use http::HeaderName;

use crate::request::hygiene::{MAX_HEAD, MAX_HEADERS};

/// Why a request cannot be let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A line of the head that does not end in CR LF, or a lone CR.
    Line,
    /// A line that begins with white space: what older standards took for the continuation of the line before.
    Folded,
    /// More than one length, or one that is not a number.
    Length,
    /// Another coding than `chunked`, or more than one.
    Coding,
    /// Both a length and a coding.
    Both,
    /// The head is too large, or has too many lines.
    Large,
    /// A header line without a valid name or value.
    Header,
    /// Chunked encoding that is not valid.
    Chunk,
    /// A target with a fragment, which some drop and some take for a part of the path.
    Target,
}

impl Refused {
    /// A short word for the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Folded => "folded-line",
            Self::Length => "length",
            Self::Coding => "coding",
            Self::Both => "length-and-coding",
            Self::Large => "large",
            Self::Header => "header",
            Self::Chunk => "chunk",
            Self::Target => "target",
        }
    }
}

/// How many bytes are accepted, and why no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Bytes that are accepted.
    pub good: usize,
    /// Why the next ones are refused.
    pub why: Refused,
    /// What must follow them before another header can; `None` when none can.
    pub then: Option<&'static str>,
}

/// The position within the requests of a connection.
#[derive(Debug)]
pub struct Framing {
    at: At,
    /// The line so far, when it is spread over several reads.
    line: Vec<u8>,
    /// Bytes of this head so far.
    head: usize,
    /// Its headers so far.
    headers: usize,
    length: Option<u64>,
    chunked: bool,
    /// The target has a fragment; said where a header can stand.
    fragment: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before a request line.
    Start,
    /// Among the lines of headers.
    Headers,
    /// In a body, or in a chunk with its CR LF, of which so much is left.
    Body { left: u64, then: Then },
    /// In the line that gives a chunk's size.
    Size,
    /// In the lines after the last chunk.
    Trailers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Start,
    Size,
}

impl Default for Framing {
    fn default() -> Self {
        Self { at: At::Start, line: vec![], head: 0, headers: 0, length: None, chunked: false, fragment: false }
    }
}

impl Framing {
    /// Takes the next bytes in.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            if let At::Body { left, then } = self.at {
                let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                done += skipped;
                let left = left - skipped as u64;
                self.at = match (left, then) {
                    (0, Then::Start) => At::Start,
                    (0, Then::Size) => At::Size,
                    _ => At::Body { left, then },
                };
                continue;
            }
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.grow(rest.len()).map_err(|why| self.stop(done, why))?;
                self.line.extend_from_slice(rest);
                return Ok(());
            };
            self.grow(end + 1).map_err(|why| self.stop(done, why))?;
            let then = self.then();
            let part = &rest[..end];
            let judged = if self.line.is_empty() {
                self.judge(part)
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(part);
                let judged = self.judge(&line);
                line.clear();
                self.line = line;
                judged
            };
            judged.map_err(|why| Stop { good: done, why, then })?;
            done += end + 1;
        }
        Ok(())
    }

    fn grow(&mut self, by: usize) -> Result<(), Refused> {
        self.head += by;
        if self.head > MAX_HEAD { Err(Refused::Large) } else { Ok(()) }
    }

    fn stop(&self, good: usize, why: Refused) -> Stop {
        Stop { good, why, then: self.then() }
    }

    /// Between lines nothing is needed, in the middle of a value its end.
    fn then(&self) -> Option<&'static str> {
        match (self.at, self.line.is_empty()) {
            (At::Headers, true) => Some(""),
            (At::Headers, false) if self.line.contains(&b':') => Some("\r\n"),
            _ => None,
        }
    }

    /// Judges a line without its LF.
    fn judge(&mut self, line: &[u8]) -> Result<(), Refused> {
        let Some((b'\r', line)) = line.split_last() else { return Err(Refused::Line) };
        if line.contains(&b'\r') {
            return Err(Refused::Line);
        }
        match self.at {
            // Empty lines before a request are to be ignored (RFC 9112, 2.2).
            At::Start if line.is_empty() => {}
            At::Start => {
                self.at = At::Headers;
                (self.length, self.chunked, self.headers) = (None, false, 0);
                self.fragment = line.contains(&b'#');
            }
            At::Headers if self.fragment => return Err(Refused::Target),
            At::Headers if line.is_empty() => self.body()?,
            At::Headers => self.header(line)?,
            At::Size => self.size(line)?,
            At::Trailers if line.is_empty() => self.restart(At::Start),
            At::Trailers if folded(line) => return Err(Refused::Folded),
            At::Trailers | At::Body { .. } => {}
        }
        Ok(())
    }

    fn restart(&mut self, at: At) {
        self.at = at;
        self.head = 0;
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Refused> {
        if folded(line) {
            return Err(Refused::Folded);
        }
        self.headers += 1;
        if self.headers > MAX_HEADERS {
            return Err(Refused::Large);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Refused::Header)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_control = |byte: &u8| *byte < b' ' && *byte != b'\t' || *byte == 0x7f;
        if value.iter().any(is_control) || HeaderName::from_bytes(name).is_err() {
            return Err(Refused::Header);
        }
        // No other name begins so: most lines end here.
        if !matches!(line[0] | 0x20, b'c' | b't') {
            return Ok(());
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let number: u64 = number.and_then(|text| text.parse().ok()).ok_or(Refused::Length)?;
            if self.length.replace(number).is_some() {
                return Err(Refused::Length);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refused::Coding);
            }
            self.chunked = true;
        }
        if self.chunked && self.length.is_some() { Err(Refused::Both) } else { Ok(()) }
    }

    fn body(&mut self) -> Result<(), Refused> {
        let at = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Refused::Both),
            (true, None) => At::Size,
            (false, None | Some(0)) => At::Start,
            (false, Some(left)) => At::Body { left, then: Then::Start },
        };
        self.restart(at);
        Ok(())
    }

    fn size(&mut self, line: &[u8]) -> Result<(), Refused> {
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let digits = std::str::from_utf8(size).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let size = digits.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(Refused::Chunk)?;
        let at = match size {
            0 => At::Trailers,
            size => At::Body { left: size.checked_add(2).ok_or(Refused::Chunk)?, then: Then::Size },
        };
        self.restart(at);
        Ok(())
    }
}

fn folded(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(bytes: &[u8]) -> Option<Refused> {
        Framing::default().follow(bytes).err().map(|stop| stop.why)
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (bytes, refused) in [
            (&b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"[..], Refused::Both),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Refused::Both),
            (b"POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", Refused::Length),
            (b"POST / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n", Refused::Length),
            (b"POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n", Refused::Length),
            (b"POST / HTTP/1.1\r\ncontent-length:\r\n\r\n", Refused::Length),
            (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Refused::Coding),
            (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", Refused::Coding),
            (b"GET / HTTP/1.1\nhost: a\r\n\r\n", Refused::Line),
            (b"GET / HTTP/1.1\r\nhost: a\n\r\n", Refused::Line),
            (b"GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", Refused::Line),
            (b"GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n", Refused::Folded),
            (b"GET / HTTP/1.1\r\nhost : a\r\n\r\n", Refused::Header),
            (b"GET / HTTP/1.1\r\nhost\r\n\r\n", Refused::Header),
            (b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n", Refused::Header),
            (b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", Refused::Target),
            (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\n", Refused::Chunk),
            (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\nhello", Refused::Line),
        ] {
            assert_eq!(refusal(bytes), Some(refused), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_next_request_is_looked_at_where_it_begins() {
        let bad = b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        for good in [
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"\r\nGET / HTTP/1.1\r\ncookie: a=1\r\n\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n\r\n\r\n\n",
            b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=y\r\n0123\n\n6789\r\n0\r\ntrailer: 1\r\n\r\n",
        ] {
            assert_eq!(refusal(good), None, "{}", String::from_utf8_lossy(good));
            let both = [good, good, bad].concat();
            assert_eq!(refusal(&both), Some(Refused::Both), "{}", String::from_utf8_lossy(good));
        }
    }

    proptest! {
        #[test]
        fn reads_may_end_anywhere(cuts in prop::collection::vec(0usize..160, 0..8), body in "[a-z\r\n]{0,20}") {
            let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            let chunks = if body.is_empty() { "0\r\n\r\n".to_owned() } else { chunk };
            let text = format!(
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{chunks}GET / HTTP/1.1\r\n",
                body.len()
            );
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.push(0);
            cuts.push(text.len());
            cuts.sort_unstable();
            let mut framing = Framing::default();
            for pair in cuts.windows(2) {
                prop_assert_eq!(framing.follow(&text.as_bytes()[pair[0]..pair[1]]), Ok(()));
            }
            prop_assert_eq!(framing.at, At::Headers);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Framing::default().follow(&bytes);
        }
    }
}
