//! The head of a request as the backend gets it.

use http::header::{CONNECTION, COOKIE, EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use mesh::model::identity::Identity;

use super::reply::Reply;
use crate::hygiene::{strip_claims, strip_hop_by_hop};
use crate::matcher::PathMatch;
use crate::route::{Backend, Rule};
use crate::upstream::connections::Version;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What backends are told of a client and of us. Identities are made of names that Kubernetes allows.
pub fn certificate(own: &Identity, client: &Identity) -> HeaderValue {
    HeaderValue::try_from(format!("By={own};URI={client}")).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Takes away what is not to be passed on and what only the mesh may say, and says it.
pub fn sanitise(headers: &mut HeaderMap, certificate: &HeaderValue) {
    strip_hop_by_hop(headers);
    strip_claims(headers);
    // We answer it ourselves, by reading the body.
    headers.remove(EXPECT);
    headers.insert(FORWARDED_CERT, certificate.clone());
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
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
    fn the_mesh_alone_says_who_the_client_is() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_CERT, HeaderValue::from_static("By=x;URI=spiffe://evil"));
        headers.insert("x-culvert-source", HeaderValue::from_static("spiffe://evil"));
        let own = Identity::new("td", "default", "wp");
        sanitise(&mut headers, &certificate(&own, &Identity::new("td", "default", "client")));
        assert_eq!(headers[FORWARDED_CERT], "By=spiffe://td/ns/default/sa/wp;URI=spiffe://td/ns/default/sa/client");
        assert!(!headers.contains_key("x-culvert-source"));
    }

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
