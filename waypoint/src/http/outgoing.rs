//! The head of a request as the backend gets it.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{InvalidUri, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::reply::Reply;
use crate::matcher::PathMatch;
use crate::rejection::Rejection;
use crate::request::hygiene::{Content, Upgrade, hop, upgrade};
use crate::request::query;
use crate::route::{Backend, Rule};
use crate::upstream::connections::Version;
use mesh::policy::path::{self, Normalization};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id; a new one when it has none.
pub fn request_id(headers: &mut HeaderMap) -> Option<String> {
    if let Some(id) = headers.get(REQUEST_ID) {
        return id.to_str().ok().map(str::to_owned);
    }
    // UUID version 4, RFC 9562.
    let random = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let part = |shift: u32, bits: u32| random >> shift & ((1 << bits) - 1);
    let id = format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 32),
        part(80, 16),
        part(64, 16),
        part(48, 16),
        part(0, 48)
    );
    headers.insert(REQUEST_ID, HeaderValue::try_from(id.as_str()).ok()?);
    Some(id)
}

/// Host and path for the backend: rewritten as the backend's filters say, else the rule's.
#[derive(Clone)]
pub struct Address {
    /// `Host` or `:authority`.
    pub host: HeaderValue,
    /// Path and query.
    pub path: PathAndQuery,
}

/// Determines host and path for the backend.
pub fn address(
    rule: &Rule,
    backend: &Backend,
    host: &HeaderValue,
    path: &str,
    query: Option<&str>,
    matched: &PathMatch,
) -> Result<Address, Reply> {
    let rewrites = [backend.rewrite.as_ref(), rule.rewrite.as_ref()];
    let hostname = rewrites.iter().flatten().find_map(|rewrite| rewrite.hostname.as_ref());
    let change = rewrites.iter().flatten().find_map(|rewrite| rewrite.path.as_ref());
    let changed = change.map(|change| change.apply(path, matched));
    let path = changed.as_deref().unwrap_or(path);
    let full = with_query(path, query).map_err(|_| Reply::rejected(Rejection::BadRequest, "malformed path"))?;
    Ok(Address { host: hostname.unwrap_or(host).clone(), path: full })
}

impl Address {
    /// Removes query parameters that carry a token, which is not for the backend.
    pub fn take_off(&mut self, params: &[String]) -> Result<(), Reply> {
        if params.is_empty() {
            return Ok(());
        }
        let left = self.path.query().and_then(|query| query::without(query, params));
        let path = self.path.path();
        self.path =
            with_query(path, left.as_deref()).map_err(|_| Reply::rejected(Rejection::BadRequest, "malformed path"))?;
        Ok(())
    }

    /// Normalizes the path, so that what is judged is what is sent.
    pub fn normalise(&mut self, how: Normalization) -> Result<(), Reply> {
        if self.path.path() == "*" {
            return Ok(());
        }
        let bad = |error: &dyn std::fmt::Display| Reply::rejected(Rejection::BadRequest, error.to_string());
        let normal = match path::normalize(self.path.path().as_bytes(), how).map_err(|error| bad(&error))? {
            Cow::Borrowed(_) => return Ok(()),
            Cow::Owned(normal) => normal,
        };
        self.path = with_query(&normal, self.path.query()).map_err(|error| bad(&error))?;
        Ok(())
    }
}

/// Path and query in one.
fn with_query(path: &str, query: Option<&str>) -> Result<PathAndQuery, InvalidUri> {
    match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    }
}

/// Applies the header changes of a rule and of its backend to a request.
pub fn change(headers: &mut HeaderMap, rule: &Rule, backend: &Backend) {
    rule.request_headers.apply(headers);
    backend.request_headers.apply(headers);
    contain(headers);
}

