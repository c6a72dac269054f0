//! JSON web tokens of callers (RequestAuthentication): a missing token passes, a bad one is refused.
//!
//! The algorithm is fixed by the key, never by the token (RFC 8725, 3.1): no `none`, no HMAC.

use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;
use thiserror::Error;

use crate::query::Query;

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

/// Where the keys of an issuer are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// In the manifest.
    Inline(Arc<JwkSet>),
    /// Behind a URL.
    Url(Arc<str>),
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `issuer/subject`.
    pub principal: String,
    /// `aud`.
    pub audiences: Vec<String>,
    /// Everything.
    pub all: Value,
    space_delimited: Vec<Box<str>>,
}

/// Why a token is refused with 401.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum JwtError {
    /// Not a token.
    #[error("malformed token")]
    Malformed,
    /// No rule has its issuer.
    #[error("issuer {0:?} is not trusted")]
    Issuer(String),
    /// The issuer's keys could not be had.
    #[error("the keys of issuer {0:?} are not available")]
    NoKeys(String),
    /// No key of the issuer fits the token.
    #[error("no key of the issuer fits")]
    NoKey,
    /// Signature, time or audience.
    #[error("{0}")]
    Invalid(String),
}

/// A token and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The token.
    pub token: String,
    /// The header that carried it; taken off unless the rule forwards it.
    pub header: Option<HeaderName>,
}

impl Claims {
    /// The values of a claim by path: words of a list, or of a text that is one.
    pub fn values(&self, path: &[Box<str>]) -> Vec<String> {
        let Some(value) = path.iter().try_fold(&self.all, |value, key| value.get(&**key)) else { return vec![] };
        let split =
            path.len() == 1 && (matches!(&*path[0], "scope" | "permission") || self.space_delimited.contains(&path[0]));
        match value {
            Value::String(text) if split => text.split_ascii_whitespace().map(str::to_owned).collect(),
            Value::Array(items) => items.iter().filter_map(plain).collect(),
            other => plain(other).into_iter().collect(),
        }
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl JwtRule {
    /// The token of a request, if it carries one where this rule looks.
    pub fn find(&self, headers: &HeaderMap, query: &Query<'_>) -> Option<Found> {
        let default = self.from_headers.is_empty() && self.from_params.is_empty() && self.from_cookies.is_empty();
        let bearer = [(AUTHORIZATION, "Bearer ".to_owned())];
        let places: &[(HeaderName, String)] = if default { &bearer } else { &self.from_headers };
        for (name, prefix) in places {
            for value in headers.get_all(name).iter().filter_map(|value| value.to_str().ok()) {
                let start = value.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix));
                if start.is_some() {
                    let token = value[prefix.len()..].trim().to_owned();
                    return Some(Found { token, header: Some(name.clone()) });
                }
            }
        }
        let access_token = ["access_token".to_owned()];
        let params: &[String] = if default { &access_token } else { &self.from_params };
        let found = params.iter().find_map(|name| query.get(name)).map(str::to_owned);
        let found = found.or_else(|| self.from_cookies.iter().find_map(|name| cookie(headers, name)));
        found.map(|token| Found { token, header: None })
    }

    /// Checks a token with the issuer's keys.
    pub fn verify(&self, token: &str, keys: &JwkSet) -> Result<Claims, JwtError> {
        let header = decode_header(token).map_err(|_| JwtError::Malformed)?;
        let fitting = keys.keys.iter().filter(|key| {
            let named = header.kid.is_none() || key.common.key_id.is_none() || key.common.key_id == header.kid;
            named && algorithms(key).contains(&header.alg)
        });
        let mut error = JwtError::NoKey;
        for key in fitting {
            match self.verify_with(token, key, header.alg) {
                Ok(claims) => return Ok(claims),
                Err(refused) => error = refused,
            }
        }
        Err(error)
    }

    fn verify_with(&self, token: &str, key: &Jwk, algorithm: Algorithm) -> Result<Claims, JwtError> {
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
        let all = decode::<Value>(token, &key, &validation).map_err(invalid)?.claims;
        let subject = all.get("sub").and_then(Value::as_str).unwrap_or_default();
        let audiences = match all.get("aud") {
            Some(Value::Array(items)) => items.iter().filter_map(plain).collect(),
            Some(one) => plain(one).into_iter().collect(),
            None => vec![],
        };
        let principal = format!("{}/{subject}", self.issuer);
        Ok(Claims { principal, audiences, all, space_delimited: self.space_delimited.clone() })
    }
}

