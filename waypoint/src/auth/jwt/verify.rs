//! Pure. Verifies a token: signature, issuer, audience, time (RFC 7515, 7519, 8725).

use base64::Engine as _;
use http::HeaderName;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::{Map, Value};
use thiserror::Error;

use super::claims::Claims;
use super::json;
use super::keys::{KeySource, fitting};

/// One issuer that is trusted.
#[derive(Clone, Debug)]
pub struct JwtRule {
    /// `iss` must be this.
    pub issuer: String,
    /// `aud` must have one of these, if there are any.
    pub audiences: Vec<String>,
    /// Where the issuer's keys are.
    pub keys: KeySource,
    /// Headers that may carry a token, with the text before it. Empty, together with the next two: the default places.
    pub from_headers: Vec<(HeaderName, String)>,
    /// Query parameters that may carry a token.
    pub from_params: Vec<String>,
    /// Cookies that may carry a token.
    pub from_cookies: Vec<String>,
    /// The header that gets the payload in base64url.
    pub payload_header: Option<HeaderName>,
    /// Headers that get claims: header, path of the claim.
    pub claim_headers: Vec<(HeaderName, Vec<Box<str>>)>,
    /// Whether the token itself goes on to the backend.
    pub forward: bool,
    /// Claims whose text is a list of words.
    pub space_delimited: Vec<Box<str>>,
}

/// Why a token is refused with 401.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum JwtError {
    /// Not a token.
    #[error("malformed token")]
    Malformed,
    /// More than one token, or a place for one more than once.
    #[error("more than one token")]
    Several,
    /// The header asks for something that is not done here.
    #[error("header {0:?} of the token is not supported")]
    Unsupported(&'static str),
    /// A claim has not the form that it must have.
    #[error("claim {0:?} of the token is malformed")]
    Claim(&'static str),
    /// No rule has its issuer.
    #[error("issuer {0:?} is not trusted")]
    Issuer(String),
    /// The subject makes the principal look like one of another issuer.
    #[error("the subject names a principal of issuer {0:?}")]
    Subject(String),
    /// No key of the issuer fits the token.
    #[error("no key of the issuer fits")]
    NoKey,
    /// Signature, time or audience.
    #[error("{0}")]
    Invalid(String),
}

/// Types of tokens that a caller may show (RFC 7515, 4.1.9; RFC 9068, 2.1). Tokens that are made for something else, as
/// proofs, logouts and events are, say so in their type (RFC 8725, 3.11).
const TYPES: [&str; 3] = ["jwt", "at+jwt", "jose"];

/// Most keys that are tried for one token: one that names no key must not cost as much as its issuer has keys.
const TRIED: usize = 32;

impl JwtRule {
    /// The headers that only a token of this issuer fills.
    pub fn told(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload_header.iter().chain(self.claim_headers.iter().map(|(name, _)| name))
    }

    /// Checks a token with the issuer's keys.
    pub fn verify(&self, token: &str, keys: &JwkSet) -> Result<Claims, JwtError> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Malformed);
        };
        let header = part(header).ok_or(JwtError::Malformed)?;
        let (algorithm, id) = read_header(&header)?;
        let claims = part(payload).ok_or(JwtError::Malformed)?;
        check_claims(&claims)?;
        let mut error = JwtError::NoKey;
        for key in fitting(keys, algorithm, id).take(TRIED) {
            match self.verify_with(token, key, algorithm) {
                Ok(()) => return Ok(self.claims(claims)),
                Err(refused) => error = refused,
            }
        }
        Err(error)
    }

    fn verify_with(&self, token: &str, key: &Jwk, algorithm: Algorithm) -> Result<(), JwtError> {
        let invalid = |error: jsonwebtoken::errors::Error| JwtError::Invalid(error.to_string());
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.issuer]);
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["iss"]);
        if self.audiences.is_empty() {
            validation.validate_aud = false;
        } else {
            validation.set_audience(&self.audiences);
            validation.set_required_spec_claims(&["iss", "aud"]);
        }
        let key = DecodingKey::from_jwk(key).map_err(invalid)?;
        decode::<serde::de::IgnoredAny>(token, &key, &validation).map(|_| ()).map_err(invalid)
    }

    fn claims(&self, all: Map<String, Value>) -> Claims {
        let subject = all.get("sub").and_then(Value::as_str).filter(|subject| !subject.is_empty());
        let principal = subject.map(|subject| format!("{}/{subject}", self.issuer)).unwrap_or_default();
        let audiences = match all.get("aud") {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(one)) => vec![one.clone()],
            _ => vec![],
        };
        Claims { principal, audiences, all, space_delimited: self.space_delimited.clone() }
    }
}

/// An encoded part of a token, if it has one reading.
fn part(text: &str) -> Option<Map<String, Value>> {
    json::object(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()?)
}

/// The issuer that a token claims, unchecked: it only says which rule is to check it.
pub fn claimed_issuer(token: &str) -> Option<String> {
    part(token.split('.').nth(1)?)?.get("iss")?.as_str().map(str::to_owned)
}

/// Algorithm and key id. What must be understood and is not makes the token invalid (RFC 7515, 4.1.11): no extension is
/// understood here.
fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<&str>), JwtError> {
    if header.contains_key("crit") {
        return Err(JwtError::Unsupported("crit"));
    }
    // RFC 7797: the payload would be another text than the one that is signed.
    if header.get("b64").is_some_and(|encoded| *encoded != Value::Bool(true)) {
        return Err(JwtError::Unsupported("b64"));
    }
    for encrypted in ["enc", "zip"] {
        if header.contains_key(encrypted) {
            return Err(JwtError::Unsupported("enc"));
        }
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(kind)) => {
            let kind = kind.to_ascii_lowercase();
            if !TYPES.contains(&kind.strip_prefix("application/").unwrap_or(&kind)) {
                return Err(JwtError::Unsupported("typ"));
            }
        }
        Some(_) => return Err(JwtError::Unsupported("typ")),
    }
    let id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.as_str()),
        Some(_) => return Err(JwtError::Unsupported("kid")),
    };
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(|name| name.parse().ok());
    Ok((algorithm.ok_or(JwtError::Unsupported("alg"))?, id))
}

/// The forms of the registered claims (RFC 7519, 4.1): a time that is a text, or a list of issuers, is no claim at all.
fn check_claims(claims: &Map<String, Value>) -> Result<(), JwtError> {
    for name in ["exp", "nbf", "iat"] {
        let is_time = |value: &Value| value.as_f64().is_some_and(|seconds| (0.0..1e15).contains(&seconds));
        if claims.get(name).is_some_and(|value| !is_time(value)) {
            return Err(JwtError::Claim(name));
        }
    }
    for name in ["iss", "sub"] {
        if claims.get(name).is_some_and(|value| !value.is_string()) {
            return Err(JwtError::Claim(name));
        }
    }
    let is_audience = |value: &Value| match value {
        Value::Array(items) => items.iter().all(Value::is_string),
        other => other.is_string(),
    };
    if claims.get("aud").is_some_and(|value| !is_audience(value)) {
        return Err(JwtError::Claim("aud"));
    }
    Ok(())
}
