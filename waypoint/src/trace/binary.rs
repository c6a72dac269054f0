//! Pure. `grpc-trace-bin` (OpenCensus binary encoding, as gRPC carries it: base64, padding optional).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::context::{Context, SpanId, TraceId};

/// Length of version, three tagged fields and their values.
const LENGTH: usize = 1 + (1 + 16) + (1 + 8) + (1 + 1);

/// Reads the header's value.
pub fn parse(value: &[u8]) -> Option<Context> {
    let unpadded: &[u8] = &value[..value.len() - value.iter().rev().take_while(|byte| **byte == b'=').count()];
    let bytes: [u8; LENGTH] = STANDARD_NO_PAD.decode(unpadded).ok()?.try_into().ok()?;
    if (bytes[0], bytes[1], bytes[18], bytes[27]) != (0, 0, 1, 2) {
        return None;
    }
    Some(Context {
        trace: TraceId::new(bytes[2..18].try_into().ok()?)?,
        span: SpanId::new(bytes[19..27].try_into().ok()?)?,
        sampled: bytes[28] & 1 == 1,
    })
}

/// Writes the header's value.
pub fn print(context: &Context) -> String {
    let mut bytes = [0; LENGTH];
    bytes[2..18].copy_from_slice(&context.trace.bytes());
    bytes[18] = 1;
    bytes[19..27].copy_from_slice(&context.span.bytes());
    bytes[27] = 2;
    bytes[28] = u8::from(context.sampled);
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_as_it_parses_with_and_without_padding() {
        let context = Context::random(&mut fastrand::Rng::with_seed(1), true);
        let text = print(&context);
        assert_eq!(parse(text.as_bytes()), Some(context));
        assert_eq!(parse(text.trim_end_matches('=').as_bytes()), Some(context));
        assert_eq!(parse(b"AAAA"), None);
        assert_eq!(parse(b"!!"), None);
        assert_eq!(parse(b""), None);
    }
}
