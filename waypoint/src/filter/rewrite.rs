//! Pure. Rewrites path and host for the backend (`urlRewrite`); redirects use the same path changes.

use std::sync::Arc;

use http::HeaderValue;

use crate::matcher::PathMatch;

/// A change to host and path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The host that the backend sees.
    pub hostname: Option<HeaderValue>,
    /// The path that the backend sees.
    pub path: Option<PathChange>,
}

/// A change to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// `ReplaceFullPath`.
    Full(Arc<str>),
    /// `ReplacePrefixMatch`: the elements that matched become these. Without a slash at the end.
    Prefix(Arc<str>),
}

impl PathChange {
    /// A prefix replacement as routes write it; `/` and nothing mean the same.
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(text.strip_suffix('/').unwrap_or(text).into())
    }

    /// The new path for `path`, which fitted `matched`.
    pub fn apply(&self, path: &str, matched: &PathMatch) -> String {
        match self {
            Self::Full(full) => full.to_string(),
            Self::Prefix(replacement) => {
                let rest = match matched {
                    PathMatch::Prefix(prefix) => path.strip_prefix(&**prefix).unwrap_or_default(),
                    // Not reachable from a valid route: prefixes are only replaced where prefixes matched.
                    PathMatch::Exact(_) | PathMatch::Regex(_) => "",
                };
                let changed = format!("{replacement}{rest}");
                if changed.starts_with('/') { changed } else { format!("/{changed}") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_prefix_keeps_the_rest_of_the_path() {
        // The table of HTTPPathModifier.replacePrefixMatch.
        for (path, prefix, replacement, changed) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/x/y", "/", "/api", "/api/x/y"),
        ] {
            let change = PathChange::prefix(replacement);
            assert_eq!(change.apply(path, &PathMatch::prefix(prefix)), changed, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_full_path_replaces_everything() {
        assert_eq!(PathChange::Full("/new".into()).apply("/old/path", &PathMatch::prefix("/")), "/new");
    }
}
