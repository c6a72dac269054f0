//! Pure. The timeout of a request: the shortest that the caller, the route and the mesh allow; and the headers that
//! forward it.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};

/// The header by which gRPC callers say how long they wait.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";
/// The header by which Envoy tells the next hop how long it waits, in milliseconds.
pub const ENVOY_EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

/// The interval at which the progress of a request body is checked.
const LOOK: Duration = Duration::from_millis(500);

/// The deadlines of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    start: Instant,
    /// How long response headers may take once the request is there.
    default: Option<Duration>,
    /// The last byte of the response must have been sent by then. Only set when somebody asked for it: streams live
    /// longer than any default.
    pub whole: Option<Instant>,
    /// Whether it was the caller who wanted it that soon: a backend that misses it need not be a bad one.
    pub impatient: bool,
}

/// How far the body of a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// All of it is there, since then.
    Ended(Instant),
    /// Bytes are still to come; the last came then.
    Flowing(Instant),
}

/// Who allows how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The mesh's default until response headers; `None` is off.
    pub default: Option<Duration>,
    /// The route's `timeouts.request`, for the whole exchange; `None` is not set.
    pub request: Option<Duration>,
    /// What the caller said in `grpc-timeout` or `x-envoy-expected-rq-timeout-ms`.
    pub caller: Option<Duration>,
}

impl Deadline {
    /// The deadline of a request that began at `start`.
    pub fn new(start: Instant, allowed: Allowed) -> Self {
        let whole = least(allowed.request, allowed.caller);
        // The default applies only to routes that set no timeout of their own.
        let default = allowed.default.filter(|_| allowed.request.is_none());
        let impatient = allowed.caller.is_some() && allowed.caller == least(whole, default);
        Self { start, default, whole: whole.map(|time| start + time), impatient }
    }

    /// When response headers must be there; `None` is unlimited. The default counts from the end of the request: as
    /// long as a body flows, only the idle timeout ends it: a client that uploads or streams is not late.
    pub fn headers(&self, upload: Option<Upload>, idle: Option<Duration>) -> Option<Instant> {
        let default = match upload {
            None => self.default.map(|time| self.start + time),
            Some(Upload::Ended(at)) => self.default.map(|time| at.max(self.start) + time),
            Some(Upload::Flowing(at)) => idle.map(|time| at.max(self.start) + time),
        };
        least(self.whole, default)
    }

    /// When to check the progress of the body next, if it may change what [`Deadline::headers`] says.
    pub fn next_check(&self, upload: Option<Upload>, now: Instant) -> Option<Instant> {
        let flows = matches!(upload, Some(Upload::Flowing(_)));
        self.default.filter(|_| flows).map(|default| now + default.min(LOOK))
    }
}

/// The smaller of two limits, where `None` is no limit.
pub fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What the caller allows by its headers: the least of those that are valid.
pub fn caller(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let grpc = text(GRPC_TIMEOUT).and_then(parse_grpc_timeout);
    let envoy =
        text(ENVOY_EXPECTED).and_then(|text| text.parse().ok()).filter(|millis| *millis > 0).map(Duration::from_millis);
    least(grpc, envoy)
}

/// Reads `grpc-timeout`: 1 to 8 digits and a unit H, M, S, m, u or n (PROTOCOL-HTTP2.md).
pub fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Writes `grpc-timeout` in the finest unit whose number has at most 8 digits, rounded down: the next hop never gets
/// more than is left. Never zero, which servers read as already expired only by luck.
pub fn print_grpc_timeout(left: Duration) -> String {
    let nanos = left.as_nanos().max(1);
    for (unit, size) in [("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("M", 60_000_000_000)] {
        if nanos / size < 100_000_000 {
            return format!("{}{unit}", nanos / size);
        }
    }
    format!("{}H", (nanos / 3_600_000_000_000).min(99_999_999))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_least_limit_wins() {
        let start = Instant::now();
        let at = |allowed| Deadline::new(start, allowed);
        let default = Some(15 * SECOND);

        let plain = at(Allowed { default, ..Allowed::default() });
        let headers = |deadline: Deadline| deadline.headers(None, Some(SECOND));
        assert_eq!((headers(plain), plain.whole), (Some(start + 15 * SECOND), None));

        let caller = at(Allowed { default, caller: Some(2 * SECOND), request: Some(5 * SECOND) });
        assert_eq!((headers(caller), caller.whole), (Some(start + 2 * SECOND), Some(start + 2 * SECOND)));
        assert!(caller.impatient && !plain.impatient);

        let patient = at(Allowed { default, request: Some(60 * SECOND), caller: None });
        assert_eq!(headers(patient), Some(start + 60 * SECOND));

        let none = at(Allowed::default());
        assert_eq!((headers(none), none.whole), (None, None));
    }

    #[test]
    fn the_default_counts_from_the_end_of_the_request() {
        let start = Instant::now();
        let default = Deadline::new(start, Allowed { default: Some(15 * SECOND), ..Allowed::default() });
        let (idle, at) = (Some(300 * SECOND), start + 40 * SECOND);
        let limit = |upload| default.headers(Some(upload), idle);
        assert_eq!(limit(Upload::Flowing(at)), Some(at + 300 * SECOND));
        assert_eq!(limit(Upload::Ended(at)), Some(at + 15 * SECOND));
        assert_eq!(default.headers(Some(Upload::Flowing(at)), None), None);
        assert_eq!(default.next_check(Some(Upload::Flowing(at)), at), Some(at + LOOK));
        assert_eq!(default.next_check(Some(Upload::Ended(at)), at), None);
        let caller = Deadline::new(start, Allowed { caller: Some(SECOND), default: Some(15 * SECOND), request: None });
        assert_eq!(caller.headers(Some(Upload::Flowing(at)), idle), Some(start + SECOND), "callers mean what they say");
    }

    #[test]
    fn grpc_timeouts_are_read_strictly() {
        assert_eq!(parse_grpc_timeout("5S"), Some(5 * SECOND));
        assert_eq!(parse_grpc_timeout("100m"), Some(SECOND / 10));
        assert_eq!(parse_grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "S", "5", "5s", "-5S", "123456789S", "1.5S", "5é", " 5S"] {
            assert_eq!(parse_grpc_timeout(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_timeout_is_never_longer_and_nearly_as_long(nanos in 1u64..u64::MAX / 2) {
            let left = Duration::from_nanos(nanos);
            let text = print_grpc_timeout(left);
            prop_assert!(text.len() <= 9);
            let read = parse_grpc_timeout(&text).unwrap();
            prop_assert!(read <= left);
            prop_assert!(left - read <= left / 100_000 + Duration::from_nanos(1) || read >= 60 * SECOND * 1_000_000);
        }
    }
}
