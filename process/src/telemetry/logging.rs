//! The process's own log: `tracing` events as text or JSON lines, at a level that can be changed while it runs.
//!
//! Text: `time<TAB>level<TAB>target[:span{fields}]<TAB>message<TAB>key=value …`, as ztunnel writes it.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use thiserror::Error;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use super::escape::{Escaped, Visible};
use super::line::{Format, level_name, write_quoted, write_time};
use super::writer::LogWriter;

/// Why the log could not be set up or changed.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// Not a list of `level` and `target=level`.
    #[error(
        "{text:?} is not a log level: expected error, warn, info, debug, trace or off, or target=level, comma separated"
    )]
    Level {
        /// What was given.
        text: String,
    },
    /// Another subscriber is installed already.
    #[error("the log was set up before")]
    Twice,
}

/// Changes the level of the log. Clones change the same.
#[derive(Clone)]
pub struct LogControl {
    current: Arc<Mutex<String>>,
    reload: Arc<dyn Fn(Targets) + Send + Sync>,
}

impl LogControl {
    /// Sets the level: `debug`, or more precisely `info,transport::hbone=trace,access=off`.
    pub fn set(&self, levels: &str) -> Result<(), LoggingError> {
        let targets = parse(levels)?;
        let mut current = self.current.lock();
        (self.reload)(targets);
        levels.clone_into(&mut current);
        Ok(())
    }

    /// The level in effect, as it was given.
    pub fn current(&self) -> String {
        self.current.lock().clone()
    }

    /// A control that is connected to nothing: for tests of what uses one.
    pub fn detached(levels: &str) -> Self {
        Self { current: Arc::new(Mutex::new(levels.to_owned())), reload: Arc::new(|_| ()) }
    }
}

/// The crates whose log `-v` shows more of.
const OWN: [&str; 7] = ["culvert", "agent", "waypoint", "mesh", "sources", "transport", "process"];

/// Pure. The levels to start with: `environment` (`RUST_LOG`) wins; each `-v` says more of our own code.
pub fn initial_levels(verbosity: u8, environment: Option<&str>) -> String {
    let own = |level: &str| OWN.iter().map(|name| format!(",{name}={level}")).collect::<String>();
    match (environment, verbosity) {
        (Some(levels), _) if !levels.trim().is_empty() => levels.trim().to_owned(),
        (_, 0) => "info,access=info".to_owned(),
        (_, 1) => format!("info{}", own("debug")),
        (_, 2) => format!("info{},access=debug", own("trace")),
        _ => "trace".to_owned(),
    }
}

/// Sets up the log of the process. Call once, first thing.
pub fn init(writer: LogWriter, format: Format, levels: &str) -> Result<LogControl, LoggingError> {
    let (subscriber, control) = subscriber(writer, format, levels)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)?;
    Ok(control)
}

fn subscriber(
    writer: LogWriter,
    format: Format,
    levels: &str,
) -> Result<(impl Subscriber + Send + Sync, LogControl), LoggingError> {
    let (filter, handle) = reload::Layer::new(parse(levels)?);
    let lines = tracing_subscriber::fmt::layer().event_format(Lines(format)).with_ansi(false).with_writer(writer);
    let control = LogControl {
        current: Arc::new(Mutex::new(levels.to_owned())),
        // It can only be refused after the subscriber is gone, and then there is no log to change.
        reload: Arc::new(move |targets| drop(handle.reload(targets))),
    };
    Ok((tracing_subscriber::registry().with(filter).with(lines), control))
}

fn parse(levels: &str) -> Result<Targets, LoggingError> {
    let wrong = || LoggingError::Level { text: levels.to_owned() };
    // `Targets` takes a lone word for a target to be shown in full: a misspelt level would open the flood gates.
    // And an empty level means `error` to it.
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let mut parts = Vec::new();
    for part in levels.split(',') {
        match part.split_once('=').map(|(target, level)| (target.trim(), level.trim())) {
            Some((target, level)) if !target.is_empty() && is_level(level) => parts.push(format!("{target}={level}")),
            None if is_level(part.trim()) => parts.push(part.trim().to_owned()),
            _ => return Err(wrong()),
        }
    }
    parts.join(",").parse().map_err(|_| wrong())
}

