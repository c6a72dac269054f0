//! Pure. Comparison of two runs of the same bench.

use std::fmt::Write as _;

use serde::Serialize;

use crate::report::{All, Report, Row, shown};

/// One measure of one subject in two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Which bench measured it.
    pub bench: String,
    /// The measure.
    pub measure: String,
    /// Its unit.
    pub unit: String,
    /// The subject.
    pub subject: String,
    /// Its median in the first run.
    pub a: f64,
    /// Its median in the second.
    pub b: f64,
    /// The second by the first; none when the first is zero.
    pub ratio: Option<f64>,
    /// Whether the ranges of the two runs (smallest to largest of several values) are disjoint.
    pub apart: bool,
}

/// The runs in a file, which holds one bench or all.
pub fn runs(json: &str) -> Result<Vec<Report>, serde_json::Error> {
    let value: serde_json::Value = serde_json::from_str(json)?;
    if value["benches"].is_array() {
        return Ok(serde_json::from_value::<All>(value)?.benches);
    }
    Ok(vec![serde_json::from_value(value)?])
}

/// The measures of both runs, in the order of the first.
pub fn pairs(a: &[Report], b: &[Report]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for report in a {
        let Some(other) = b.iter().find(|other| other.bench == report.bench) else { continue };
        for row in &report.rows {
            let is_same = |r: &&Row| r.measure == row.measure && r.subject == row.subject && r.unit == row.unit;
            if let Some(same) = other.rows.iter().find(is_same) {
                pairs.push(Pair {
                    bench: report.bench.clone(),
                    measure: row.measure.clone(),
                    unit: row.unit.clone(),
                    subject: row.subject.clone(),
                    a: row.median,
                    b: same.median,
                    ratio: (row.median != 0.0).then(|| same.median / row.median),
                    apart: row.n > 1 && same.n > 1 && (same.min > row.max || same.max < row.min),
                });
            }
        }
    }
    pairs
}

/// The pairs as a table. A star marks what lies outside the spread of both runs.
pub fn table(pairs: &[Pair]) -> String {
    let width = pairs.iter().map(|pair| pair.measure.len()).max().unwrap_or(0).max(7);
    let mut text = String::new();
    let mut bench = "";
    for pair in pairs {
        if pair.bench != bench {
            bench = &pair.bench;
            let _written = writeln!(
                text,
                "bench {bench}: second run by first (* the runs' ranges do not touch)\n\n{:<width$} {:<8} {:<16} {:>10} {:>10} {:>8}",
                "measure", "unit", "subject", "first", "second", "ratio"
            );
        }
        let ratio = pair.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let _written = writeln!(
            text,
            "{:<width$} {:<8} {:<16} {:>10} {:>10} {ratio:>8}{}",
            pair.measure,
            pair.unit,
            pair.subject,
            shown(pair.a),
            shown(pair.b),
            if pair.apart { " *" } else { "" }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bench: &str, median: f64) -> Report {
        let row = |subject: &str, median: f64| Row {
            measure: "requests".into(),
            unit: "1/s".into(),
            subject: subject.into(),
            n: 3,
            min: median - 1.0,
            median,
            max: median + 1.0,
        };
        Report { bench: bench.into(), rows: vec![row("culvert", median), row("envoy", 10.0)], ..Report::default() }
    }

    #[test]
    fn the_second_run_is_divided_by_the_first() {
        let pairs = pairs(&[run("tunnel", 10.0)], &[run("tunnel", 15.0)]);
        assert_eq!((pairs[0].ratio, pairs[0].apart), (Some(1.5), true));
        assert_eq!((pairs[1].ratio, pairs[1].apart), (Some(1.0), false));
        let table = table(&pairs);
        assert!(table.lines().any(|line| line.contains("culvert") && line.ends_with("1.50 *")), "{table}");
    }

    #[test]
    fn only_the_same_bench_is_compared() {
        assert!(pairs(&[run("tunnel", 1.0)], &[run("capture", 1.0)]).is_empty());
    }

    #[test]
    fn a_file_holds_one_bench_or_all() {
        let one = serde_json::to_string(&run("tunnel", 1.0)).unwrap();
        let all = All { bench: "all".into(), benches: vec![run("tunnel", 1.0), run("memory", 1.0)] };
        let all = serde_json::to_string(&all).unwrap();
        assert_eq!((runs(&one).unwrap().len(), runs(&all).unwrap().len()), (1, 2));
        assert!(runs("{}").is_err());
    }
}
