//! Pure. The trace headers of a request to the next hop.
//!
//! Every format that was received is forwarded, with the same trace id, and `traceparent` besides. The span id changes
//! only when we made a span of our own: a parent that nobody reports would break the tree. Unknown `tracestate` entries
//! stay.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{Context, SpanId};
use super::{b3, binary, w3c};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const GRPC_TRACE_BIN: HeaderName = HeaderName::from_static("grpc-trace-bin");

/// What a request came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Incoming {
    /// Its place in a trace: from `traceparent`, else `b3`, else `x-b3-*`, else `grpc-trace-bin`.
    pub context: Option<Context>,
    /// A sampling decision that came without ids (`b3: 0`).
    pub decided: Option<bool>,
    w3c: bool,
    single: bool,
    multi: bool,
    binary: bool,
}

impl Incoming {
    /// Reads every form. `random` decides sampling where ids came without a decision.
    pub fn read(headers: &HeaderMap, default_sampled: bool) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let w3c = text(&TRACEPARENT).and_then(w3c::parse);
        let single = text(&b3::B3).and_then(b3::parse_single);
        let multi = b3::parse_multi(headers);
        let binary = headers.get(&GRPC_TRACE_BIN).and_then(|value| binary::parse(value.as_bytes()));
        let of_b3 = |b3: b3::B3Context| {
            let (trace, span) = b3.ids?;
            Some(Context { trace, span, sampled: b3.sampled.unwrap_or(default_sampled) })
        };
        Self {
            context: w3c.or_else(|| single.and_then(of_b3)).or_else(|| multi.and_then(of_b3)).or(binary),
            decided: single.or(multi).and_then(|b3| b3.sampled),
            w3c: w3c.is_some(),
            single: single.is_some_and(|b3| b3.ids.is_some()),
            multi: multi.is_some_and(|b3| b3.ids.is_some()),
            binary: binary.is_some(),
        }
    }
}

/// Writes the headers for the next hop and returns the place of the request there. `span` is our own span, if we make
/// one; `fresh` is where a trace begins that did not come with the request.
pub fn forward(headers: &mut HeaderMap, incoming: &Incoming, span: Option<SpanId>, fresh: &Context) -> Context {
    let Some(came) = incoming.context else {
        // What was there was not valid: a vendor's state belongs to a trace that is no more.
        headers.remove(TRACESTATE);
        let begun = Context { span: span.unwrap_or(fresh.span), ..*fresh };
        put(headers, TRACEPARENT, w3c::print(&begun));
        return begun;
    };
    let next = Context { span: span.unwrap_or(came.span), ..came };
    if span.is_none() {
        if !incoming.w3c {
            headers.remove(TRACESTATE);
            put(headers, TRACEPARENT, w3c::print(&next));
        }
        return next;
    }
    if !incoming.w3c {
        headers.remove(TRACESTATE);
    }
    put(headers, TRACEPARENT, w3c::print(&next));
    if incoming.single {
        put(headers, b3::B3, b3::print_single(&next));
    }
    if incoming.multi {
        b3::write_multi(headers, &next, Some(came.span));
    }
    if incoming.binary {
        put(headers, GRPC_TRACE_BIN, binary::print(&next));
    }
    next
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn forms(sampled: bool) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
        let bit = u8::from(sampled);
        let context = w3c::parse(&format!("00-{TRACE}-{SPAN}-0{bit}")).unwrap();
        vec![
            ("w3c", vec![("traceparent", w3c::print(&context)), ("tracestate", "vendor=1,other=2".to_owned())]),
            ("b3", vec![("b3", b3::print_single(&context))]),
            (
                "multi",
                vec![
                    ("x-b3-traceid", TRACE.to_owned()),
                    ("x-b3-spanid", SPAN.to_owned()),
                    ("x-b3-sampled", bit.to_string()),
                ],
            ),
            ("binary", vec![("grpc-trace-bin", binary::print(&context))]),
        ]
    }

    fn map(headers: &[(&'static str, String)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn fresh() -> Context {
        Context::random(&mut fastrand::Rng::with_seed(3), false)
    }

    #[test]
    fn every_form_keeps_its_trace_with_and_without_a_span_of_ours() {
        let ours = SpanId::parse("1111111111111111");
        for sampled in [true, false] {
            for (form, headers) in forms(sampled) {
                for span in [None, ours] {
                    let mut headers = map(&headers);
                    let before = headers.clone();
                    let incoming = Incoming::read(&headers, !sampled);
                    let next = forward(&mut headers, &incoming, span, &fresh());
                    assert_eq!((next.trace.to_string().as_str(), next.sampled), (TRACE, sampled), "{form}");
                    let parent = w3c::parse(headers["traceparent"].to_str().unwrap()).unwrap();
                    assert_eq!(parent, next, "{form}: traceparent always goes along");
                    for (name, value) in &before {
                        if span.is_none() {
                            assert_eq!(headers.get(name), Some(value), "{form}: {name} changed");
                        }
                        assert!(headers.contains_key(name), "{form}: {name} got lost");
                    }
                    let again = Incoming::read(&headers, !sampled).context.unwrap();
                    assert_eq!(again.span, span.unwrap_or(SpanId::parse(SPAN).unwrap()), "{form}");
                }
            }
        }
    }

    #[test]
    fn an_invalid_context_begins_anew() {
        let bad = [("traceparent", format!("00-{TRACE}-0000000000000000-01")), ("tracestate", "vendor=1".to_owned())];
        let mut headers = map(&bad);
        let incoming = Incoming::read(&headers, true);
        assert_eq!(incoming.context, None);
        let next = forward(&mut headers, &incoming, None, &fresh());
        assert_eq!(next, fresh());
        assert!(!headers.contains_key("tracestate"));
        assert_eq!(headers["traceparent"], w3c::print(&fresh()));
    }

    #[test]
    fn a_decision_without_ids_is_heard() {
        let incoming = Incoming::read(&map(&[("b3", "0".to_owned())]), true);
        assert_eq!((incoming.context, incoming.decided), (None, Some(false)));
    }
}
