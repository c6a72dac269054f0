//! The head of a request as the backend gets it.

use http::header::{CONNECTION, COOKIE, EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::reply::Reply;
use crate::hygiene::strip_hop_by_hop;
use crate::matcher::PathMatch;
use crate::route::{Backend, Rule};
use crate::upstream::connections::Version;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Takes away what is not to be passed on.
pub fn sanitise(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // We answer it ourselves, by reading the body.
    headers.remove(EXPECT);
}

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

/// Works out where the request goes.
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
    let full = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let full = full.map_err(|_| Reply::error(400, "bad_request", "DPE", "malformed path"))?;
    Ok(Address { host: hostname.unwrap_or(host).clone(), path: full })
}

/// Puts the head into the form of the version that the backend speaks.
pub fn shape(
    parts: &mut Parts,
    address: &Address,
    version: Version,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Reply> {
    let malformed = || Reply::error(400, "bad_request", "DPE", "malformed host");
    parts.headers.remove(HOST);
    match version {
        Version::H1 => {
            parts.uri = Uri::from(address.path.clone());
            parts.headers.insert(HOST, address.host.clone());
            join_cookies(&mut parts.headers);
            if let Some(protocol) = upgrade {
                parts.method = Method::GET;
                parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                parts.headers.insert(UPGRADE, protocol.clone());
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

/// HTTP/2 may split cookies; HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let joined = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
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

    #[test]
    fn split_cookies_are_joined_for_http_1() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