/// Writes one event as one line.
struct Lines(Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let mut fields = Fields { format: self.0, message: String::new(), rest: String::new() };
        event.record(&mut fields);
        let mut line = String::with_capacity(256);
        let spans = Spans::of(context, event);
        let level = level_name(*meta.level());
        match self.0 {
            Format::Text => {
                write_time(&mut line, SystemTime::now());
                write!(line, "\t{level}\t{}", meta.target())?;
                // A span's fields may come from outside: they must not end the column.
                write!(Visible(&mut line), "{spans}")?;
                write!(line, "\t{}\t{}", fields.message, fields.rest)?;
            }
            Format::Json => {
                write!(line, "{{\"level\":\"{level}\",\"time\":\"")?;
                write_time(&mut line, SystemTime::now());
                line.push_str("\",\"scope\":");
                write_quoted(&mut line, format_args!("{}{spans}", meta.target()));
                line.push_str(",\"message\":");
                // The message was escaped for text; JSON quotes it from the start.
                line.push_str(if fields.message.is_empty() { "\"\"" } else { &fields.message });
                line.push_str(&fields.rest);
                line.push('}');
            }
        }
        out.write_str(line.trim_end_matches('\t'))?;
        out.write_char('\n')
    }
}

/// `:span{fields}` for each span around an event, outermost first.
struct Spans(String);

impl Spans {
    fn of<S, N>(context: &FmtContext<'_, S, N>, event: &Event<'_>) -> Self
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        let mut out = String::new();
        for span in context.lookup_current().filter(|_| !event.is_root()).iter().flat_map(|s| s.scope().from_root()) {
            out.push(':');
            out.push_str(span.name());
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|f| !f.is_empty()) {
                let _ = write!(out, "{{{fields}}}");
            }
        }
        Self(out)
    }
}

