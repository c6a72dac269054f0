//! Pure. Decides about the head of a request: method, host, upgrade, body; removes connection-specific headers.
//!
//! What two parsers could read differently is refused, not repaired (RFC 9112, 3.2 and 11.2; RFC 9113, 8.2, 8.3 and
//! 10.3).

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use hyper::ext::Protocol;
use thiserror::Error;

use super::upgrade::{self, Upgrade, WEBSOCKET};
use super::{hop, host, lines};

/// Most headers of a request.
pub const MAX_HEADERS: usize = 100;
/// Most bytes of a request's head.
pub const MAX_HEAD: usize = 64 << 10;

/// Stands in a request that is to be refused: put there by our own first look at it. From a caller it does the same.
pub const REFUSED: &str = "x-culvert-refused";

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadRequest {
    /// HTTP/1.1 without `Host`, or HTTP/2 without `:authority` and `host`.
    #[error("no host")]
    NoHost,
    /// Several `Host` headers, or one that differs from `:authority`.
    #[error("more than one host")]
    Hosts,
    /// The host is not a host.
    #[error("malformed host")]
    MalformedHost,
    /// Both `Content-Length` and `Transfer-Encoding`, or several lengths that differ.
    #[error("ambiguous body length")]
    BodyLength,
    /// The head cannot be read in one way only.
    #[error("ambiguous or malformed head")]
    Malformed,
    /// The head is too large.
    #[error("the head is too large")]
    TooLarge,
    /// A connection-specific header in HTTP/2.
    #[error("connection-specific header in HTTP/2")]
    ConnectionHeader,
    /// White space around a value in HTTP/2: HTTP/1 would read it without.
    #[error("white space around a header's value")]
    Value,
    /// The target has a form that is not for this method, or a scheme that is not HTTP's.
    #[error("the target must be a path, or an http URI")]
    Target,
    /// TRACE with content.
    #[error("TRACE must have no content")]
    TraceContent,
    /// CONNECT to somewhere: this is no such proxy.
    #[error("CONNECT without a protocol is not supported")]
    Connect,
    /// Extended CONNECT to another protocol than WebSocket.
    #[error("the protocol of CONNECT must be websocket")]
    Protocol,
    /// `Connection` takes away a field that decides about the request.
    #[error("Connection names a field that policies or routes read")]
    Nominated,
    /// Something else is expected than 100-continue.
    #[error("Expect must be 100-continue")]
    Expectation,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    None,
    /// So many bytes.
    Length(u64),
    /// Something, of a length that shows at its end.
    Unknown,
}

/// What was decided about a request beside what its head says by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The host, from wherever it came.
    pub host: HeaderValue,
    /// What the connection is to become.
    pub upgrade: Option<Upgrade>,
    /// What follows.
    pub content: Content,
    /// The client waits for 100 (Continue) before it sends the content.
    pub waits: bool,
    /// What its `Connection` took away.
    pub nominated: hop::Nominated,
}

/// Reads a head, and leaves in `parts` what everybody behind sees: the method that it has, and no field that meant the
/// client's connection. `service` is the host of those that need not name one (HTTP/1.0).
pub fn decide(parts: &mut Parts, content: Content, service: &str) -> Result<Head, BadRequest> {
    if let Some(why) = parts.headers.get(REFUSED) {
        return Err(if why == "large" { BadRequest::TooLarge } else { BadRequest::Malformed });
    }
    if parts.version >= Version::HTTP_2 {
        fit_for_two(&parts.headers)?;
    }
    lengths(&parts.headers)?;
    if parts.method == Method::TRACE && content != Content::None {
        return Err(BadRequest::TraceContent);
    }
    let upgrade = upgraded(parts, content)?;
    target(parts)?;
    let host = named(parts, service)?;
    let waits = expected(parts, content)?;
    let trailers = hop::takes_trailers(&parts.headers);
    let nominated = hop::strip(&mut parts.headers);
    if trailers {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // HTTP/2 may split cookies (RFC 9113, 8.2.3); HTTP/1 may not, and a policy must see what a backend of either sees.
    lines::join(&mut parts.headers, &COOKIE);
    Ok(Head { host, upgrade, content, waits, nominated })
}

impl Head {
    /// Refuses a request whose `Connection` took away one of these fields: it was decided about without it, and whoever
    /// wrote the field, a proxy before us maybe, meant it to be read.
    pub fn keeps<'a>(&self, mut read: impl Iterator<Item = &'a HeaderName>) -> Result<(), BadRequest> {
        let is_lost = !self.nominated.is_empty() && read.any(|name| self.nominated.contains(name));
        if is_lost { Err(BadRequest::Nominated) } else { Ok(()) }
    }
}

