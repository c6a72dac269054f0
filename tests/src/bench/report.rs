//! Pure. What a bench says at its end: a table for people, JSON for programs.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// One bench run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// `capture`, `tunnel`, `memory` or `waypoint`.
    pub bench: String,
    /// What the machine was.
    pub machine: serde_json::Value,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What compares with what.
    pub ratios: Vec<Ratio>,
    /// What the page draws beside the bars of its measures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<Chart>,
    /// Measures that the page shows as bars. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bars: Vec<String>,
    /// What a reader must know to read the figures rightly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Several benches of one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct All {
    /// `all`.
    pub bench: String,
    /// The runs, in the order in which they are shown.
    pub benches: Vec<Report>,
}

/// Lines over an axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// Label of the horizontal axis, with its unit.
    pub x: String,
    /// Label of the vertical axis, with its unit.
    pub y: String,
    /// How the axes are divided.
    pub axes: Axes,
    /// One line per subject.
    pub lines: Vec<Line>,
}

/// How the axes of a chart are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axes {
    /// Both evenly, from zero.
    Linear,
    /// A share of all (0 to below 1) by the number of its nines, against a logarithmic axis.
    Quantiles,
}

/// One line of a chart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Whose it is.
    pub subject: String,
    /// Its points, left to right.
    pub points: Vec<(f64, f64)>,
}

/// One measure of one subject over all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Stable name of what was measured.
    pub measure: String,
    /// Unit of the three values.
    pub unit: String,
    /// `none`, `iptables`, `envoy`, `culvert`, …
    pub subject: String,
    /// Number of rounds.
    pub n: usize,
    /// Smallest value.
    pub min: f64,
    /// Middle value.
    pub median: f64,
    /// Largest value.
    pub max: f64,
}

/// One subject against another: the median of the quotients of each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ratio {
    /// The measure.
    pub measure: String,
    /// The dividend.
    pub subject: String,
    /// The divisor.
    pub against: String,
    /// Their quotient.
    pub ratio: f64,
}

impl Report {
    /// The report as a table, with the ratio to each other subject at the end of a line.
    pub fn table(&self) -> String {
        let mut text = format!("bench {}: {}\n\n", self.bench, machine_line(&self.machine));
        // Some names of measures are long.
        let width = self.rows.iter().map(|row| row.measure.len()).max().unwrap_or(0).max(27);
        let _written = writeln!(
            text,
            "{:<width$} {:<8} {:<16} {:>3} {:>10} {:>10} {:>10}   ratio",
            "measure", "unit", "subject", "n", "min", "median", "max"
        );
        let mut last = "";
        for row in &self.rows {
            let measure = if row.measure == last { "" } else { &row.measure };
            last = &row.measure;
            let unit = if measure.is_empty() { "" } else { &row.unit };
            let ratios: Vec<String> = self
                .ratios
                .iter()
                .filter(|ratio| ratio.measure == row.measure && ratio.subject == row.subject)
                .map(|ratio| match ratio.ratio.abs() < 0.1 {
                    true => format!("{:.4} of {}", ratio.ratio, ratio.against),
                    false => format!("{:.2} of {}", ratio.ratio, ratio.against),
                })
                .collect();
            let _written = writeln!(
                text,
                "{measure:<width$} {unit:<8} {:<16} {:>3} {:>10} {:>10} {:>10}   {}",
                row.subject,
                row.n,
                shown(row.min),
                shown(row.median),
                shown(row.max),
                ratios.join(", ")
            );
        }
        for note in &self.notes {
            let _written = write!(text, "\n{note}\n");
        }
        text
    }

    /// The ratio of a measure between two subjects.
    pub fn ratio(&self, measure: &str, subject: &str, against: &str) -> Option<f64> {
        let is_it = |r: &&Ratio| r.measure == measure && r.subject == subject && r.against == against;
        self.ratios.iter().find(is_it).map(|ratio| ratio.ratio)
    }
}

/// Three or four significant digits.
pub fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The machine in one line.
pub fn machine_line(machine: &serde_json::Value) -> String {
    let text = |key: &str| machine[key].as_str().map_or_else(|| machine[key].to_string(), str::to_owned);
    format!("{} × {}, Linux {}, load {} at the start", text("cores"), text("cpu"), text("kernel"), text("load"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_every_row_with_its_ratios() {
        let row = |subject: &str, median: f64| Row {
            measure: "throughput_1".into(),
            unit: "Gbit/s".into(),
            subject: subject.into(),
            n: 3,
            min: 1.0,
            median,
            max: 12.345,
        };
        let report = Report {
            bench: "tunnel".into(),
            machine: serde_json::json!({"cores": 2, "cpu": "X", "kernel": "6.18", "load": 0.1}),
            rows: vec![row("envoy", 4.0), row("culvert", 6.0)],
            ratios: vec![Ratio {
                measure: "throughput_1".into(),
                subject: "culvert".into(),
                against: "envoy".into(),
                ratio: 1.5,
            }],
            ..Report::default()
        };
        let table = report.table();
        assert!(table.contains("bench tunnel: 2 × X, Linux 6.18, load 0.1"), "{table}");
        let culvert = table.lines().find(|line| line.contains("culvert")).unwrap();
        assert!(culvert.contains("6.00") && culvert.contains("12.3") && culvert.ends_with("1.50 of envoy"), "{table}");
    }
}
