//! The access log: one line per request, in the manner of the agents' lines.

use std::fmt::Display;
use std::time::{Instant, SystemTime};

use process::telemetry::line::{Format, write_quoted, write_time};
use process::telemetry::writer::{Kind, LogWriter};
use tracing::Level;

use super::facts::Facts;

/// The access log. Clones write to the same place.
#[derive(Clone)]
pub struct RequestLog {
    writer: LogWriter,
    format: Format,
}

impl RequestLog {
    /// A log in `format`.
    pub fn new(writer: LogWriter, format: Format) -> Self {
        Self { writer, format }
    }

    /// A request has ended. Copies to mirrors are not logged.
    pub fn finished(&self, record: &Facts) {
        let failed = record.outcome.status >= 500 || record.outcome.error.is_some();
        let wanted = match failed {
            true => tracing::enabled!(target: "access", Level::ERROR),
            false => tracing::enabled!(target: "access", Level::INFO),
        };
        if wanted && !record.mirror {
            self.writer.push(line(self.format, record, SystemTime::now(), failed).as_bytes(), Kind::Access);
        }
    }
}

struct Line {
    out: String,
    format: Format,
}

impl Line {
    fn quoted(&mut self, name: &str, value: impl Display) {
        self.key(name);
        write_quoted(&mut self.out, value);
    }

    fn number(&mut self, name: &str, value: impl Display) {
        self.key(name);
        self.out.push_str(&value.to_string());
    }

    fn maybe(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.quoted(name, value);
        }
    }

    fn key(&mut self, name: &str) {
        match self.format {
            Format::Json => {
                self.out.push(',');
                write_quoted(&mut self.out, name);
                self.out.push(':');
            }
            Format::Text => {
                self.out.push(' ');
                self.out.push_str(name);
                self.out.push('=');
            }
        }
    }
}

fn line(format: Format, record: &Facts, now: SystemTime, failed: bool) -> String {
    let mut line = Line { out: String::with_capacity(1024), format };
    let level = if failed { "error" } else { "info" };
    match format {
        Format::Json => {
            line.out.push_str("{\"level\":\"");
            line.out.push_str(level);
            line.out.push_str("\",\"time\":\"");
            write_time(&mut line.out, now);
            line.out.push_str("\",\"scope\":\"access\",\"message\":\"request complete\"");
        }
        Format::Text => {
            write_time(&mut line.out, now);
            line.out.push('\t');
            line.out.push_str(level);
            line.out.push_str("\taccess\trequest complete\t");
        }
    }
    line.quoted("src.addr", record.source_address);
    line.maybe("src.workload", record.source.as_ref().map(|w| &w.name));
    line.maybe("src.namespace", record.source.as_ref().map(|w| &w.namespace));
    line.quoted("src.identity", &record.source_identity);
    line.maybe("dst.addr", record.destination_address);
    line.quoted("dst.service", &record.service.hostname);
    line.maybe("dst.workload", record.destination.as_ref().map(|w| &w.name));
    line.maybe("dst.namespace", record.destination.as_ref().map(|w| &w.namespace));
    line.quoted("direction", "waypoint");
    line.quoted("method", &record.method);
    line.quoted("path", &record.path);
    line.quoted("authority", &record.host);
    line.quoted("protocol", record.protocol);
    line.number("response_code", record.outcome.status);
    line.quoted("response_flags", record.outcome.flag);
    line.maybe("grpc_status", record.outcome.grpc.map(|code| code.name()));
    line.maybe("route", record.route.as_ref());
    line.number("retries", record.retries);
    line.number("bytes_recv", record.received());
    line.number("bytes_sent", record.sent);
    let now = Instant::now();
    line.quoted("duration", format_args!("{}ms", now.duration_since(record.began).as_millis()));
    line.maybe("upstream_duration", record.outcome.headers_after.map(|took| format!("{}ms", took.as_millis())));
    line.maybe("trace", record.trace.map(|trace| trace.trace));
    line.maybe("request_id", record.request_id.as_ref());
    line.maybe("error", record.outcome.error.as_ref());
    line.out.push_str(if line.format == Format::Json { "}\n" } else { "\n" });
    line.out
}