/// The issuer that a token claims, unchecked: it only says which rule is to check it.
pub fn claimed_issuer(token: &str) -> Option<String> {
    use base64::Engine as _;
    let payload = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    let value: Value = serde_json::from_slice(&bytes).ok()?;
    value.get("iss")?.as_str().map(str::to_owned)
}

/// The algorithms that a public key may be used with; none for secrets.
fn algorithms(key: &Jwk) -> Vec<Algorithm> {
    let of_type: &[Algorithm] = match &key.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
        _ => &[],
    };
    let pinned = key.common.key_algorithm.map(|pinned| pinned.to_string());
    let fits = |algorithm: &&Algorithm| pinned.as_ref().is_none_or(|pinned| *pinned == format!("{algorithm:?}"));
    of_type.iter().filter(fits).copied().collect()
}

/// The value of a cookie.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    fn rule(keys: &JwkSet) -> JwtRule {
        JwtRule {
            issuer: "https://issuer".to_owned(),
            audiences: vec!["shop".to_owned()],
            keys: KeySource::Inline(Arc::new(keys.clone())),
            from_headers: vec![],
            from_params: vec![],
            from_cookies: vec![],
            payload_header: None,
            claim_headers: vec![],
            forward: false,
            space_delimited: vec![],
        }
    }

    fn key() -> (EncodingKey, JwkSet) {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let point = pair.public_key_raw();
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": text(&point[1..33]), "y": text(&point[33..])});
        (key, JwkSet { keys: vec![serde_json::from_value(jwk).unwrap()] })
    }

    fn token(key: &EncodingKey, claims: &Value) -> String {
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, key).unwrap()
    }

    fn good() -> Value {
        json!({"iss": "https://issuer", "sub": "ann", "aud": ["shop", "other"], "exp": 4_000_000_000u64,
            "scope": "read write", "realm": {"roles": ["admin", "ops"]}})
    }

    #[test]
    fn a_valid_token_gives_its_claims() {
        let (key, keys) = key();
        let claims = rule(&keys).verify(&token(&key, &good()), &keys).unwrap();
        assert_eq!(claims.principal, "https://issuer/ann");
        assert_eq!(claims.audiences, ["shop", "other"]);
        assert_eq!(claims.values(&["scope".into()]), ["read", "write"]);
        assert_eq!(claims.values(&["realm".into(), "roles".into()]), ["admin", "ops"]);
        assert!(claims.values(&["absent".into()]).is_empty());
    }

    #[test]
    fn every_flaw_refuses_the_token() {
        let (signer, keys) = key();
        let (stranger, _) = key();
        let with = |name: &str, value: Value| {
            let mut claims = good();
            claims[name] = value;
            claims
        };
        let rule = rule(&keys);
        for (what, text) in [
            ("foreign key", token(&stranger, &good())),
            ("expired", token(&signer, &with("exp", json!(1_000_000)))),
            ("not yet valid", token(&signer, &with("nbf", json!(3_999_999_999u64)))),
            ("other issuer", token(&signer, &with("iss", json!("https://evil")))),
            ("other audience", token(&signer, &with("aud", json!("else")))),
            ("nonsense", "a.b.c".to_owned()),
            ("empty", String::new()),
        ] {
            assert!(rule.verify(&text, &keys).is_err(), "{what}");
        }
        let hmac = encode(&Header::new(Algorithm::HS256), &good(), &EncodingKey::from_secret(b"k")).unwrap();
        assert_eq!(rule.verify(&hmac, &keys), Err(JwtError::NoKey), "an HMAC with a public key");
    }

    #[test]
    fn tokens_are_found_where_the_rule_looks() {
        let (_, keys) = key();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "bearer abc".parse().unwrap());
        headers.insert(COOKIE, "a=1; session=xyz".parse().unwrap());
        let mut rule = rule(&keys);
        assert_eq!(rule.find(&headers, &Query::new("")).unwrap().token, "abc");
        assert_eq!(rule.find(&HeaderMap::new(), &Query::new("access_token=q")).unwrap().token, "q");
        rule.from_cookies = vec!["session".to_owned()];
        assert_eq!(rule.find(&headers, &Query::new("access_token=q")).unwrap().token, "xyz");
        assert_eq!(rule.find(&HeaderMap::new(), &Query::new("")), None);
    }
}
