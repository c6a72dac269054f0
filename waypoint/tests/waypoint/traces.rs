//! Trace context in every form, by every protocol; spans for a collector.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use super::backend::{Backend, Seen, ok};
use super::rig::{Rig, SHOP, got, policy, shop};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Headers of every form; `flag` says sampled, not sampled, or nothing about it where the form can leave it open.
fn forms() -> Vec<Vec<(&'static str, String)>> {
    use base64::Engine as _;
    let binary = |flag: u8| {
        let hex = |text: &str| {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect::<Vec<u8>>()
        };
        let bytes = [&[0, 0][..], &hex(TRACE), &[1], &hex(SPAN), &[2, flag]].concat();
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
    };
    let mut forms = vec![
        vec![("b3", format!("{TRACE}-{SPAN}"))],
        vec![("x-b3-traceid", TRACE.to_owned()), ("x-b3-spanid", SPAN.to_owned())],
        vec![("b3", format!("{TRACE}-{SPAN}-d"))],
    ];
    for flag in [0, 1] {
        forms.extend([
            vec![("traceparent", format!("00-{TRACE}-{SPAN}-0{flag}")), ("tracestate", "a=1,b=2".to_owned())],
            vec![("b3", format!("{TRACE}-{SPAN}-{flag}-{SPAN}"))],
            vec![
                ("x-b3-traceid", TRACE.to_owned()),
                ("x-b3-spanid", SPAN.to_owned()),
                ("x-b3-parentspanid", "05e3ac9a4f6e3b90".to_owned()),
                ("x-b3-sampled", flag.to_string()),
            ],
            vec![("grpc-trace-bin", binary(flag))],
        ]);
    }
    forms
}

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    H1,
    H2,
    Grpc,
}

async fn call(rig: &Rig, by: By, headers: &[(&str, String)]) -> u16 {
    let mut request = match by {
        By::H1 => Request::get("/").header("host", "shop"),
        By::H2 => Request::get("http://shop/"),
        By::Grpc => {
            Request::post("http://shop/a.B/C").header("content-type", "application/grpc").header("te", "trailers")
        }
    };
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = match by {
        By::H1 => rig.call(request).await,
        By::H2 | By::Grpc => got(rig.two(SHOP).await.send_request(request).await.unwrap()).await,
    };
    answer.status
}

fn trace_of(seen: &Seen) -> String {
    seen.header("traceparent").split('-').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn every_form_survives_every_protocol_whether_sampled_or_not() {
    let rig = Rig::start(&shop("undeclared", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    for headers in forms() {
        for by in [By::H1, By::H2, By::Grpc] {
            assert_eq!(call(&rig, by, &headers).await, 200);
            let seen = backend.last();
            assert_eq!(trace_of(&seen), TRACE, "{by:?} {headers:?}");
            for (name, value) in &headers {
                assert_eq!(seen.header(name), value, "{by:?}: no span of ours, so nothing changes");
            }
            let sampled = seen.header("traceparent").ends_with("-01");
            let said = |flag: &str| headers.iter().any(|(_, value)| value.contains(&format!("{SPAN}-{flag}")));
            if headers[0].0 == "traceparent" {
                assert_eq!(sampled, said("01"), "{headers:?}");
            }
        }
    }
    rig.eventually("logged", async || rig.log().contains(TRACE)).await;
}

#[tokio::test]
async fn without_context_or_with_a_broken_one_a_trace_begins() {
    let rig = Rig::start(&shop("undeclared", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    for by in [By::H1, By::H2, By::Grpc] {
        for broken in [
            "",
            "00-zz-yy-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            let headers = if broken.is_empty() {
                vec![]
            } else {
                vec![("traceparent", broken.to_owned()), ("tracestate", "a=1".to_owned())]
            };
            assert_eq!(call(&rig, by, &headers).await, 200);
            let seen = backend.last();
            let parent: Vec<String> = seen.header("traceparent").split('-').map(str::to_owned).collect();
            assert_eq!(parent.iter().map(String::len).collect::<Vec<_>>(), [2, 32, 16, 2], "{by:?} {broken}");
            assert_ne!(parent[1], TRACE);
            assert_eq!(seen.header("tracestate"), "", "it belonged to the broken one");
        }
    }
}

#[tokio::test]
async fn spans_reach_the_collector_with_the_caller_as_parent() {
    let tracing = "{tracing: {otlp: 'http://$NET.40:8080', sampling: 1}}";
    let rig = Rig::start(&(shop("http", &[11]) + &policy(tracing))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let collector = Backend::start(&rig, 40, |_, _| ok("{}")).await;
    assert_eq!(
        call(&rig, By::H1, &[("traceparent", format!("00-{TRACE}-{SPAN}-01")), ("tracestate", "a=1".to_owned())]).await,
        200
    );
    let seen = backend.last();
    assert_eq!((trace_of(&seen).as_str(), seen.header("tracestate")), (TRACE, "a=1"));
    let own = seen.header("traceparent").split('-').nth(2).unwrap().to_owned();
    assert_ne!(own, SPAN, "the backend's parent is our span");
    rig.eventually("exported", async || collector.hits() > 0).await;
    let sent = collector.last();
    assert_eq!(sent.path(), "/v1/traces");
    let body: Value = serde_json::from_slice(&sent.body).unwrap();
    let span = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(
        (&span["traceId"], &span["spanId"], &span["parentSpanId"]),
        (&TRACE.into(), &own.as_str().into(), &SPAN.into())
    );
    let attribute = |key: &str| {
        let all = span["attributes"].as_array().unwrap();
        all.iter().find(|attribute| attribute["key"] == key).map(|attribute| attribute["value"]["stringValue"].clone())
    };
    assert_eq!(attribute("http.response.status_code"), Some("200".into()));
    assert_eq!(attribute("culvert.source"), Some("spiffe://cluster.local/ns/default/sa/client".into()));
    // Unsampled requests keep their context and make no span.
    let before = collector.hits();
    assert_eq!(call(&rig, By::H1, &[("traceparent", format!("00-{TRACE}-{SPAN}-00"))]).await, 200);
    assert_eq!(backend.last().header("traceparent"), format!("00-{TRACE}-{SPAN}-00"));
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(collector.hits(), before);
}