/// What HTTP/2 forbids and HTTP/1 would read as something else (RFC 9113, 8.2.1 and 8.2.2).
fn fit_for_two(headers: &HeaderMap) -> Result<(), BadRequest> {
    const FORBIDDEN: [HeaderName; 5] = [
        http::header::CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    if headers.get(TE).is_some_and(|value| value != "trailers")
        || FORBIDDEN.iter().any(|name| headers.contains_key(name))
    {
        return Err(BadRequest::ConnectionHeader);
    }
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let padded = |value: &HeaderValue| is_space(value.as_bytes().first()) || is_space(value.as_bytes().last());
    if headers.values().any(padded) { Err(BadRequest::Value) } else { Ok(()) }
}

fn lengths(headers: &HeaderMap) -> Result<(), BadRequest> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    let is_number = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some() || headers.contains_key(TRANSFER_ENCODING) || !is_number {
        return Err(BadRequest::BodyLength);
    }
    Ok(())
}

/// Whether the request is a WebSocket's. However it came, its method is GET from here on.
fn upgraded(parts: &mut Parts, content: Content) -> Result<Option<Upgrade>, BadRequest> {
    if parts.method != Method::CONNECT {
        return Ok(upgrade::asked(&parts.method, parts.version, &parts.headers, content != Content::None));
    }
    let protocol = parts.extensions.remove::<Protocol>().ok_or(BadRequest::Connect)?;
    if protocol.as_str() != WEBSOCKET {
        return Err(BadRequest::Protocol);
    }
    parts.method = Method::GET;
    Ok(Some(Upgrade::Http2))
}

/// The form of the target (RFC 9112, 3.2).
fn target(parts: &Parts) -> Result<(), BadRequest> {
    let uri = &parts.uri;
    let is_form_good = match uri.path() {
        "*" => parts.method == Method::OPTIONS,
        // Without a path: an absolute URI, of which OPTIONS asks about the server; not what only CONNECT may have.
        "" => uri.scheme().is_some(),
        path => path.starts_with('/'),
    };
    let is_scheme_good = uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    if is_form_good && is_scheme_good { Ok(()) } else { Err(BadRequest::Target) }
}

/// The host that a request names.
fn named(parts: &Parts, service: &str) -> Result<HeaderValue, BadRequest> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(BadRequest::Hosts);
    }
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let host = match (parts.version, authority, header) {
        (Version::HTTP_2, Some(authority), Some(header))
            if !header.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) =>
        {
            return Err(BadRequest::Hosts);
        }
        (Version::HTTP_11, _, None) => return Err(BadRequest::NoHost),
        // RFC 9112, 3.2.2: the target says it, and `Host` is ignored; it must be a host all the same (3.2).
        (version, Some(authority), Some(header)) if version < Version::HTTP_2 => {
            if !host::is_valid(header.as_bytes()) {
                return Err(BadRequest::MalformedHost);
            }
            HeaderValue::from_str(authority).map_err(|_| BadRequest::MalformedHost)?
        }
        (_, _, Some(header)) => header.clone(),
        (_, Some(authority), None) => HeaderValue::from_str(authority).map_err(|_| BadRequest::MalformedHost)?,
        // HTTP/1.0 knew no hosts: the service is the one that was called.
        (version, None, None) if version < Version::HTTP_11 => {
            HeaderValue::from_str(service).map_err(|_| BadRequest::NoHost)?
        }
        (_, None, None) => return Err(BadRequest::NoHost),
    };
    if host::is_valid(host.as_bytes()) { Ok(host) } else { Err(BadRequest::MalformedHost) }
}

/// Whether the client waits for a word before it sends its content (RFC 9110, 10.1.1). The field is ours to send on.
fn expected(parts: &mut Parts, content: Content) -> Result<bool, BadRequest> {
    let mut values = parts.headers.get_all(EXPECT).iter();
    let Some(value) = values.next() else { return Ok(false) };
    let is_known = value.as_bytes().eq_ignore_ascii_case(b"100-continue") && values.next().is_none();
    // In HTTP/1.0 it means nothing.
    if !is_known && parts.version >= Version::HTTP_11 {
        return Err(BadRequest::Expectation);
    }
    parts.headers.remove(EXPECT);
    Ok(parts.version == Version::HTTP_11 && content != Content::None)
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
