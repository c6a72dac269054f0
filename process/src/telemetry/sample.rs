//! Pure. Metrics as values: name, labels and number of each sample, before any format has been chosen for them.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use super::line::{write_quoted, write_text};

/// What a metric measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often values fell into which bucket.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, a counter's without `_total`.
    pub name: &'static str,
    /// What it means, without a full stop.
    pub help: &'static str,
    /// What it measures.
    pub kind: Kind,
}

/// The value of one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Of a counter or gauge that counts.
    Integer(u64),
    /// Of a counter or gauge that measures.
    Float(f64),
    /// Of a histogram.
    Buckets(Buckets<'a>),
}

/// The state of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buckets<'a> {
    /// Upper bounds, each included in its bucket; there is one more bucket for what exceeds them all.
    pub bounds: &'a [f64],
    /// Observations in each bucket alone.
    pub counts: &'a [u64],
    /// Sum of all observations.
    pub sum: f64,
}

/// Takes in what is measured. Samples belong to the metric that was named last.
pub trait Collector {
    /// The samples that follow are of this metric.
    fn metric(&mut self, metric: &Metric);

    /// One sample.
    fn sample(&mut self, labels: &Labels, value: Value<'_>);

    /// A metric without labels.
    fn single(&mut self, metric: &Metric, value: Value<'_>) {
        self.metric(metric);
        self.sample(&Labels::default(), value);
    }
}

/// The labels of a series: names and values in order. Rendered once, as `a="…",b="…"` with the values escaped, which
/// is what a scrape needs of each series each time; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<str>);

impl Labels {
    /// All of them as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Each name with its value.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (name, after) = rest.trim_start_matches(',').split_once('=')?;
            let quoted = &after[..quoted_len(after)];
            rest = &after[quoted.len()..];
            let inside = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
            let value = match inside.contains('\\') {
                false => Cow::Borrowed(inside),
                // Escapes are JSON's (`escape`).
                true => serde_json::from_str(quoted).map_or(Cow::Borrowed(inside), Cow::Owned),
            };
            Some((name, value))
        })
    }
}

/// Bytes of the quoted value that a text begins with, quotes included.
fn quoted_len(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// Labels in the making.
#[derive(Debug)]
pub struct LabelsBuilder(String);

impl Default for LabelsBuilder {
    fn default() -> Self {
        Self(String::with_capacity(1024))
    }
}

impl LabelsBuilder {
    /// Adds a label. What is not known, an empty value, is `unknown`, as with ztunnel and Envoy.
    pub fn put(&mut self, name: &str, value: &str) {
        self.name(name);
        write_text(&mut self.0, if value.is_empty() { "unknown" } else { value });
    }

    /// Adds a label whose value prints itself.
    pub fn put_display(&mut self, name: &str, value: impl Display) {
        self.name(name);
        write_quoted(&mut self.0, value);
    }

    /// The labels.
    pub fn build(self) -> Labels {
        Labels(self.0.into())
    }

    fn name(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push('=');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_give_back_what_was_put_in() {
        let put = [("a", "1"), ("b", "x\"y\\"), ("c", "\\\","), ("d", "=,\"\n"), ("e", "\u{202e}é"), ("f", "z")];
        let mut builder = LabelsBuilder::default();
        for (name, value) in put {
            builder.put(name, value);
        }
        let labels = builder.build();
        let pairs: Vec<(&str, String)> = labels.pairs().map(|(name, value)| (name, value.into_owned())).collect();
        assert_eq!(pairs, put.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(Labels::default().pairs().count(), 0);
    }

    #[test]
    fn what_is_not_known_is_unknown() {
        let mut builder = LabelsBuilder::default();
        builder.put("a", "");
        builder.put_display("b", 5);
        assert_eq!(builder.build().as_str(), "a=\"unknown\",b=\"5\"");
    }
}
