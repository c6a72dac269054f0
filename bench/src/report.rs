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
        let names = self.rows.iter().map(|row| &row.measure).filter(|measure| self.is_shown(measure));
        let width = names.map(String::len).max().unwrap_or(0).max(27);
        let _written = writeln!(
            text,
            "{:<width$} {:<8} {:<16} {:>3} {:>10} {:>10} {:>10}   ratio",
            "measure", "unit", "subject", "n", "min", "median", "max"
        );
        let mut last = "";
        for row in self.rows.iter().filter(|row| self.is_shown(&row.measure)) {
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
        for chart in self.charts.iter().filter(|chart| chart.axes == Axes::Linear) {
            text.push_str(&chart.table());
        }
        if !self.bars.is_empty() {
            text.push_str("\nMore measures are in the page and the JSON.\n");
        }
        for note in &self.notes {
            let _written = write!(text, "\n{note}\n");
        }
        text
    }

    /// Whether a measure stands in the table and has bars.
    pub fn is_shown(&self, measure: &str) -> bool {
        self.bars.is_empty() || self.bars.iter().any(|shown| shown == measure)
    }
}

impl Chart {
    /// The values of its lines, one column per point of the longest.
    fn table(&self) -> String {
        let longest = self.lines.iter().map(|line| &line.points).max_by_key(|points| points.len());
        let Some(across) = longest else { return String::new() };
        let mut text = format!("\n{}, {}\n{:<20}", self.title, self.y, self.x);
        for (x, _) in across {
            let _written = write!(text, "{x:>9}");
        }
        for line in &self.lines {
            let _written = write!(text, "\n{:<20}", line.subject);
            for (_, y) in &line.points {
                let _written = write!(text, "{:>9}", shown(*y));
            }
        }
        text + "\n"
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
    fn a_chart_over_numbers_is_a_table_too() {
        let line = |subject: &str, points: &[(f64, f64)]| Line { subject: subject.into(), points: points.into() };
        let chart = Chart {
            title: "Private memory".into(),
            x: "pods".into(),
            y: "MiB".into(),
            axes: Axes::Linear,
            lines: vec![line("envoy", &[(2.0, 30.0), (100.0, 2000.0)]), line("culvert", &[(2.0, 12.0)])],
        };
        let report = Report { charts: vec![chart], ..Report::default() };
        let table = report.table();
        let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
        let at = lines.iter().position(|line| *line == "Private memory, MiB").unwrap();
        assert_eq!(lines[at + 2].split_whitespace().collect::<Vec<_>>(), ["envoy", "30.0", "2000"]);
        assert_eq!(lines[at + 3].split_whitespace().collect::<Vec<_>>(), ["culvert", "12.0"]);
    }

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
