//! Observing an agent: its log, metrics and admin server.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::process::Place;

/// One line of a log in JSON.
#[derive(Clone, Debug, Default)]
pub struct LogLine {
    fields: serde_json::Map<String, Value>,
}

impl LogLine {
    /// Parses a line; `None` when it is not an object.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok().map(|fields| Self { fields })
    }

    /// A field as text; empty when absent.
    pub fn get(&self, name: &str) -> String {
        match self.fields.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// A field as a number; 0 when absent.
    pub fn number(&self, name: &str) -> u64 {
        match self.fields.get(name) {
            Some(Value::Number(n)) => n.as_u64().unwrap_or(0),
            Some(Value::String(text)) => text.parse().unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether it is a line of the access log.
    pub fn is_access(&self) -> bool {
        self.get("scope").contains("access") || self.get("target").contains("access")
    }

    /// The line as it was.
    pub fn text(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }
}

/// The lines of a log file, in order; lines that are not JSON are left out.
pub fn log_lines(file: &Path) -> Result<Vec<LogLine>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(text.lines().filter_map(LogLine::parse).collect())
}

/// Samples of a metrics page: full series name with labels, and value.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Metrics {
    /// Parses the text format of Prometheus.
    pub fn parse(page: &str) -> Self {
        let samples = page.lines().filter(|l| !l.starts_with('#')).filter_map(parse_sample).collect();
        Self { samples }
    }

    /// Sum of the series of a name whose labels include all of these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|(n, have, _)| n == name && labels.iter().all(|(k, v)| have.get(*k).is_some_and(|h| h == v)))
            .map(|(_, _, value)| value)
            .sum()
    }

    /// Whether there is any series of this name.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|(n, _, _)| n == name)
    }
}

fn parse_sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (series, rest) = match line.find('{') {
        None => line.split_once(' ')?,
        Some(_) => line.rsplit_once("} ")?,
    };
    let value = rest.split(' ').next()?.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series.to_owned(), BTreeMap::new(), value));
    };
    let mut parsed = BTreeMap::new();
    for pair in labels.trim_end_matches('}').split("\",") {
        if let Some((key, value)) = pair.split_once("=\"") {
            parsed.insert(key.trim().to_owned(), value.trim_end_matches('"').to_owned());
        }
    }
    Some((name.to_owned(), parsed, value))
}

/// One HTTP request from a place. Gives status and body.
pub fn http(place: &Place, address: SocketAddr, method: &str, path: &str) -> Result<(u16, String)> {
    let answer = place.inside(|| -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{path}: no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body) } else { body.to_owned() }))
}

/// GET that must be answered with 200.
pub fn get(place: &Place, port: u16, path: &str) -> Result<String> {
    let (status, body) = http(place, SocketAddr::from(([127, 0, 0, 1], port)), "GET", path)?;
    ensure!(status == 200, "GET :{port}{path}: {status} {body}");
    Ok(body)
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        let Some(chunk) = rest.get(..size).filter(|c| !c.is_empty()) else { break };
        whole.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let page = "# HELP x y\n\
            istio_tcp_connections_opened_total{reporter=\"source\",source_app=\"a,b\"} 2\n\
            istio_tcp_connections_opened_total{reporter=\"destination\",source_app=\"c\"} 3\n\
            process_open_fds 12\n";
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &[]), 5.0);
        assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &[("reporter", "source")]), 2.0);
        assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &[("source_app", "a,b")]), 2.0);
        assert_eq!(metrics.sum("process_open_fds", &[]), 12.0);
        assert!(!metrics.has("nothing"));
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}
