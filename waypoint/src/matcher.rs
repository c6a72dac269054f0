//! Pure. The conditions of one match of a route: all must hold (`HTTPRouteMatch`, `GRPCRouteMatch`).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use regex::Regex;

use crate::request::query::Query;

/// How a path is matched. Paths are in normal form and without a query.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Equal.
    Exact(Box<str>),
    /// The same elements at the beginning: `/foo` matches `/foo`, `/foo/` and `/foo/x`, not `/foobar`. Stored without a
    /// trailing slash; the root is the empty text.
    Prefix(Box<str>),
    /// The whole path matches the expression.
    Regex(Regex),
}

impl PathMatch {
    /// A prefix as routes write it: a slash at the end means nothing.
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(text.strip_suffix('/').unwrap_or(text).into())
    }

    /// Whether `path` matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == &**text,
            Self::Prefix(text) => {
                path.strip_prefix(&**text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// How a header or query parameter is matched.
#[derive(Clone, Debug)]
pub enum Text {
    /// Equal.
    Exact(Box<str>),
    /// The whole value matches the expression.
    Regex(Regex),
}

impl Text {
    /// Whether `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == &**text,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// One condition beside path and method.
#[derive(Clone, Debug)]
pub enum Condition {
    /// A header; several lines of the same name count as one, joined by commas (RFC 9110, 5.3). The backend gets that
    /// line.
    Header(HeaderName, Text),
    /// A query parameter; the first of several of the same name counts.
    Query(Arc<str>, Text),
}

/// One match: all of it must hold.
#[derive(Clone, Debug)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// The method, if it matters.
    pub method: Option<Method>,
    /// Headers and query parameters.
    pub conditions: Box<[Condition]>,
}

impl Match {
    /// The match of everything.
    pub fn everything() -> Self {
        Self { path: PathMatch::prefix("/"), method: None, conditions: Box::default() }
    }

    /// Whether everything but the path matches.
    pub fn matches_beside_path(&self, method: &Method, headers: &HeaderMap, query: &Query<'_>) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.conditions.iter().all(|condition| condition.holds(headers, query))
    }

    /// Header conditions and query conditions, counted.
    pub fn counts(&self) -> (usize, usize) {
        let headers = self.conditions.iter().filter(|condition| matches!(condition, Condition::Header(..))).count();
        (headers, self.conditions.len() - headers)
    }
}

impl Condition {
    fn holds(&self, headers: &HeaderMap, query: &Query<'_>) -> bool {
        match self {
            Self::Header(name, text) => with_value(headers, name, |value| text.matches(value)),
            Self::Query(name, text) => query.get(name).is_some_and(|value| text.matches(value)),
        }
    }
}

/// Hands the value of a header to `check`, several joined by commas; false when there is none or it is not text.
pub fn with_value(headers: &HeaderMap, name: &HeaderName, check: impl FnOnce(&str) -> bool) -> bool {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return false };
    if values.next().is_none() {
        return std::str::from_utf8(first.as_bytes()).is_ok_and(check);
    }
    let joined = headers.get_all(name).iter().map(|value| value.as_bytes()).collect::<Vec<_>>().join(&b","[..]);
    std::str::from_utf8(&joined).is_ok_and(check)
}

/// An expression that must match a whole text, with a bounded size. RE2 syntax, as routes elsewhere use it.
pub fn whole(expression: &str) -> Result<Regex, regex::Error> {
    // Compiled alone first, so that an unbalanced group cannot escape the anchors.
    regex::RegexBuilder::new(expression).size_limit(REGEX_SIZE).build()?;
    regex::RegexBuilder::new(&format!("^(?:{expression})$")).size_limit(REGEX_SIZE).build()
}

/// Most memory that one compiled expression may take.
const REGEX_SIZE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn prefixes_match_whole_elements() {
        for (prefix, path, expected) in [
            ("/", "/", true),
            ("/", "/anything", true),
            ("/foo", "/foo", true),
            ("/foo", "/foo/", true),
            ("/foo", "/foo/x", true),
            ("/foo", "/foobar", false),
            ("/foo/", "/foo", true),
            ("/foo/", "/foo/x", true),
            ("/foo", "/", false),
        ] {
            assert_eq!(PathMatch::prefix(prefix).matches(path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn expressions_match_the_whole_text() {
        let regex = whole("/v[12]|/beta").unwrap();
        for (path, expected) in [("/v1", true), ("/v3", false), ("/v1/x", false), ("/beta", true), ("/x/beta", false)] {
            assert_eq!(regex.is_match(path), expected, "{path}");
        }
        assert!(whole("a)(b").is_err(), "the anchors must hold");
        assert!(whole("(a{1000}){1000}").is_err(), "the size is bounded");
    }

    #[test]
    fn repeated_headers_count_as_one() {
        let name = HeaderName::from_static("x-version");
        let mut headers = HeaderMap::new();
        headers.append(&name, HeaderValue::from_static("a"));
        headers.append(&name, HeaderValue::from_static("b"));
        assert!(with_value(&headers, &name, |value| value == "a,b"));
        assert!(!with_value(&headers, &HeaderName::from_static("x-other"), |_| true));
    }
}
