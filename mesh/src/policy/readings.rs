//! Pure. The values that different backends may read from an attribute of a request, compared with the values of a
//! test.
//!
//! A header with one line has one value; with several lines, backends may use the first, the last, all, or all joined
//! with commas (RFC 9110, 5.3), and they may split a list into its members. A host may have a port, a trailing dot, and
//! any case. Where the readings differ the answer is `Depends`: a DENY refuses then, and an ALLOW does not admit.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::answer::Answer;
use super::path::Readings;
use super::pattern;
use crate::model::rule::{PathMatches, StringMatch};

/// `Yes` when every reading matches, `No` when none does or there is none. `sure` are readings that every reader may
/// have, `loose` are some more that one must be ready for; `None` is a value that cannot be read as text.
fn compare<'a>(
    sure: impl Iterator<Item = Option<Cow<'a, str>>>,
    mut loose: impl Iterator<Item = Option<Cow<'a, str>>>,
    matches: impl Fn(&str) -> bool,
) -> Answer {
    let (mut any, mut all, mut none) = (false, true, true);
    for reading in sure {
        none = false;
        let matching = reading.as_deref().map(&matches);
        any |= matching != Some(false);
        all &= matching == Some(true);
    }
    any = any || loose.any(|reading| reading.as_deref().map(&matches) != Some(false));
    match (any, all && !none) {
        (_, true) => Answer::Yes,
        (true, false) => Answer::Depends,
        (false, false) => Answer::No,
    }
}

/// The answer for a value and all overrides of it: the common one if they agree, otherwise `Depends`.
pub fn agree(first: Answer, others: &[Option<String>], judge: impl Fn(&str) -> Answer) -> Answer {
    let same = others.iter().all(|other| other.as_deref().map_or(Answer::Depends, &judge) == first);
    if same { first } else { Answer::Depends }
}

fn any_matches(values: &[StringMatch], value: &str) -> bool {
    values.iter().any(|pattern| pattern.matches(value))
}

fn text(bytes: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

/// Judges a header. A value that is not UTF-8 may match anything.
pub fn header(headers: &HeaderMap, name: &HeaderName, values: &[StringMatch]) -> Answer {
    let lines = || headers.get_all(name).iter().map(HeaderValue::as_bytes).map(<[u8]>::trim_ascii);
    let (separator, joint) = if *name == COOKIE { (b';', &b"; "[..]) } else { (b',', &b","[..]) };
    let joined = lines().nth(1).map(|_| Cow::Owned(lines().collect::<Vec<_>>().join(joint)));
    let sure = lines().map(Cow::Borrowed).chain(joined).map(text);
    let members =
        lines().filter(|line| line.contains(&separator)).flat_map(|line| line.split(move |byte| *byte == separator));
    let members = members.map(|member| text(Cow::Borrowed(member.trim_ascii())));
    compare(sure, members, |value| any_matches(values, value))
}

/// A host. A value without a port stands for every port; a host without a port has HTTP's.
pub fn host(host: &str, values: &[StringMatch]) -> Answer {
    let name = without_port(host);
    let port = host.get(name.len()..).unwrap_or_default().trim_start_matches(':');
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']');
    if host.is_empty() || !host.bytes().all(plain) {
        return Answer::Depends;
    }
    let bare = name.trim_end_matches('.');
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let bare: Cow<'_, str> = match address.map(|address| address.to_canonical()) {
        Some(address) if address.is_ipv6() => format!("[{address}]").into(),
        Some(address) => address.to_string().into(),
        None => bare.into(),
    };
    let any_matches = |value: &str| values.iter().any(|pattern| pattern.matches_ignoring_case(value));
    let matches = |value: &str| any_matches(value) || any_matches(without_port(value));
    let number = port.trim_start_matches('0');
    let canonical = if port.is_empty() { bare.clone() } else { format!("{bare}:{number}").into() };
    // Computed only if the other readings do not decide.
    let of_http = port.is_empty().then_some(bare).into_iter().map(|bare| Some(Cow::Owned(format!("{bare}:80"))));
    compare([Some(Cow::Borrowed(host)), Some(canonical)].into_iter(), of_http, matches)
}

