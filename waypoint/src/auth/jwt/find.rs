//! Pure. The token of a request: one, in one place. A request with two, or with something in such a place that cannot be
//! read, is refused: the backend could take the one that nobody has checked.

use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::verify::{JwtError, JwtRule};
use crate::request::query::Query;

/// The token of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The token.
    pub token: String,
    /// The headers that carried it; taken off unless the rule forwards it.
    pub headers: SmallVec<[HeaderName; 1]>,
    /// The rules that look where it stood, by index.
    pub rules: SmallVec<[usize; 4]>,
}

impl Found {
    fn add(into: &mut Option<Self>, rule: usize, token: String, header: Option<&HeaderName>) -> Result<(), JwtError> {
        let found =
            into.get_or_insert_with(|| Self { token: token.clone(), headers: SmallVec::new(), rules: SmallVec::new() });
        if found.token != token {
            return Err(JwtError::Several);
        }
        if let Some(header) = header.filter(|header| !found.headers.contains(header)) {
            found.headers.push(header.clone());
        }
        if !found.rules.contains(&rule) {
            found.rules.push(rule);
        }
        Ok(())
    }
}

/// The token that a request carries where any of the rules looks.
pub fn find(rules: &[Arc<JwtRule>], headers: &HeaderMap, query: &Query<'_>) -> Result<Option<Found>, JwtError> {
    let mut found = None;
    for (index, rule) in rules.iter().enumerate() {
        let is_default = rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty();
        if is_default && let Some(token) = bearer(headers)? {
            Found::add(&mut found, index, token, Some(&AUTHORIZATION))?;
        }
        for (name, prefix) in &rule.from_headers {
            let token = if *name == AUTHORIZATION && prefix.trim().eq_ignore_ascii_case("bearer") {
                bearer(headers)?
            } else {
                prefixed(headers, name, prefix)?
            };
            if let Some(token) = token {
                Found::add(&mut found, index, token, Some(name))?;
            }
        }
        let default_param = is_default.then_some("access_token");
        for name in rule.from_params.iter().map(String::as_str).chain(default_param) {
            for token in query.all(name) {
                Found::add(&mut found, index, token.to_owned(), None)?;
            }
        }
        for name in &rule.from_cookies {
            for token in cookies(headers, name)? {
                Found::add(&mut found, index, token, None)?;
            }
        }
    }
    Ok(found)
}

/// The one value of a header, as text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, JwtError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(JwtError::Several);
    }
    value.to_str().map(|text| Some(text.trim())).map_err(|_| JwtError::Malformed)
}

/// The token of `Authorization: Bearer` (RFC 6750, 2.1; the scheme as RFC 9110, 11.4).
fn bearer(headers: &HeaderMap) -> Result<Option<String>, JwtError> {
    let Some(value) = single(headers, &AUTHORIZATION)? else { return Ok(None) };
    let (scheme, token) = value.split_once([' ', '\t']).unwrap_or((value, ""));
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()))
}

/// The token behind a prefix that a rule names.
fn prefixed(headers: &HeaderMap, name: &HeaderName, prefix: &str) -> Result<Option<String>, JwtError> {
    let Some(value) = single(headers, name)? else { return Ok(None) };
    let start = value.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix));
    Ok(start.map(|start| value[start.len()..].trim().to_owned()))
}

fn cookies(headers: &HeaderMap, name: &str) -> Result<SmallVec<[String; 1]>, JwtError> {
    let mut all = SmallVec::new();
    for value in headers.get_all(COOKIE) {
        let pairs = value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        for value in pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")) {
            let text = std::str::from_utf8(value).map_err(|_| JwtError::Malformed)?;
            all.push(text.trim_matches('"').to_owned());
        }
    }
    Ok(all)
}

/// The first value of a cookie.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    cookies(headers, name).ok()?.into_iter().next()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::tests::rule;
    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn found(rules: &[Arc<JwtRule>], lines: &[(&'static str, &[u8])], query: &str) -> Result<Option<String>, JwtError> {
        Ok(find(rules, &headers(lines), &Query::new(query))?.map(|found| found.token))
    }

    #[test]
    fn tokens_are_found_where_the_rule_looks() {
        let mut by_cookie = rule();
        by_cookie.from_cookies = vec!["session".to_owned()];
        let mut by_header = rule();
        by_header.from_headers = vec![(HeaderName::from_static("x-token"), "JWT ".to_owned())];
        let (default, by_cookie, by_header) = ([Arc::new(rule())], [Arc::new(by_cookie)], [Arc::new(by_header)]);
        for (rules, lines, query, token) in [
            (&default, &[("authorization", &b"bearer abc"[..])][..], "", Some("abc")),
            (&default, &[("authorization", b"BEARER\t abc ")], "", Some("abc")),
            (&default, &[("authorization", b"Bearer")], "", Some("")),
            (&default, &[("authorization", b"Basic abc")], "", None),
            (&default, &[], "access_token=q&x=1", Some("q")),
            (&default, &[], "access%5Ftoken=q", Some("q")),
            (&default, &[], "", None),
            (&by_cookie, &[("cookie", b"a=1; session=xyz")], "access_token=q", Some("xyz")),
            (&by_cookie, &[("authorization", b"Bearer abc")], "", None),
            (&by_header, &[("x-token", b"jwt abc")], "", Some("abc")),
            (&by_header, &[("x-token", b"abc")], "", None),
        ] {
            assert_eq!(found(rules, lines, query), Ok(token.map(str::to_owned)), "{lines:?} {query}");
        }
    }

    #[test]
    fn a_request_with_two_tokens_or_an_unreadable_one_is_refused() {
        let mut elsewhere = rule();
        elsewhere.from_headers = vec![(HeaderName::from_static("x-token"), String::new())];
        elsewhere.from_cookies = vec!["session".to_owned()];
        let rules = [Arc::new(rule()), Arc::new(elsewhere)];
        let bearer = ("authorization", &b"Bearer abc"[..]);
        for (lines, query, error) in [
            (&[bearer, ("authorization", b"Bearer evil")][..], "", JwtError::Several),
            (&[bearer, bearer], "", JwtError::Several),
            (&[("authorization", b"Basic x"), bearer], "", JwtError::Several),
            (&[bearer], "access_token=evil", JwtError::Several),
            (&[], "access_token=a&access_token=b", JwtError::Several),
            (&[bearer, ("x-token", b"evil")], "", JwtError::Several),
            (&[bearer, ("cookie", b"session=evil")], "", JwtError::Several),
            (&[("cookie", b"session=a; session=b")], "", JwtError::Several),
            (&[("authorization", b"Bearer abc\xff")], "", JwtError::Malformed),
            (&[("cookie", b"session=\xff")], "", JwtError::Malformed),
        ] {
            assert_eq!(found(&rules, lines, query), Err(error), "{lines:?} {query}");
        }
        assert_eq!(found(&rules, &[bearer, ("x-token", b"abc")], "access_token=abc"), Ok(Some("abc".to_owned())));
    }
}
