//! Pure. `traceparent` (W3C Trace Context, 3.2).

use transport::hbone::Traceparent;

use super::context::{Context, SpanId, TraceId};

/// Reads a `traceparent`; `None` when it is invalid, which restarts the trace.
pub fn parse(text: &str) -> Option<Context> {
    let Traceparent { trace, parent, flags } = text.trim().parse().ok()?;
    let (trace, span) = (TraceId::new(trace.to_be_bytes())?, SpanId::new(parent.to_be_bytes())?);
    Some(Context { trace, span, sampled: flags & 1 == 1 })
}

/// Writes a `traceparent`. Of the flags it has the one that we know.
pub fn print(context: &Context) -> String {
    let (trace, parent) = (u128::from_be_bytes(context.trace.bytes()), u64::from_be_bytes(context.span.bytes()));
    Traceparent { trace, parent, flags: u8::from(context.sampled) }.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_prints_as_it_parses() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(&format!(" {text}")).unwrap();
        assert!(context.sampled);
        assert_eq!(print(&context), text);
        assert_eq!(parse(&text.to_uppercase()), None);
    }
}
