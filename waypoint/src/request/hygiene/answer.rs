//! Pure. Validates the head of a backend's response: an ambiguous one is not forwarded.
//!
//! RFC 9112, 6.1 to 6.3 and 11.2. The connection of a refused response is not used again.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use thiserror::Error;

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadAnswer {
    /// Both a length and a coding.
    #[error("both Content-Length and Transfer-Encoding")]
    Both,
    /// More than one length, or one that is not a number.
    #[error("Content-Length must be one number")]
    Length,
    /// Another coding than `chunked`, or more than one.
    #[error("Transfer-Encoding must be chunked")]
    Coding,
    /// A status that has no content, and content.
    #[error("content with a status that has none")]
    Content,
    /// 101 although nothing was asked for, or something else was.
    #[error("the backend changed the protocol unasked")]
    Unasked,
    /// Interim responses without end.
    #[error("too many interim responses")]
    Interim,
}

/// Whether a response can be read in one way only.
pub fn check(version: Version, status: StatusCode, headers: &HeaderMap) -> Result<(), BadAnswer> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(one), None) => Some(number(one.as_bytes()).ok_or(BadAnswer::Length)?),
        (Some(_), Some(_)) => return Err(BadAnswer::Length),
    };
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if version < Version::HTTP_2 && coding.is_some() {
        if length.is_some() {
            return Err(BadAnswer::Both);
        }
        let is_chunked = coding.is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
        if !is_chunked || codings.next().is_some() {
            return Err(BadAnswer::Coding);
        }
    }
    // A length of nothing is common, and harmless.
    if status == StatusCode::NO_CONTENT && (length.is_some_and(|length| length > 0) || coding.is_some()) {
        return Err(BadAnswer::Content);
    }
    Ok(())
}

/// Whether a response without content names the length of one: what a backend sends by mistake after it would be read
/// as the response to the next request.
pub fn may_be_followed(method: &Method, status: StatusCode, headers: &HeaderMap) -> bool {
    let has_none = *method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let is_length = |length: &HeaderValue| length.as_bytes().iter().any(|digit| *digit != b'0');
    has_none && (headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(is_length))
}

fn number(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit).then_some(value)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_in_one_way_or_not_at_all() {
        use BadAnswer::{Both, Coding, Content, Length};
        let one = Version::HTTP_11;
        for (version, status, lines, expected) in [
            (one, 200, &[("content-length", "5")][..], Ok(())),
            (one, 200, &[("transfer-encoding", "Chunked")], Ok(())),
            (one, 200, &[], Ok(())),
            (one, 204, &[("content-length", "0")], Ok(())),
            (one, 304, &[("content-length", "5")], Ok(())),
            (Version::HTTP_2, 200, &[("content-length", "5")], Ok(())),
            (one, 200, &[("content-length", "5"), ("transfer-encoding", "chunked")], Err(Both)),
            (one, 200, &[("content-length", "5"), ("content-length", "5")], Err(Length)),
            (one, 200, &[("content-length", "5, 5")], Err(Length)),
            (one, 200, &[("content-length", "+5")], Err(Length)),
            (one, 200, &[("content-length", "")], Err(Length)),
            (one, 200, &[("content-length", "99999999999999999999999")], Err(Length)),
            (one, 200, &[("transfer-encoding", "gzip, chunked")], Err(Coding)),
            (one, 200, &[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], Err(Coding)),
            (one, 200, &[("transfer-encoding", "chunked, gzip")], Err(Coding)),
            (one, 200, &[("transfer-encoding", "identity")], Err(Coding)),
            (one, 204, &[("content-length", "5")], Err(Content)),
            (one, 204, &[("transfer-encoding", "chunked")], Err(Content)),
            (Version::HTTP_2, 204, &[("content-length", "5")], Err(Content)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(check(version, StatusCode::from_u16(status).unwrap(), &headers), expected, "{status} {lines:?}");
        }
    }

    #[test]
    fn only_a_length_without_content_makes_a_connection_dubious() {
        for (method, status, name, value, dubious) in [
            (Method::HEAD, 200, "content-length", "5", true),
            (Method::HEAD, 200, "transfer-encoding", "chunked", true),
            (Method::GET, 304, "content-length", "10", true),
            (Method::HEAD, 200, "content-length", "0", false),
            (Method::HEAD, 200, "etag", "5", false),
            (Method::GET, 200, "content-length", "5", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(may_be_followed(&method, status, &headers), dubious, "{method} {status} {name}: {value}");
        }
    }
}
