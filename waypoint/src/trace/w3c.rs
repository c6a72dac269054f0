//! Pure. `traceparent` (W3C Trace Context, 3.2).

use super::context::{Context, SpanId, TraceId, push_hex};

/// Reads a `traceparent`; `None` when it is invalid, which restarts the trace.
pub fn parse(text: &str) -> Option<Context> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // Version 00 has exactly four fields; later versions may have more; ff is forbidden.
    if version.len() != 2 || !lower(version) || version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    if trace.len() != 32 || !lower(trace) || !lower(span) || flags.len() != 2 || !lower(flags) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    Some(Context { trace: TraceId::parse(trace)?, span: SpanId::parse(span)?, sampled })
}

/// Writes a `traceparent`.
pub fn print(context: &Context) -> String {
    let mut out = String::with_capacity(55);
    out.push_str("00-");
    push_hex(&mut out, &context.trace.bytes());
    out.push('-');
    push_hex(&mut out, &context.span.bytes());
    out.push_str(if context.sampled { "-01" } else { "-00" });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_prints_as_it_parses() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(text).unwrap();
        assert!(context.sampled);
        assert_eq!(print(&context), text);
    }

    #[test]
    fn invalid_ones_are_none() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-future").is_some());
    }
}
