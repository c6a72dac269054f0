//! Pure. The `traceparent` header (W3C Trace Context, 3.2).

use std::fmt;
use std::str::FromStr;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traceparent {
    /// 16 bytes, not zero.
    pub trace: u128,
    /// 8 bytes, not zero: the span that caused this one.
    pub parent: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

/// Length of the text in version 00.
const LENGTH: usize = 55;

impl Traceparent {
    /// A new, unsampled trace with random identifiers.
    pub fn new(trace: u128, parent: u64) -> Self {
        Self { trace: trace.max(1), parent: parent.max(1), flags: 0 }
    }

    /// The header's value.
    pub fn print(&self) -> String {
        let mut out = String::with_capacity(LENGTH);
        out.push_str("00-");
        push_hex(&mut out, &self.trace.to_be_bytes());
        out.push('-');
        push_hex(&mut out, &self.parent.to_be_bytes());
        out.push('-');
        push_hex(&mut out, &[self.flags]);
        out
    }
}

/// Writes bytes as lower-case hexadecimal digits.
pub fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

impl FromStr for Traceparent {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let mut field = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let lower_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            lower_hex.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let fields = (|| Some((field(2)?, field(32)?, field(16)?, field(2)?)))();
        let (version, trace, parent, flags) = fields.ok_or(())?;
        // Version 00 has exactly four fields; later ones may have more; ff is forbidden.
        if version == 0xff || version == 0 && parts.next().is_some() || trace == 0 || parent == 0 {
            return Err(());
        }
        let parent = u64::try_from(parent).map_err(drop)?;
        let flags = u8::try_from(flags).map_err(drop)?;
        Ok(Self { trace, parent, flags })
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_follows_the_recommendation() {
        for good in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000001-0000000000000001-00",
        ] {
            assert_eq!(good.parse::<Traceparent>().unwrap().to_string(), good);
        }
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-What-Comes".parse::<Traceparent>();
        assert_eq!(later.unwrap().to_string(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        for bad in [
            "",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
            "00-8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(bad.parse::<Traceparent>().is_err(), "{bad}");
        }
    }
}