impl fmt::Display for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Fields {
    format: Format,
    message: String,
    rest: String,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl fmt::Display, quote: bool) {
        match (self.format, field.name()) {
            (Format::Text, "message") => {
                let _ = write!(Escaped(&mut self.message), "{value}");
            }
            (Format::Json, "message") => write_quoted(&mut self.message, value),
            (Format::Text, name) => {
                let _ = write!(self.rest, "{}{name}=", if self.rest.is_empty() { "" } else { " " });
                if quote {
                    write_quoted(&mut self.rest, value);
                } else {
                    let _ = write!(Escaped(&mut self.rest), "{value}");
                }
            }
            (Format::Json, name) => {
                let _ = write!(self.rest, ",\"{name}\":");
                if quote {
                    write_quoted(&mut self.rest, value);
                } else {
                    let _ = write!(self.rest, "{value}");
                }
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // `%value` arrives here too: bare in text, as ztunnel shows it, and always a string in JSON.
        self.put(field, format_args!("{value:?}"), self.format == Format::Json);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value, true);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value, true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value, false);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value, false);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value, false);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON knows no NaN and no infinity.
        self.put(field, value, self.format == Format::Json && !value.is_finite());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    struct Sink(mpsc::Sender<Vec<u8>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `run` logs, without the time of each line.
    fn logged(format: Format, levels: &str, run: impl FnOnce(&LogControl)) -> Vec<String> {
        let (sender, written) = mpsc::channel();
        let writer = LogWriter::to(Sink(sender)).unwrap();
        let (subscriber, control) = subscriber(writer.clone(), format, levels).unwrap();
        tracing::subscriber::with_default(subscriber, || run(&control));
        assert!(writer.flush(Duration::from_secs(10)));
        let text = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
        let time = text.find("20").map_or("", |at| &text[at..at + "2026-11-22T13:00:00.000000Z".len()]).to_owned();
        assert!(text.is_empty() || time.ends_with('Z'), "{text}");
        let cut = |line: &str| match format {
            Format::Text => line.split_once('\t').unwrap().1.to_owned(),
            Format::Json => {
                let (before, after) = line.split_once(",\"time\":\"").unwrap();
                format!("{before}{}", after.split_once('"').unwrap().1)
            }
        };
        text.lines().map(cut).collect()
    }

    fn say() {
        let span = tracing::info_span!(target: "mesh", "tunnel", peer = %"10.0.0.1");
        let _in_span = span.enter();
        tracing::info!(target: "mesh::hbone", streams = 3, name = "a \"b\"", addr = %"10.0.0.2:80", ok = true, "a\ttunnel");
    }

    #[test]
    fn text_is_tab_separated() {
        let lines = logged(Format::Text, "info", |_| say());
        let expected = "info\tmesh::hbone:tunnel{peer=10.0.0.1}\ta\\ttunnel\tstreams=3 name=\"a \\\"b\\\"\" addr=10.0.0.2:80 ok=true";
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn json_is_one_object_to_a_line() {
        let lines = logged(Format::Json, "info", |_| say());
        let expected = r#"{"level":"info","scope":"mesh::hbone:tunnel{peer=10.0.0.1}","message":"a\ttunnel","streams":3,"name":"a \"b\"","addr":"10.0.0.2:80","ok":true}"#;
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn nothing_that_comes_from_outside_reaches_the_log_raw() {
        let hostile = "a\u{1b}[2J\u{85}\u{9b}1A\u{2028}\u{202e}\t\nb";
        for format in [Format::Text, Format::Json] {
            let lines = logged(format, "info", |_| {
                let span = tracing::info_span!(target: "mesh", "tunnel", peer = %hostile, name = hostile);
                let _in_span = span.enter();
                tracing::info!(target: "mesh", by_display = %hostile, by_debug = ?hostile, text = hostile, "{hostile}");
            });
            assert_eq!(lines.len(), 1, "{lines:?}");
            let hidden = |character: char| crate::telemetry::escape::is_hidden(character) && character != '\t';
            assert!(!lines[0].contains(hidden), "{lines:?}");
            let tabs = if format == Format::Text { 3 } else { 0 };
            assert_eq!(lines[0].matches('\t').count(), tabs, "{lines:?}");
            assert!(
                format == Format::Text || serde_json::from_str::<serde_json::Value>(&lines[0]).is_ok(),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_message_without_fields_ends_at_the_message() {
        let lines = logged(Format::Text, "info", |_| tracing::info!(target: "agent", "ready"));
        assert_eq!(lines, ["info\tagent\tready"]);
    }

    #[test]
    fn the_level_changes_at_run_time() {
        let lines = logged(Format::Text, "warn", |control| {
            tracing::info!(target: "agent", "unheard");
            control.set("debug").unwrap();
            tracing::debug!(target: "agent", "heard");
            control.set("info,agent=off").unwrap();
            tracing::error!(target: "agent", "unheard");
            assert_eq!(control.current(), "info,agent=off");
        });
        assert_eq!(lines, ["debug\tagent\theard"]);
    }

    #[test]
    fn a_misspelt_level_is_refused_and_changes_nothing() {
        let control = LogControl::detached("info");
        for wrong in ["", "loud", "info,mesh", "mesh=loud", "=info", "info,,warn", "info;warn"] {
            let error = control.set(wrong).unwrap_err().to_string();
            assert!(error.contains("is not a log level"), "{error}");
        }
        assert_eq!(control.current(), "info");
        for right in ["off", "ERROR", "info,mesh::hbone=trace", " info , access = warn "] {
            assert!(control.set(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_flag() {
        assert_eq!(initial_levels(2, Some("warn")), "warn");
        assert!(initial_levels(0, Some(" ")).starts_with("info"));
        for verbosity in 0..4 {
            assert!(parse(&initial_levels(verbosity, None)).is_ok());
        }
        assert!(initial_levels(1, None).contains(",transport=debug"));
        assert!(initial_levels(2, None).contains(",sources=trace"));
    }
}
