//! Pure. B3 propagation, as one header or several (openzipkin/b3-propagation).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{Context, SpanId, TraceId};

/// The single header.
pub const B3: HeaderName = HeaderName::from_static("b3");
/// The trace id of the several.
pub const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
/// The span id of the several.
pub const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
/// The parent's span id of the several.
pub const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
/// The sampling decision of the several.
pub const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
/// `1` means debug, which implies sampled.
pub const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// A B3 context: ids, and a sampling decision if one was made. Either may come alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct B3Context {
    /// Trace and span.
    pub ids: Option<(TraceId, SpanId)>,
    /// The decision; `None` leaves it to us.
    pub sampled: Option<bool>,
}

fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Reads the single header: `trace-span[-sampled[-parent]]` or a decision alone.
pub fn parse_single(text: &str) -> Option<B3Context> {
    let mut parts = text.trim().split('-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        return decision(first).map(|sampled| B3Context { ids: None, sampled: Some(sampled) });
    };
    let ids = Some((TraceId::parse(first)?, SpanId::parse(span)?));
    Some(B3Context { ids, sampled: parts.next().and_then(decision) })
}

/// Reads the several headers.
pub fn parse_multi(headers: &HeaderMap) -> Option<B3Context> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let debug = text(&FLAGS) == Some("1");
    let sampled = if debug { Some(true) } else { text(&SAMPLED).and_then(decision) };
    let ids = text(&TRACE_ID).and_then(TraceId::parse).zip(text(&SPAN_ID).and_then(SpanId::parse));
    (ids.is_some() || sampled.is_some()).then_some(B3Context { ids, sampled })
}

/// Writes the single header.
pub fn print_single(context: &Context) -> String {
    format!("{}-{}-{}", context.trace, context.span, u8::from(context.sampled))
}

/// Writes the several headers; the caller's span becomes the parent.
pub fn write_multi(headers: &mut HeaderMap, context: &Context, parent: Option<SpanId>) {
    let mut set = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    };
    set(TRACE_ID, context.trace.to_string());
    set(SPAN_ID, context.span.to_string());
    set(SAMPLED, u8::from(context.sampled).to_string());
    if let Some(parent) = parent {
        set(PARENT, parent.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_form_is_read() {
        let trace = "80f198ee56343ba864fe8b2a57d3eff7";
        let full = parse_single(&format!("{trace}-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90")).unwrap();
        assert_eq!(full.sampled, Some(true));
        let (id, span) = full.ids.unwrap();
        assert_eq!(print_single(&Context { trace: id, span, sampled: true }), format!("{trace}-e457b5a2e4d86bd1-1"));
        assert_eq!(parse_single(&format!("{trace}-e457b5a2e4d86bd1")).unwrap().sampled, None);
        assert_eq!(parse_single("0"), Some(B3Context { ids: None, sampled: Some(false) }));
        assert_eq!(parse_single("d").unwrap().sampled, Some(true));
        assert_eq!(
            parse_single("64fe8b2a57d3eff7-e457b5a2e4d86bd1").unwrap().ids.unwrap().0.to_string(),
            "000000000000000064fe8b2a57d3eff7"
        );
        for text in ["", "x", "1-2", "80f198ee56343ba864fe8b2a57d3eff7-", "0000000000000000-e457b5a2e4d86bd1"] {
            assert_eq!(parse_single(text), None, "{text}");
        }
    }

    #[test]
    fn debug_implies_sampled() {
        let mut headers = HeaderMap::new();
        assert_eq!(parse_multi(&headers), None);
        headers.insert(FLAGS, HeaderValue::from_static("1"));
        assert_eq!(parse_multi(&headers).unwrap().sampled, Some(true));
    }
}
