//! Pure. Medians, percentiles and ratios.

use std::collections::BTreeMap;

use crate::report::{Axes, Chart, Line, Ratio, Report, Row};

/// The shares of all requests whose times make up a distribution.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];

/// The value below which a share `q` (0 to 1) of the sorted values lies, by nearest rank. Zero when there is none.
pub fn percentile(sorted: &[u64], q: f64) -> u64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0)
}

/// The middle of the values, or the mean of the two in the middle. Zero when there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// What the rounds of one run measured.
#[derive(Debug, Default)]
pub struct Samples {
    /// Measures in the order in which they were first seen, with their units.
    measures: Vec<(String, String)>,
    values: BTreeMap<(String, String), Vec<f64>>,
    /// Nanoseconds at each of [`QUANTILES`], round by round.
    distributions: Vec<(String, String, Vec<Vec<u64>>)>,
}

impl Samples {
    /// Adds one value of one subject.
    pub fn add(&mut self, measure: &str, unit: &str, subject: &str, value: f64) {
        if !self.measures.iter().any(|(known, _)| known == measure) {
            self.measures.push((measure.to_owned(), unit.to_owned()));
        }
        self.values.entry((measure.to_owned(), subject.to_owned())).or_default().push(value);
    }

    /// Adds the times of one round, in nanoseconds at each of [`QUANTILES`].
    pub fn add_distribution(&mut self, measure: &str, subject: &str, times: Vec<u64>) {
        let known = self.distributions.iter_mut().find(|(m, s, _)| m == measure && s == subject);
        match known {
            Some((_, _, rounds)) => rounds.push(times),
            None => self.distributions.push((measure.to_owned(), subject.to_owned(), vec![times])),
        }
    }

    /// A chart per measure that has distributions: at each share the median over the rounds, in microseconds.
    pub fn distributions(&self, subjects: &[&str]) -> Vec<Chart> {
        let mut charts: Vec<Chart> = Vec::new();
        let mut measures: Vec<&str> = Vec::new();
        for (measure, ..) in &self.distributions {
            if !measures.contains(&measure.as_str()) {
                measures.push(measure);
            }
        }
        for measure in measures {
            let mut lines = Vec::new();
            for subject in subjects {
                let found = self.distributions.iter().find(|(m, s, _)| m == measure && s == subject);
                if let Some((_, _, rounds)) = found {
                    lines.push(Line { subject: (*subject).to_owned(), points: middle(rounds) });
                }
            }
            charts.push(Chart {
                title: format!("{measure}: how long a request takes"),
                x: "share of requests that were faster".to_owned(),
                y: String::new(),
                axes: Axes::Quantiles,
                lines,
            });
        }
        charts
    }

