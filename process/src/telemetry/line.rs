//! Pure. A line of the log in the making, in both formats, and its pieces: timestamps, quoted values, levels.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tracing::Level;

use super::escape::Escaped;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `time<TAB>level<TAB>target<TAB>message<TAB>key=value …`
    #[default]
    Text,
    /// `{"level":…,"time":…,"scope":…,"message":…,…}`
    Json,
}

/// A level as lines show it: lower case.
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Appends `time` as RFC 3339 in UTC with microseconds: `2026-11-22T13:00:00.000000Z`. Times before 1970 show as 1970.
pub fn write_time(out: &mut String, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (year, month, day) = civil_from_days(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    let mut digits = *b"0000-00-00T00:00:00.000000Z";
    put(&mut digits[0..4], year);
    put(&mut digits[5..7], month);
    put(&mut digits[8..10], day);
    put(&mut digits[11..13], second / 3600);
    put(&mut digits[14..16], second / 60 % 60);
    put(&mut digits[17..19], second % 60);
    put(&mut digits[20..26], u64::from(since.subsec_micros()));
    out.push_str(std::str::from_utf8(&digits).expect("digits and punctuation are ASCII"));
}

fn put(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).expect("a remainder of ten is one digit");
        value /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Years are counted from 1 March, so that the leap day is the last of its year; 400 years are 146,097 days.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const TO_MARCH_OF_YEAR_0: u64 = 719_468;
    let days = days + TO_MARCH_OF_YEAR_0;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Appends an address and port as their `Display` does, which is slow for what every line has twice.
pub fn write_address(out: &mut String, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            for (at, octet) in address.ip().octets().into_iter().enumerate() {
                if at > 0 {
                    out.push('.');
                }
                write_number(out, octet.into());
            }
            out.push(':');
            write_number(out, address.port().into());
        }
        SocketAddr::V6(_) => {
            let _ = write!(out, "{address}");
        }
    }
}

/// Appends a decimal number.
pub fn write_number(out: &mut String, number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = number;
    while start == digits.len() || rest > 0 {
        start -= 1;
        put(&mut digits[start..=start], rest);
        rest /= 10;
    }
    out.push_str(std::str::from_utf8(&digits[start..]).expect("digits are ASCII"));
}

/// Appends a text in double quotes, escaped.
pub fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let _ = Escaped(out).write_str(text);
    out.push('"');
}

/// Appends `value` in double quotes, escaped.
pub fn write_quoted(out: &mut String, value: impl fmt::Display) {
    out.push('"');
    // Writing to a String cannot end early; a Display that reports an error only cuts its own value short.
    let _ = write!(Escaped(out), "{value}");
    out.push('"');
}

/// One line in the making: time, level, scope, message, then fields in the order in which they are put.
pub struct Line<'a> {
    out: &'a mut String,
    format: Format,
    first: bool,
}

impl<'a> Line<'a> {
    /// Begins a line at the end of `out`. Scope and message are our own words: they are not escaped.
    pub fn new(out: &'a mut String, format: Format, now: SystemTime, level: Level, scope: &str, message: &str) -> Self {
        let level = level_name(level);
        match format {
            Format::Text => {
                write_time(out, now);
                for part in [level, scope, message] {
                    out.push('\t');
                    out.push_str(part);
                }
            }
            Format::Json => {
                out.push_str("{\"level\":\"");
                out.push_str(level);
                out.push_str("\",\"time\":\"");
                write_time(out, now);
                out.push_str("\",\"scope\":\"");
                out.push_str(scope);
                out.push_str("\",\"message\":\"");
                out.push_str(message);
                out.push('"');
            }
        }
        Self { out, format, first: true }
    }

    /// A value that is quoted in JSON only, where nothing in it can end a field.
    pub fn bare(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        match self.format {
            Format::Text => {
                let _ = write!(self.out, "{value}");
            }
            Format::Json => write_quoted(self.out, value),
        }
    }

    /// An address and port, quoted in JSON only.
    pub fn address(&mut self, key: &str, value: SocketAddr) {
        self.key(key);
        let quote = if self.format == Format::Json { "\"" } else { "" };
        self.out.push_str(quote);
        write_address(self.out, value);
        self.out.push_str(quote);
    }

    /// A number.
    pub fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        write_number(self.out, value);
    }

    /// A duration, as `"12ms"`.
    pub fn milliseconds(&mut self, key: &str, value: Duration) {
        self.key(key);
        self.out.push('"');
        write_number(self.out, u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
        self.out.push_str("ms\"");
    }

    /// A text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        write_text(self.out, value);
    }

    /// A value that prints itself.
    pub fn quoted(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        write_quoted(self.out, value);
    }

    /// A value that prints itself, if there is one.
    pub fn maybe(&mut self, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.quoted(key, value);
        }
    }

    /// A text, unless it is empty.
    pub fn known(&mut self, key: &str, value: Option<&str>) {
        if let Some(text) = value.filter(|text| !text.is_empty()) {
            self.text(key, text);
        }
    }

    fn key(&mut self, key: &str) {
        match (self.format, self.first) {
            (Format::Text, first) => {
                self.out.push(if first { '\t' } else { ' ' });
                self.out.push_str(key);
                self.out.push('=');
            }
            (Format::Json, _) => {
                self.out.push_str(",\"");
                self.out.push_str(key);
                self.out.push_str("\":");
            }
        }
        self.first = false;
    }

    /// Ends the line.
    pub fn end(self) {
        if self.format == Format::Json {
            self.out.push('}');
        }
        self.out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, micros: u32) -> String {
        let mut out = String::new();
        write_time(&mut out, SystemTime::UNIX_EPOCH + Duration::new(seconds, micros * 1000));
        out
    }

    #[test]
    fn a_time_is_rfc_3339_with_microseconds() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_399, 999_999), "2000-02-28T23:59:59.999999Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(1_709_164_800, 7), "2024-02-29T00:00:00.000007Z");
        assert_eq!(at(1_795_352_400, 120_000), "2026-11-22T13:00:00.120000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn addresses_and_numbers_are_those_of_display() {
        for text in ["0.0.0.0:0", "10.200.99.1:15008", "255.255.255.255:65535", "[fd00::1]:80", "[fe80::1%7]:9"] {
            let mut out = String::new();
            write_address(&mut out, text.parse().unwrap());
            assert_eq!(out, text);
        }
        for number in [0, 7, 10, 65_535, u64::MAX] {
            let mut out = String::new();
            write_number(&mut out, number);
            assert_eq!(out, number.to_string());
        }
    }

    #[test]
    fn a_value_cannot_forge_a_field_or_a_line() {
        let mut out = String::new();
        let hostile = "a\" b=\"c\\\n\t\u{1}\u{7f}\u{9b}\u{2028}\u{202e}é";
        write_quoted(&mut out, hostile);
        assert_eq!(out, r#""a\" b=\"c\\\n\t\u0001\u007f\u009b\u2028\u202eé""#);
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), hostile);
    }
}
