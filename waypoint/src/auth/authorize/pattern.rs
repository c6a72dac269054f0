//! Pure. How one value of a rule is compared.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::request::path;

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
    pub fn text(text: &str) -> Result<Self, String> {
        let pattern = match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
            ("", ..) => return Err("an empty value fits nothing".to_owned()),
            ("*", ..) => return Ok(Self::Presence),
            (_, Some(prefix), _) => Self::Prefix(prefix.into()),
            (_, _, Some(suffix)) => Self::Suffix(suffix.into()),
            _ => Self::Exact(text.into()),
        };
        match &pattern {
            Self::Prefix(rest) | Self::Suffix(rest) | Self::Exact(rest) if rest.contains('*') => {
                Err(format!("{text:?} must have one * at most, at the beginning or at the end"))
            }
            _ => Ok(pattern),
        }
    }

    /// As [`Pattern::text`], without regard to case: hosts.
    pub fn host(text: &str) -> Result<Self, String> {
        Ok(match Self::text(text)? {
            Self::Exact(text) => Self::ExactNoCase(text),
            Self::Suffix(text) => Self::SuffixNoCase(text),
            Self::Prefix(text) => Self::PrefixNoCase(text),
            other => other,
        })
    }

    /// As [`Pattern::text`], or a template when it has `{*}` or `{**}`; as normal paths have it, and as other readings of
    /// paths have it ([`crate::request::path::Readings`]). A path that is never in normal form is an error.
    pub fn path(text: &str) -> Result<(Self, Vec<Self>), String> {
        let malformed = |error: path::PathError| format!("path {text:?}: {error}");
        let has_dots = |part: &str| part.contains("/./") || part.contains("/../");
        if has_dots(text) {
            return Err(format!("path {text:?} has a dot segment, which no normal path has"));
        }
        if !text.contains(['{', '}']) {
            let pattern = Self::text(text)?;
            let (Self::Exact(part) | Self::Prefix(part) | Self::Suffix(part)) = &pattern else {
                return Ok((pattern, vec![]));
            };
            let (written, loose) = path::literal(part).map_err(malformed)?;
            let loose = loose.iter().map(|part| pattern.with(part)).collect();
            return Ok((pattern.with(&written), loose));
        }
        let (written, loose) = path::literal(text).map_err(malformed)?;
        let loose = loose.iter().map(|text| Self::template(text)).collect::<Result<Vec<_>, _>>()?;
        Ok((Self::template(&written)?, loose))
    }

    /// The same comparison with another text.
    fn with(&self, text: &str) -> Self {
        match self {
            Self::Prefix(_) => Self::Prefix(text.into()),
            Self::Suffix(_) => Self::Suffix(text.into()),
            _ => Self::Exact(text.into()),
        }
    }

    fn template(text: &str) -> Result<Self, String> {
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
            assert_eq!(Pattern::text(pattern).unwrap().fits(value), fits, "{pattern} {value}");
        }
        assert!(Pattern::host("*.Example.com").unwrap().fits("a.example.COM"));
        assert!(!Pattern::host("*.example.com").unwrap().fits("example.com"));
        assert!(Pattern::host("shop*").unwrap().fits("SHOP:80"));
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
            assert_eq!(Pattern::path(template).unwrap().0.fits(path), fits, "{template} {path}");
        }
        assert!(Pattern::path("/a/{b}").is_err() && Pattern::path("/a/x{*}").is_err());
    }

    #[test]
    fn values_that_fit_nothing_or_not_what_is_meant_are_errors() {
        for text in ["", "a*b", "*a*", "**", "a**"] {
            assert!(Pattern::text(text).is_err() && Pattern::host(text).is_err(), "{text}");
        }
        for text in ["", "/a*b", "/a/../b", "/a/./b", "/a b", "/a%00"] {
            assert!(Pattern::path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_compared_in_their_normal_form() {
        for (written, path) in [
            ("/a%20b", "/a%20b"),
            ("/%61b", "/ab"),
            ("/caf\u{e9}*", "/caf%C3%A9/x"),
            ("/.well-known*", "/.well-known/x"),
        ] {
            assert!(Pattern::path(written).unwrap().0.fits(path), "{written} {path}");
        }
        let (_, loose) = Pattern::path("/caf\u{e9}/{*}").unwrap();
        assert!(loose[0].fits("/caf\u{e9}/x"), "{loose:?}");
    }
}