    /// The values of one measure for one subject, round by round.
    pub fn of(&self, measure: &str, subject: &str) -> &[f64] {
        self.values.get(&(measure.to_owned(), subject.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// One row per measure and subject, subjects in the given order.
    pub fn rows(&self, subjects: &[&str]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (measure, unit) in &self.measures {
            for subject in subjects {
                let values = self.of(measure, subject);
                if !values.is_empty() {
                    rows.push(Row {
                        measure: measure.clone(),
                        unit: unit.clone(),
                        subject: (*subject).to_owned(),
                        n: values.len(),
                        min: values.iter().copied().fold(f64::INFINITY, f64::min),
                        median: median(values),
                        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    });
                }
            }
        }
        rows
    }

    /// The median, over the rounds, of `subject` divided by `against` in the same round, for every measure both have.
    pub fn ratios(&self, subject: &str, against: &str) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        for (measure, _) in &self.measures {
            let pairs = self.of(measure, subject).iter().zip(self.of(measure, against));
            let quotients: Vec<f64> = pairs.filter(|(_, b)| **b != 0.0).map(|(a, b)| a / b).collect();
            if !quotients.is_empty() {
                ratios.push(Ratio {
                    measure: measure.clone(),
                    subject: subject.to_owned(),
                    against: against.to_owned(),
                    ratio: median(&quotients),
                });
            }
        }
        ratios
    }

    /// For a latency, what each subject adds to the median of `base` in the same round, as a measure `<measure>_added`.
    pub fn add_difference(&mut self, measure: &str, unit: &str, subjects: &[&str], base: &str) {
        for subject in subjects.iter().filter(|subject| **subject != base) {
            let pairs: Vec<(f64, f64)> =
                self.of(measure, subject).iter().copied().zip(self.of(measure, base).iter().copied()).collect();
            for (with, without) in pairs {
                self.add(&format!("{measure}_added"), unit, subject, with - without);
            }
        }
    }
}

/// The straight line closest to the points: its value at zero and its slope. None when they are fewer than two.
pub fn fit(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let across = points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
    let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / across;
    slope.is_finite().then_some((y - slope * x, slope))
}

/// At each quantile the median of the rounds, in microseconds.
fn middle(rounds: &[Vec<u64>]) -> Vec<(f64, f64)> {
    let at = |index: usize| -> Vec<f64> {
        rounds.iter().filter_map(|times| Some(*times.get(index)? as f64 / 1000.0)).collect()
    };
    QUANTILES.iter().enumerate().map(|(index, quantile)| (*quantile, median(&at(index)))).collect()
}

/// A report from what was measured: rows for all subjects, ratios for the given pairs.
pub fn report(
    bench: &str,
    machine: serde_json::Value,
    samples: &Samples,
    subjects: &[&str],
    pairs: &[(&str, &str)],
) -> Report {
    let ratios = pairs.iter().flat_map(|(subject, against)| samples.ratios(subject, against)).collect();
    let charts = samples.distributions(subjects);
    Report { bench: bench.to_owned(), machine, rows: samples.rows(subjects), ratios, charts, ..Report::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_occurred() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 0.5), 50);
        assert_eq!(percentile(&values, 0.99), 99);
        assert_eq!(percentile(&values, 1.0), 100);
        assert_eq!(percentile(&[7], 0.99), 7);
        assert_eq!(percentile(&[], 0.5), 0);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let mut samples = Samples::default();
        // A slow second round slows both subjects alike: the ratio does not see it, the medians would.
        for (ours, theirs) in [(10.0, 20.0), (100.0, 200.0), (11.0, 22.0)] {
            samples.add("cpu", "s", "culvert", ours);
            samples.add("cpu", "s", "envoy", theirs);
        }
        let ratios = samples.ratios("culvert", "envoy");
        assert_eq!((ratios.len(), ratios[0].ratio), (1, 0.5));
        let rows = samples.rows(&["envoy", "culvert"]);
        assert_eq!((rows[0].subject.as_str(), rows[0].median, rows[1].max), ("envoy", 22.0, 100.0));
    }

    #[test]
    fn a_line_through_points_yields_its_base_and_slope() {
        let (base, slope) = fit(&[(2.0, 14.0), (10.0, 30.0), (100.0, 210.0)]).unwrap();
        assert!((base - 10.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9);
        assert_eq!((fit(&[(1.0, 1.0)]), fit(&[])), (None, None));
    }

    #[test]
    fn a_distribution_is_the_median_of_the_rounds_at_each_quantile() {
        let mut samples = Samples::default();
        for step in [1000, 3000, 2000] {
            let times = (1..=QUANTILES.len() as u64).map(|n| n * step).collect();
            samples.add_distribution("latency", "culvert", times);
        }
        let charts = samples.distributions(&["envoy", "culvert"]);
        assert_eq!((charts.len(), charts[0].lines.len()), (1, 1));
        assert_eq!(charts[0].lines[0].points[..2], [(0.0, 2.0), (0.25, 4.0)]);
    }

    #[test]
    fn added_latency_is_over_no_mesh() {
        let mut samples = Samples::default();
        samples.add("latency_p50", "us", "none", 20.0);
        samples.add("latency_p50", "us", "culvert", 90.0);
        samples.add_difference("latency_p50", "us", &["none", "culvert"], "none");
        assert_eq!(samples.of("latency_p50_added", "culvert"), [70.0]);
        assert_eq!(samples.of("latency_p50_added", "none"), [0.0; 0]);
    }
}
