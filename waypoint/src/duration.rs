//! Pure. Durations as configuration writes them: Gateway API (GEP-2257) and Go's `time.ParseDuration` forms.

use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DurationError {
    /// Not `<number><unit>` repeated, unit one of h, m, s, ms (us and ns are accepted in Go's form).
    #[error("{0:?} is not a duration such as 500ms, 15s or 1h30m")]
    Form(String),
    /// Larger than a hundred years.
    #[error("{0:?} is too long")]
    Range(String),
}

/// Reads `1h30m`, `15s`, `250ms`, also with a fraction (`1.5s`, Go and Istio). `0s` is zero: callers read it as "off".
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let form = || DurationError::Form(text.to_owned());
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return Err(form());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(form)?;
        let number: f64 = rest[..digits].parse().map_err(|_| form())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(form()),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if !total.is_finite() || total > 3_153_600_000.0 {
        return Err(DurationError::Range(text.to_owned()));
    }
    Ok(Duration::from_secs_f64(total))
}

/// Writes a duration as [`parse`] reads it, in the largest unit that is exact: `15s`, `250ms`, `5m`.
pub fn print(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, size) in [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)] {
        if nanos >= size && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    if nanos == 0 { "0s".to_owned() } else { format!("{}us", nanos / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_accepted_form() {
        for (text, millis) in
            [("0s", 0), ("15s", 15_000), ("250ms", 250), ("1h30m", 5_400_000), ("1.5s", 1500), ("1m1s1ms", 61_001)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "s", "15", "1d", "-1s", "1 s", "1..5s", "٣s", "9999999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for millis in [0, 1, 250, 1000, 1500, 60_000, 90_000, 3_600_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(&print(duration)), Ok(duration));
        }
    }
}
