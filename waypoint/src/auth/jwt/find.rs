//! Pure. The token of a request: one, in one place. A request with two, or with something in such a place that cannot
//! be read, is refused: the backend could take the one that nobody has checked.

use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::verify::{JwtError, JwtRule};
use crate::request::query::Query;

/// The token of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The token.
    pub token: String,
    /// What carried it; taken off unless the rule forwards it.
    pub places: SmallVec<[Place; 1]>,
    /// The rules that look where it stood, by index.
    pub rules: SmallVec<[usize; 4]>,
}

/// Where a token stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a header.
    Header(HeaderName),
    /// In a parameter of the query.
    Param(String),
    /// In a cookie.
    Cookie(String),
}

impl Found {
    fn add(into: &mut Option<Self>, rule: usize, token: String, place: Place) -> Result<(), JwtError> {
        let found =
            into.get_or_insert_with(|| Self { token: token.clone(), places: SmallVec::new(), rules: SmallVec::new() });
        if found.token != token {
            return Err(JwtError::Several);
        }
        if !found.places.contains(&place) {
            found.places.push(place);
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
            Found::add(&mut found, index, token, Place::Header(AUTHORIZATION))?;
        }
        for (name, prefix) in &rule.from_headers {
            let token = if *name == AUTHORIZATION && prefix.trim().eq_ignore_ascii_case("bearer") {
                bearer(headers)?
            } else {
                prefixed(headers, name, prefix)?
            };
            if let Some(token) = token {
                Found::add(&mut found, index, token, Place::Header(name.clone()))?;
            }
        }
        let default_param = is_default.then_some("access_token");
        for name in rule.from_params.iter().map(String::as_str).chain(default_param) {
            for token in query.all(name) {
                Found::add(&mut found, index, token.to_owned(), Place::Param(name.to_owned()))?;
            }
        }
        for name in &rule.from_cookies {
            for token in cookies(headers, name)? {
                Found::add(&mut found, index, token, Place::Cookie(name.clone()))?;
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

/// Takes a cookie away, and the header when it was the only one.
pub fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let is_it = |pair: &[u8]| pair.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='));
    let lines = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let left: Vec<&[u8]> = lines.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty() && !is_it(pair)).collect();
    match HeaderValue::from_bytes(&left.join(&b"; "[..])) {
        Ok(value) if !left.is_empty() => _ = headers.insert(COOKIE, value),
        _ => _ = headers.remove(COOKIE),
    }
}

/// The first value of a cookie.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    cookies(headers, name).ok()?.into_iter().next()
}

#[cfg(test)]
mod tests {
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
    fn a_cookie_is_taken_away_alone() {
        for (line, left) in [
            ("session=x", None),
            ("a=1; session=x; b=2", Some("a=1; b=2")),
            ("session=x;session=y;c=3", Some("c=3")),
            (" session=\"x\" ; session2=y", Some("session2=y")),
            ("Session=x; xsession=y", Some("Session=x; xsession=y")),
        ] {
            let mut headers = headers(&[("cookie", line.as_bytes())]);
            remove_cookie(&mut headers, "session");
            assert_eq!(headers.get(COOKIE).map(|value| value.to_str().unwrap()), left, "{line}");
        }
    }

    #[test]
    fn what_carried_a_token_is_known() {
        let mut rule = rule();
        rule.from_headers = vec![(HeaderName::from_static("x-token"), String::new())];
        rule.from_params = vec!["t".to_owned()];
        rule.from_cookies = vec!["session".to_owned()];
        let lines = headers(&[("x-token", b"abc"), ("cookie", b"session=abc")]);
        let found = find(&[Arc::new(rule)], &lines, &Query::new("t=abc")).unwrap().unwrap();
        let places = [
            Place::Header(HeaderName::from_static("x-token")),
            Place::Param("t".to_owned()),
            Place::Cookie("session".to_owned()),
        ];
        assert_eq!(found.places.as_slice(), places);
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