/// Judges a method. Methods are case-sensitive (RFC 9110, 9.1), but not every server compares them so.
pub fn method(method: &str, values: &[StringMatch]) -> Answer {
    let upper = method.bytes().any(|byte| byte.is_ascii_lowercase()).then(|| Some(method.to_ascii_uppercase().into()));
    compare([Some(Cow::Borrowed(method))].into_iter(), upper.into_iter(), |value| any_matches(values, value))
}

/// A path: the one that is sent with values as they are written, other readings also with what values mean in them.
pub fn path(readings: &Readings<'_>, values: &PathMatches) -> Answer {
    let sent = pattern::any_matches(&values.sent, readings.sent);
    let matches = |read: &String| pattern::any_matches(&values.sent, read) || pattern::any_matches(&values.loose, read);
    let (all, any) = (readings.loose.iter().all(matches), readings.loose.iter().any(matches));
    match (sent || any, sent && all) {
        (_, true) => Answer::Yes,
        (true, false) => Answer::Depends,
        (false, false) => Answer::No,
    }
}

/// A host without its port; IPv6 literals keep their brackets.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !port.is_empty() || host.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Depends, No, Yes};

    fn of(lines: &[&[u8]], name: &'static str, value: &str) -> Answer {
        let name = HeaderName::from_static(name);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line).unwrap());
        }
        header(&headers, &name, &[value.parse().unwrap()])
    }

    #[test]
    fn a_header_is_judged_in_every_reading() {
        for (lines, value, answer) in [
            (&[][..], "*", No),
            (&[&b"admin"[..]], "admin", Yes),
            (&[b"admin"], "*", Yes),
            (&[b""], "*", No),
            (&[b"guest"], "admin", No),
            (&[b" admin\t"], "admin", Yes),
            (&[b"guest", b"admin"], "admin", Depends),
            (&[b"admin", b"admin"], "admin", Depends),
            (&[b"guest", b"admin"], "guest,admin", Depends),
            (&[b"guest,admin"], "admin", Depends),
            (&[b"guest, admin"], "admin", Depends),
            (&[b"guest,admin"], "guest,admin", Yes),
            (&[b"adm1", b"adm2"], "adm*", Yes),
            (&[b"", b""], "*", Depends),
            (&[b"\xff"], "*", Depends),
            (&[b"ad\xffmin"], "admin", Depends),
            (&[b"guest\xff"], "admin", Depends),
            (&[b"guest", b"\xff"], "admin", Depends),
        ] {
            assert_eq!(of(lines, "x-role", value), answer, "{lines:?} {value}");
        }
        assert_eq!(of(&[b"a=1; role=admin"], "cookie", "role=admin"), Depends);
        assert_eq!(of(&[b"a=1", b"role=admin"], "cookie", "role=admin"), Depends);
    }

    #[test]
    fn a_host_is_judged_without_dot_port_and_case() {
        for (sent, value, answer) in [
            ("admin.example", "admin.example", Yes),
            ("ADMIN.example", "admin.EXAMPLE", Yes),
            ("admin.example:80", "admin.example", Yes),
            ("admin.example.", "admin.example", Depends),
            ("admin.example..", "admin.example", Depends),
            ("admin.example.:80", "admin.example", Depends),
            ("admin.example:0080", "admin.example:80", Depends),
            ("admin.example", "admin.example:80", Depends),
            ("admin.example:8080", "admin.example:80", No),
            ("x.admin.example.", "*.admin.example", Depends),
            ("%61dmin.example", "admin.example", Depends),
            ("admin.example%2e", "admin.example", Depends),
            ("shop", "admin.example", No),
            ("[::0001]", "[::1]", Depends),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1", Depends),
            ("shop", "*", Yes),
        ] {
            assert_eq!(host(sent, &[value.parse().unwrap()]), answer, "{sent} {value}");
        }
    }

    #[test]
    fn a_method_in_lower_case_may_be_the_same() {
        let of = |text: &str| method(text, &["POST".parse().unwrap()]);
        assert_eq!((of("POST"), of("post"), of("GET")), (Yes, Depends, No));
    }

    #[test]
    fn hosts_lose_their_port_only() {
        for (host, name) in [
            ("shop", "shop"),
            ("shop:80", "shop"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.1:8", "10.0.0.1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
