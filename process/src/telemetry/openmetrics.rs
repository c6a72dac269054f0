//! Pure. Samples in the OpenMetrics text format.

use std::fmt::Write;

use super::sample::{Buckets, Collector, Kind, Labels, Metric, Value};

/// Appends what it collects to a text.
pub struct OpenMetrics<'a> {
    out: &'a mut String,
    name: &'static str,
    suffix: &'static str,
}

impl<'a> OpenMetrics<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut String) -> Self {
        Self { out, name: "", suffix: "" }
    }

    fn line(&mut self, labels: &Labels, value: impl std::fmt::Display) {
        let (name, suffix, labels) = (self.name, self.suffix, labels.as_str());
        // Writing to a String does not fail.
        let _ = match labels.is_empty() {
            true => writeln!(self.out, "{name}{suffix} {value}"),
            false => writeln!(self.out, "{name}{suffix}{{{labels}}} {value}"),
        };
    }

    fn buckets(&mut self, labels: &Labels, Buckets { bounds, counts, sum }: Buckets<'_>) {
        let (name, text) = (self.name, labels.as_str());
        let comma = if text.is_empty() { "" } else { "," };
        let mut total = 0;
        for (at, count) in counts.iter().enumerate() {
            total += count;
            let _ = match bounds.get(at) {
                Some(bound) => writeln!(self.out, "{name}_bucket{{{text}{comma}le=\"{bound:?}\"}} {total}"),
                None => writeln!(self.out, "{name}_bucket{{{text}{comma}le=\"+Inf\"}} {total}"),
            };
        }
        self.suffix = "_sum";
        self.line(labels, sum);
        self.suffix = "_count";
        self.line(labels, total);
    }
}

impl Collector for OpenMetrics<'_> {
    fn metric(&mut self, metric: &Metric) {
        let Metric { name, help, kind } = *metric;
        let (kind, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram => ("histogram", ""),
        };
        (self.name, self.suffix) = (name, suffix);
        let _ = writeln!(self.out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &Labels, value: Value<'_>) {
        match value {
            Value::Integer(value) => self.line(labels, value),
            Value::Float(value) => self.line(labels, value),
            Value::Buckets(buckets) => self.buckets(labels, buckets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sample::LabelsBuilder;

    #[test]
    fn each_kind_has_the_form_that_prometheus_reads() {
        let mut out = String::new();
        let mut text = OpenMetrics::new(&mut out);
        let mut labels = LabelsBuilder::default();
        labels.put("a", "b");
        let labels = labels.build();
        text.metric(&Metric { name: "seen", help: "Things seen", kind: Kind::Counter });
        text.sample(&labels, Value::Integer(3));
        text.single(&Metric { name: "heat", help: "Heat", kind: Kind::Gauge }, Value::Float(0.5));
        text.metric(&Metric { name: "took", help: "Time", kind: Kind::Histogram });
        let buckets = Buckets { bounds: &[0.5, 1.0], counts: &[1, 0, 2], sum: 9.25 };
        text.sample(&labels, Value::Buckets(buckets));
        text.sample(&Labels::default(), Value::Buckets(Buckets { counts: &[0, 0, 0], sum: 0.0, ..buckets }));
        assert_eq!(
            out,
            "# HELP seen Things seen.\n# TYPE seen counter\nseen_total{a=\"b\"} 3\n\
             # HELP heat Heat.\n# TYPE heat gauge\nheat 0.5\n\
             # HELP took Time.\n# TYPE took histogram\n\
             took_bucket{a=\"b\",le=\"0.5\"} 1\ntook_bucket{a=\"b\",le=\"1.0\"} 1\ntook_bucket{a=\"b\",le=\"+Inf\"} 3\n\
             took_sum{a=\"b\"} 9.25\ntook_count{a=\"b\"} 3\n\
             took_bucket{le=\"0.5\"} 0\ntook_bucket{le=\"1.0\"} 0\ntook_bucket{le=\"+Inf\"} 0\n\
             took_sum 0\ntook_count 0\n"
        );
    }
}
