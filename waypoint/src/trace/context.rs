//! Pure. The ids of a trace and whether it is recorded.

use std::fmt;

use transport::hbone::push_hex;

/// The id of a trace, never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span, never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// Where in a trace a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The caller's span.
    pub span: SpanId,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl TraceId {
    /// An id of these bytes, unless they are all zero.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Reads 32 hexadecimal digits, or 16, which B3 allows: then the first half is zero.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        match text.len() {
            32 => read_hex(text, &mut bytes)?,
            16 => read_hex(text, &mut bytes[8..])?,
            _ => return None,
        }
        Self::new(bytes)
    }

    /// The bytes, most significant first.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    /// An id of these bytes, unless they are all zero.
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// Reads 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 8];
        if text.len() != 16 {
            return None;
        }
        read_hex(text, &mut bytes)?;
        Self::new(bytes)
    }

    /// A fresh id.
    pub fn random(random: &mut fastrand::Rng) -> Self {
        Self(random.u64(1..).to_be_bytes())
    }

    /// The bytes, most significant first.
    pub fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl Context {
    /// The start of a new trace.
    pub fn random(random: &mut fastrand::Rng, sampled: bool) -> Self {
        Self { trace: TraceId(random.u128(1..).to_be_bytes()), span: SpanId::random(random), sampled }
    }
}

fn read_hex(text: &str, into: &mut [u8]) -> Option<()> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks_exact(2);
    for (pair, byte) in pairs.zip(into) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::with_capacity(32);
        push_hex(&mut out, &self.0);
        f.write_str(&out)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::with_capacity(16);
        push_hex(&mut out, &self.0);
        f.write_str(&out)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
