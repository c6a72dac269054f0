//! Pure. Path patterns of rules: how they are parsed, and how paths are matched with them.

use std::str::Split;

use super::path;
use crate::model::rule::{PathMatch, PathMatches, Segment, StringMatch};

/// Reads a path as a policy writes it: a text ([`StringMatch`]), or a template when it has `{*}` or `{**}`; as normal
/// paths have it, and as other readings of paths have it ([`path::Readings`]). A path that is never in normal form is
/// an error.
pub fn parse(text: &str) -> Result<PathMatches, String> {
    let malformed = |error: path::PathError| format!("path {text:?}: {error}");
    if text.contains("/./") || text.contains("/../") {
        return Err(format!("path {text:?} has a dot segment, which no normal path has"));
    }
    if text.contains(['{', '}']) {
        let (sent, loose) = path::literal(text).map_err(malformed)?;
        let loose = loose.iter().map(|text| template(text)).collect::<Result<_, _>>()?;
        return Ok(PathMatches { sent: [template(&sent)?].into(), loose });
    }
    let pattern: StringMatch = text.parse()?;
    let (StringMatch::Exact(part) | StringMatch::Prefix(part) | StringMatch::Suffix(part)) = &pattern else {
        return Ok(PathMatches { sent: [PathMatch::Text(pattern)].into(), loose: Box::default() });
    };
    let (sent, loose) = path::literal(part).map_err(malformed)?;
    let with = |text: &String| {
        PathMatch::Text(match &pattern {
            StringMatch::Prefix(_) => StringMatch::Prefix(text.as_str().into()),
            StringMatch::Suffix(_) => StringMatch::Suffix(text.as_str().into()),
            _ => StringMatch::Exact(text.as_str().into()),
        })
    };
    Ok(PathMatches { sent: [with(&sent)].into(), loose: loose.iter().map(with).collect() })
}

fn template(text: &str) -> Result<PathMatch, String> {
    let rest = text.strip_prefix('/').ok_or_else(|| format!("path template {text:?} does not start with /"))?;
    let segment = |part: &str| match part {
        "{*}" => Ok(Segment::One),
        "{**}" => Ok(Segment::Any),
        part if part.contains(['{', '}', '*']) => {
            Err(format!("path template {text:?}: {part:?} is neither {{*}}, {{**}} nor plain"))
        }
        part => Ok(Segment::Text(part.into())),
    };
    Ok(PathMatch::Template(rest.split('/').map(segment).collect::<Result<_, _>>()?))
}

/// Whether a path matches any of the patterns.
pub fn any_matches(patterns: &[PathMatch], path: &str) -> bool {
    patterns.iter().any(|pattern| match pattern {
        PathMatch::Text(text) => text.matches(path),
        PathMatch::Template(segments) => template_matches(segments, path.strip_prefix('/').unwrap_or(path).split('/')),
    })
}

/// Segment by segment. Where it fails, the last `{**}` takes one segment more: what an earlier one took needs no second
/// look, so the time is bounded by the product of both lengths.
fn template_matches(template: &[Segment], path: Split<'_, char>) -> bool {
    let (mut segments, mut parts) = (template, path);
    let mut last_any: Option<(&[Segment], Split<'_, char>)> = None;
    loop {
        if let [Segment::Any, rest @ ..] = segments {
            last_any = Some((rest, parts.clone()));
            segments = rest;
            continue;
        }
        let mut ahead = parts.clone();
        let matches = match (segments.split_first(), ahead.next()) {
            (None, None) => return true,
            (Some((Segment::Text(text), rest)), Some(part)) => (**text == *part).then_some(rest),
            (Some((_, rest)), Some(part)) => (!part.is_empty()).then_some(rest),
            _ => None,
        };
        if let Some(rest) = matches {
            (segments, parts) = (rest, ahead);
            continue;
        }
        let Some((rest, from)) = &mut last_any else { return false };
        if from.next().is_none() {
            return false;
        }
        (segments, parts) = (*rest, from.clone());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn templates_take_one_or_any_segments() {
        for (template, path, matches) in [
            ("/a/{*}/c", "/a/b/c", true),
            ("/a/{*}/c", "/a/b/b/c", false),
            ("/a/{*}", "/a/", false),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a", true),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a/b/c", false),
            ("/{*}/x/{**}", "/t/x/y", true),
            ("/{**}/b/{*}/{**}/z", "/b/b/b/c/d/z", true),
            ("/{**}/b/{*}/{**}/z", "/b/z", false),
            ("/{**}", "/", true),
        ] {
            assert_eq!(any_matches(&parse(template).unwrap().sent, path), matches, "{template} {path}");
        }
        assert!(parse("/a/{b}").is_err() && parse("/a/x{*}").is_err());
    }

    #[test]
    fn paths_that_match_nothing_or_not_what_is_intended_are_errors() {
        for text in ["", "/a*b", "/a/../b", "/a/./b", "/a b", "/a%00"] {
            assert!(parse(text).is_err(), "{text}");
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
            assert!(any_matches(&parse(written).unwrap().sent, path), "{written} {path}");
        }
        let loose = parse("/caf\u{e9}/{*}").unwrap().loose;
        assert!(any_matches(&loose[..1], "/caf\u{e9}/x"), "{loose:?}");
    }

    /// The definition, which tries everything.
    fn by_definition(template: &[Segment], path: &[&str]) -> bool {
        match (template, path) {
            ([], path) => path.is_empty(),
            ([Segment::Any, rest @ ..], path) => (0..=path.len()).any(|taken| by_definition(rest, &path[taken..])),
            ([Segment::Text(text), rest @ ..], [part, parts @ ..]) => **text == **part && by_definition(rest, parts),
            ([Segment::One, rest @ ..], [part, parts @ ..]) => !part.is_empty() && by_definition(rest, parts),
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn a_template_matches_as_if_everything_were_tried(
            template in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "{*}", "{**}"]), 1..6),
            path in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 1..7),
        ) {
            let Ok(PathMatch::Template(segments)) = super::template(&format!("/{}", template.join("/"))) else {
                panic!("a template")
            };
            let expected = by_definition(&segments, &path);
            let found = any_matches(&[PathMatch::Template(segments)], &format!("/{}", path.join("/")));
            prop_assert_eq!(found, expected);
        }
    }
}
