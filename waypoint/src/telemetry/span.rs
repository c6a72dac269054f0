//! Spans of our own, sent to a collector by OTLP over HTTP in its JSON form (opentelemetry-proto, OTLP/HTTP).

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::local_targets::Around;
use crate::outward;
use crate::trace::{SpanId, TraceId};
use crate::world::Worlds;

/// One span.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// The caller's span, if there is one.
    pub parent: Option<SpanId>,
    /// `METHOD route`.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Whether it failed.
    pub failed: bool,
    /// Attributes by OpenTelemetry's names.
    pub attributes: Vec<(&'static str, String)>,
}

/// Takes spans. Those that find no room are left out.
pub struct Spans {
    queue: Sender<Span>,
    waiting: Mutex<Option<Receiver<Span>>>,
}

/// Spans that wait at most.
const WAITING: usize = 4096;
/// Spans of one request to the collector.
const BATCH: usize = 512;
const LIMIT: Duration = Duration::from_secs(5);
/// Where collectors listen for OTLP over HTTP, unless the URL says otherwise.
const PORT: u16 = 4318;
/// Largest answer of a collector.
const ANSWER: usize = 64 << 10;

impl Default for Spans {
    fn default() -> Self {
        let (queue, waiting) = channel(WAITING);
        Self { queue, waiting: Mutex::new(Some(waiting)) }
    }
}

impl Spans {
    /// Takes a span.
    pub fn push(&self, span: Span) {
        let _ = self.queue.try_send(span);
    }

    /// Sends spans to the collector of the plan in effect, until shutdown.
    pub async fn export(&self, worlds: &Worlds, around: &Around, service: &str, shutdown: &CancellationToken) {
        let Some(mut waiting) = self.waiting.lock().take() else { return };
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = waiting.recv_many(&mut batch, BATCH) => {}
            }
            if let Some(collector) = worlds.load().plan.otlp.clone() {
                let sent = timeout(LIMIT, send(&collector, around, &body(service, &batch))).await;
                if let Err(error) = sent.unwrap_or_else(|_| bail_late()) {
                    tracing::warn!("spans to {collector}: {error:#}; {} are lost", batch.len());
                }
            }
            batch.clear();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn bail_late() -> Result<()> {
    bail!("no answer in {} s", LIMIT.as_secs())
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

fn body(service: &str, spans: &[Span]) -> Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let spans: Vec<Value> = spans
        .iter()
        .map(|span| {
            let attributes: Vec<Value> = span.attributes.iter().map(|(key, value)| text(key, value)).collect();
            json!({
                "traceId": span.trace.to_string(),
                "spanId": span.id.to_string(),
                "parentSpanId": span.parent.map(|parent| parent.to_string()).unwrap_or_default(),
                "name": span.name,
                // SPAN_KIND_SERVER; STATUS_CODE_ERROR or unset.
                "kind": 2,
                "startTimeUnixNano": nanos(span.start),
                "endTimeUnixNano": nanos(span.end),
                "attributes": attributes,
                "status": {"code": if span.failed { 2 } else { 0 }},
            })
        })
        .collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": [text("service.name", service)]},
        "scopeSpans": [{"scope": {"name": "culvert-waypoint"}, "spans": spans}],
    }]})
}

async fn send(collector: &str, around: &Around, body: &Value) -> Result<()> {
    let url = format!("{}/v1/traces", collector.trim_end_matches('/'));
    let request = Request::post(url).header(CONTENT_TYPE, "application/json");
    let request = request.body(Full::new(Bytes::from(body.to_string()))).context("the URL")?;
    let status = outward::ask(around, request, Some(PORT), ANSWER).await?.status();
    if status.is_success() { Ok(()) } else { bail!("status {status}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_take_the_form_that_collectors_read() {
        let span = Span {
            trace: TraceId::parse("4bf92f3577b34da6a3ce929d0e0e4736").unwrap(),
            id: SpanId::parse("00f067aa0ba902b7").unwrap(),
            parent: None,
            name: "GET /".to_owned(),
            start: SystemTime::UNIX_EPOCH + Duration::from_nanos(5),
            end: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            failed: true,
            attributes: vec![("http.request.method", "GET".to_owned())],
        };
        let body = body("wp", &[span]);
        let span = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((&span["startTimeUnixNano"], &span["status"]["code"]), (&json!("5"), &json!(2)));
        assert_eq!(span["attributes"][0]["value"]["stringValue"], "GET");
    }
}
