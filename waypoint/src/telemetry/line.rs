//! The access log: one line per request, in the manner of the agents' lines.

use std::time::Instant;

use process::telemetry::access_line::AccessLines;
use process::telemetry::line::{Format, Line};
use process::telemetry::writer::LogWriter;
use tracing::Level;

use super::facts::Facts;

/// The access log. Clones write to the same place.
#[derive(Clone)]
pub struct RequestLog(AccessLines);

impl RequestLog {
    /// A log in `format`.
    pub fn new(writer: LogWriter, format: Format) -> Self {
        Self(AccessLines::new(writer, format))
    }

    /// A request has ended. Copies to mirrors are not logged.
    pub fn finished(&self, record: &Facts) {
        if !record.mirror {
            let failed = record.outcome.status >= 500 || record.outcome.error.is_some();
            let level = if failed { Level::ERROR } else { Level::INFO };
            self.0.write(level, "request complete", |line| fields(line, record, Instant::now()));
        }
    }
}

fn fields(line: &mut Line<'_>, record: &Facts, now: Instant) {
    line.quoted("src.addr", record.source_address);
    line.maybe("src.workload", record.source.as_ref().map(|w| &w.name));
    line.maybe("src.namespace", record.source.as_ref().map(|w| &w.namespace));
    line.quoted("src.identity", &record.source_identity);
    line.maybe("dst.addr", record.destination_address);
    line.quoted("dst.service", &record.service.hostname);
    line.maybe("dst.workload", record.destination.as_ref().map(|w| &w.name));
    line.maybe("dst.namespace", record.destination.as_ref().map(|w| &w.namespace));
    line.text("direction", "waypoint");
    line.text("method", record.method.as_str());
    line.text("path", &record.path);
    line.text("authority", &record.host);
    line.text("protocol", record.protocol);
    line.number("response_code", record.outcome.status.into());
    line.text("response_flags", record.outcome.flag.as_str());
    line.maybe("grpc_status", record.outcome.grpc.map(|code| code.name()));
    line.maybe("route", record.route.as_ref());
    line.number("retries", record.retries.into());
    line.number("bytes_recv", record.received());
    line.number("bytes_sent", record.sent);
    line.milliseconds("duration", now.duration_since(record.began));
    if let Some(took) = record.outcome.headers_after {
        line.milliseconds("upstream_duration", took);
    }
    line.maybe("trace", record.trace.map(|trace| trace.trace));
    line.maybe("request_id", record.request_id.as_ref());
    line.maybe("error", record.outcome.error.as_ref());
}
