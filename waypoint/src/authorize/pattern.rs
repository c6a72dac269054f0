//! Pure. How one value of a rule is compared.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// One value of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Equal.
    Exact(Arc<str>),
    /// Equal without regard to case.
    ExactNoCase(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// Ends with.
    Suffix(Arc<str>),
    /// Ends with, without regard to case.
    SuffixNoCase(Arc<str>),
    /// Starts with, without regard to case.
    PrefixNoCase(Arc<str>),
    /// There is a value and it is not empty.
    Presence,
    /// A path with `{*}` for one segment and `{**}` for any number.
    Template(Arc<[Segment]>),
    /// An address within.
    Net(IpNet),
    /// A port.
    Port(u16),
}

/// One segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Text(Arc<str>),
    /// `{*}`: exactly one segment, not empty.
    One,
    /// `{**}`: any number of segments, also none.
    Any,
}

impl Pattern {
    /// Reads `abc`, `abc*`, `*abc` or `*`.
    pub fn text(text: &str) -> Self {
        match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
            ("*", ..) => Self::Presence,
            (_, Some(prefix), _) => Self::Prefix(prefix.into()),
            (_, _, Some(suffix)) => Self::Suffix(suffix.into()),
            _ => Self::Exact(text.into()),
        }
    }

    /// As [`Pattern::text`], without regard to case: hosts.
    pub fn host(text: &str) -> Self {
        match Self::text(text) {
            Self::Exact(text) => Self::ExactNoCase(text),
            Self::Suffix(text) => Self::SuffixNoCase(text),
            Self::Prefix(text) => Self::PrefixNoCase(text),
            other => other,
        }
    }

    /// As [`Pattern::text`], or a template when it has `{*}` or `{**}`.
    pub fn path(text: &str) -> Result<Self, String> {
        if !text.contains(['{', '}']) {
            return Ok(Self::text(text));
        }
        let rest = text.strip_prefix('/').ok_or_else(|| format!("path template {text:?} does not start with /"))?;
        let segment = |part: &str| match part {
            "{*}" => Ok(Segment::One),
            "{**}" => Ok(Segment::Any),
            part if part.contains(['{', '}', '*']) => {
                Err(format!("path template {text:?}: {part:?} is neither {{*}}, {{**}} nor plain"))
            }
            part => Ok(Segment::Text(part.into())),
        };
        Ok(Self::Template(rest.split('/').map(segment).collect::<Result<_, _>>()?))
    }

    /// Whether a text fits.
    pub fn fits(&self, value: &str) -> bool {
        let cut = |length: usize| value.get(..length);
        match self {
            Self::Exact(text) => value == &**text,
            Self::ExactNoCase(text) => value.eq_ignore_ascii_case(text),
            Self::Prefix(text) => value.starts_with(&**text),
            Self::PrefixNoCase(text) => cut(text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text)),
            Self::Suffix(text) => value.ends_with(&**text),
            Self::SuffixNoCase(text) => value
                .len()
                .checked_sub(text.len())
                .and_then(|at| value.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(text)),
            Self::Presence => !value.is_empty(),
            Self::Template(segments) => {
                let parts: Vec<&str> = value.strip_prefix('/').unwrap_or(value).split('/').collect();
                fits_template(segments, &parts)
            }
            Self::Net(_) | Self::Port(_) => false,
        }
    }

    /// Whether an address fits.
    pub fn fits_ip(&self, address: IpAddr) -> bool {
        matches!(self, Self::Net(net) if net.contains(&address.to_canonical()))
    }

    /// Whether a port fits.
    pub fn fits_port(&self, port: u16) -> bool {
        *self == Self::Port(port)
    }
}

fn fits_template(segments: &[Segment], parts: &[&str]) -> bool {
    match segments.split_first() {
        None => parts.is_empty(),
        Some((Segment::Any, rest)) => (0..=parts.len()).any(|taken| fits_template(rest, &parts[taken..])),
        Some((segment, rest)) => parts.split_first().is_some_and(|(part, others)| {
            let fits = match segment {
                Segment::Text(text) => **text == **part,
                Segment::One | Segment::Any => !part.is_empty(),
            };
            fits && fits_template(rest, others)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_as_policies_write_them() {
        for (pattern, value, fits) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("abc*", "abcd", true),
            ("*abc", "xabc", true),
            ("*", "x", true),
            ("*", "", false),
        ] {
            assert_eq!(Pattern::text(pattern).fits(value), fits, "{pattern} {value}");
        }
        assert!(Pattern::host("*.Example.com").fits("a.example.COM"));
        assert!(!Pattern::host("*.example.com").fits("example.com"));
        assert!(Pattern::host("shop*").fits("SHOP:80"));
    }

    #[test]
    fn templates_take_one_or_any_segments() {
        for (template, path, fits) in [
            ("/a/{*}/c", "/a/b/c", true),
            ("/a/{*}/c", "/a/b/b/c", false),
            ("/a/{*}", "/a/", false),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a", true),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a/b/c", false),
            ("/{*}/x/{**}", "/t/x/y", true),
        ] {
            assert_eq!(Pattern::path(template).unwrap().fits(path), fits, "{template} {path}");
        }
        assert!(Pattern::path("/a/{b}").is_err() && Pattern::path("/a/x{*}").is_err());
    }
}
