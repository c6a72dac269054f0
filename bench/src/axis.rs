//! Pure. Chart axes: scaling, ticks and labels.

use crate::report::shown;

/// One axis of a chart, mapping values to pixels.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    kind: Kind,
    low: f64,
    high: f64,
    /// Pixels of the two ends.
    from: f64,
    to: f64,
}

/// The scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Linear, from zero.
    Linear,
    /// Logarithmic, in microseconds.
    Times,
    /// A fraction by the number of its nines: 0.9 is one, 0.99 two.
    Nines,
}

impl Axis {
    /// An axis that holds all the values, between two pixels.
    pub fn over(kind: Kind, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let places: Vec<f64> = values.map(|value| place(kind, value)).filter(|place| place.is_finite()).collect();
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for place in places {
            (low, high) = (low.min(place), high.max(place));
        }
        match kind {
            Kind::Linear => (low, high) = (low.min(0.0), high.max(0.0) * 1.05),
            // A third of a decade of air above and below.
            Kind::Times => (low, high) = (low - 0.15, high + 0.15),
            Kind::Nines => low = 0.0,
        }
        if !(low.is_finite() && high.is_finite() && high > low) {
            (low, high) = (0.0, 1.0);
        }
        Self { kind, low, high, from, to }
    }

    /// The pixel of a value.
    pub fn at(&self, value: f64) -> f64 {
        let fraction = (place(self.kind, value).clamp(self.low, self.high) - self.low) / (self.high - self.low);
        self.from + fraction * (self.to - self.from)
    }

    /// The ticks with their labels.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        match self.kind {
            Kind::Linear => {
                let step = nice((self.high - self.low) / 5.0);
                let mut value = (self.low / step).ceil() * step;
                let mut ticks = Vec::new();
                while value <= self.high && ticks.len() < 20 {
                    ticks.push((value, plain(value)));
                    value += step;
                }
                ticks
            }
            Kind::Times => {
                let decades = (self.low.floor() as i32)..=(self.high.ceil() as i32);
                // One decade alone would leave the reader with a single line.
                let parts: &[f64] = if self.high - self.low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let values = decades.flat_map(|decade| parts.iter().map(move |part| part * 10_f64.powi(decade)));
                let seen = |value: &f64| (self.low..=self.high).contains(&place(Kind::Times, *value));
                values.filter(seen).map(|value| (value, time(value))).collect()
            }
            Kind::Nines => [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")]
                .into_iter()
                .filter(|(fraction, _)| place(Kind::Nines, *fraction) <= self.high + 0.01)
                .map(|(fraction, name)| (fraction, name.to_owned()))
                .collect(),
        }
    }
}

fn place(kind: Kind, value: f64) -> f64 {
    match kind {
        Kind::Linear => value,
        Kind::Times => value.max(1e-3).log10(),
        Kind::Nines => -(1.0 - value.min(0.99999)).log10(),
    }
}

/// The next 1, 2 or 5 times a power of ten.
fn nice(step: f64) -> f64 {
    if step.is_nan() || step <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(step.log10().floor());
    let part = [1.0, 2.0, 5.0, 10.0].into_iter().find(|part| part * power >= step * 0.999).unwrap_or(10.0);
    part * power
}

/// Microseconds in the unit that is easiest to read.
pub fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", plain(us / 1e6)),
        us if us >= 1e3 => format!("{} ms", plain(us / 1e3)),
        us => format!("{} µs", plain(us)),
    }
}

/// A number as it is written on an axis: no more digits than it has, thousands apart.
pub fn plain(value: f64) -> String {
    let text = if value.abs() >= 10.0 || value.fract().abs() < 1e-9 { format!("{value:.0}") } else { shown(value) };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    grouped(&text)
}

/// A value with its unit, in the size that is easiest to read.
pub fn human(value: f64, unit: &str) -> String {
    let (value, unit) = match unit {
        "KiB" if value.abs() >= 1024.0 * 1024.0 => (value / 1024.0 / 1024.0, "GiB"),
        "KiB" if value.abs() >= 1024.0 => (value / 1024.0, "MiB"),
        "us" if value.abs() >= 1000.0 => (value / 1000.0, "ms"),
        "us" => (value, "µs"),
        "us/each" => (value, "µs each"),
        "1/s" => (value, "/s"),
        other => (value, other),
    };
    format!("{} {unit}", grouped(&shown(value)))
}

/// Thin spaces between thousands.
fn grouped(digits: &str) -> String {
    let (sign, rest) = digits.strip_prefix('-').map_or(("", digits), |rest| ("−", rest));
    let whole = rest.split('.').next().unwrap_or_default().len();
    if whole < 5 {
        return format!("{sign}{rest}");
    }
    let mut text = sign.to_owned();
    for (index, digit) in rest.chars().enumerate() {
        if index > 0 && index < whole && (whole - index).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_axis_begins_at_zero_and_has_round_ticks() {
        let axis = Axis::over(Kind::Linear, [20.0, 95.0].into_iter(), 0.0, 100.0);
        assert_eq!(axis.at(0.0), 0.0);
        assert!((90.0..100.0).contains(&axis.at(95.0)), "{}", axis.at(95.0));
        let names: Vec<String> = axis.ticks().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["0", "20", "40", "60", "80"]);
    }

    #[test]
    fn nines_are_equally_far_apart() {
        let axis = Axis::over(Kind::Nines, [0.0, 0.999].into_iter(), 0.0, 300.0);
        assert!((axis.at(0.9) - 100.0).abs() < 0.5 && (axis.at(0.99) - 200.0).abs() < 0.5);
        assert_eq!(axis.ticks().len(), 5);
    }

    #[test]
    fn an_axis_of_times_has_ticks_within_a_decade() {
        let axis = Axis::over(Kind::Times, [12.0, 80.0].into_iter(), 100.0, 0.0);
        assert!(axis.ticks().len() >= 2, "{:?}", axis.ticks());
        assert!(axis.at(80.0) < axis.at(12.0));
        assert_eq!(axis.ticks()[0].1, "10 µs");
        assert_eq!((time(2e3), time(5e6)), ("2 ms".to_owned(), "5 s".to_owned()));
    }

    #[test]
    fn an_axis_without_values_is_still_an_axis() {
        for kind in [Kind::Linear, Kind::Times, Kind::Nines] {
            let axis = Axis::over(kind, [].into_iter(), 0.0, 10.0);
            assert!(axis.at(1.0).is_finite());
        }
    }

    #[test]
    fn values_are_written_in_the_unit_that_is_easiest_to_read() {
        assert_eq!(human(2048.0, "KiB"), "2.00 MiB");
        assert_eq!(human(1500.0, "us"), "1.50 ms");
        assert_eq!(human(123_456.0, "1/s"), "123\u{2009}456 /s");
        assert_eq!(plain(0.5), "0.5");
        assert_eq!(plain(-20000.0), "−20\u{2009}000");
    }
}