/// Takes back what a route's changes may not touch: fields of the connection (RFC 9110, 7.6.1). `te: trailers` stays.
fn contain(headers: &mut HeaderMap) {
    let trailers = hop::takes_trailers(headers);
    hop::strip(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Puts the head into the form of the version that the backend speaks. How its content is framed follows from what was
/// decided when the request was received, and from no header.
pub fn shape(
    parts: &mut Parts,
    address: &Address,
    version: Version,
    content: Content,
    upgrade: Option<&Upgrade>,
) -> Result<(), Reply> {
    let malformed = || Reply::rejected(Rejection::BadRequest, "malformed host");
    let headers = &mut parts.headers;
    headers.remove(HOST);
    match content {
        // "Nothing" may be said; anything else would be a lie that the next request pays for.
        Content::None => {
            if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
                *length = HeaderValue::from(0);
            }
        }
        Content::Length(length) => {
            if !headers.get(CONTENT_LENGTH).is_some_and(|said| says(said, length)) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        Content::Unknown => {
            headers.remove(CONTENT_LENGTH);
        }
    }
    match version {
        Version::H1 => {
            parts.uri = Uri::from(address.path.clone());
            headers.insert(HOST, address.host.clone());
            if content == Content::Unknown {
                // Said here because it is not taken for granted with every method.
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            if upgrade.is_some() {
                headers.remove(CONTENT_LENGTH);
                headers.remove(TE);
                upgrade::offer(headers, fastrand::u128(..).to_be_bytes());
            } else if headers.contains_key(TE) {
                // Whoever sends TE says so (RFC 9110, 10.1.4).
                headers.insert(CONNECTION, HeaderValue::from_static("te"));
            }
        }
        Version::H2 => {
            let uri =
                Uri::builder().scheme("http").authority(address.host.as_bytes()).path_and_query(address.path.clone());
            parts.uri = uri.build().map_err(|_| malformed())?;
        }
    }
    Ok(())
}

/// Whether a header is this number as everybody writes it: leading zeros mean octal to some.
fn says(said: &HeaderValue, length: u64) -> bool {
    let text = said.to_str().unwrap_or_default();
    text.parse() == Ok(length) && (text == "0" || !text.starts_with(['0', '+']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_an_id_gets_one() {
        let mut headers = HeaderMap::new();
        let id = request_id(&mut headers).unwrap();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert_eq!(request_id(&mut headers), Some(id));
    }

    fn shaped(
        version: Version,
        content: Content,
        upgrade: Option<&Upgrade>,
        lines: &[(&'static str, &'static str)],
    ) -> Parts {
        let mut request = http::Request::post("/x").version(http::Version::HTTP_11);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let address = Address { host: HeaderValue::from_static("shop"), path: PathAndQuery::from_static("/y?z") };
        shape(&mut parts, &address, version, content, upgrade).unwrap();
        parts
    }

    #[test]
    fn the_length_that_is_sent_is_that_of_what_is_sent() {
        let length = |content, lines: &[_]| {
            let parts = shaped(Version::H1, content, None, lines);
            let get = |name| parts.headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
            (get(CONTENT_LENGTH), get(TRANSFER_ENCODING))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(length(Content::None, &[("content-length", "29")]), (some("0"), None));
        assert_eq!(length(Content::None, &[]), (None, None));
        assert_eq!(length(Content::Length(3), &[("content-length", "3")]), (some("3"), None));
        assert_eq!(length(Content::Length(3), &[]), (some("3"), None));
        // Overwrites any value: a route may have set one.
        assert_eq!(length(Content::Length(12), &[("content-length", "0012")]), (some("12"), None));
        assert_eq!(length(Content::Length(5), &[("content-length", "1")]), (some("5"), None));
        assert_eq!(length(Content::Unknown, &[("content-length", "3")]), (None, some("chunked")));
        let upgraded =
            shaped(Version::H1, Content::None, Some(&Upgrade::Http2), &[("content-length", "0"), ("te", "trailers")]);
        assert!(!upgraded.headers.contains_key(CONTENT_LENGTH) && !upgraded.headers.contains_key(TE));
        assert_eq!(upgraded.headers[CONNECTION], "upgrade");
    }

    #[test]
    fn te_is_announced_in_http_1_and_allowed_in_http_2() {
        let parts = shaped(Version::H1, Content::None, None, &[("te", "trailers")]);
        assert_eq!(
            (&parts.headers[TE], &parts.headers[CONNECTION]),
            (&HeaderValue::from_static("trailers"), &HeaderValue::from_static("te"))
        );
        let parts = shaped(Version::H2, Content::Unknown, None, &[("te", "trailers")]);
        assert!(parts.headers.contains_key(TE) && !parts.headers.contains_key(CONNECTION));
        assert!(!parts.headers.contains_key(TRANSFER_ENCODING));
        assert_eq!(parts.uri.to_string(), "http://shop/y?z");
    }

    #[test]
    fn no_route_changes_what_belongs_to_the_connection() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "x"), ("x", "1"), ("upgrade", "h2c"), ("transfer-encoding", "gzip"), ("te", "trailers")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        contain(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["te"]);
    }
}
