//! Pure. The public keys of an issuer: which there are, and which may verify what.
//!
//! The algorithm is fixed by the key, never by the token (RFC 8725, 3.1): no `none`, no HMAC.

use std::sync::Arc;

use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;

/// Where the keys of an issuer are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// In the manifest.
    Inline(Arc<JwkSet>),
    /// Behind a URL.
    Url(Arc<str>),
}

#[derive(Deserialize)]
struct Written {
    keys: Vec<Value>,
}

/// Reads a JWK set. Keys of kinds that are not known are ignored (RFC 7517, 5), and so are those that are not for
/// signatures that others made: secrets, and keys for encryption. An error without any key that is left.
pub fn key_set(text: &[u8]) -> Result<JwkSet, String> {
    let written: Written = serde_json::from_slice(text).map_err(|error| format!("is not a JWK set: {error}"))?;
    let known = written.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys: Vec<Jwk> = known.filter(|key| !algorithms(key).is_empty()).collect();
    if keys.is_empty() { Err("has no public key for signatures".to_owned()) } else { Ok(JwkSet { keys }) }
}

/// The keys that may have signed a token of this algorithm and key id.
pub(super) fn fitting<'a>(
    keys: &'a JwkSet,
    algorithm: Algorithm,
    id: Option<&'a str>,
) -> impl Iterator<Item = &'a Jwk> {
    keys.keys.iter().filter(move |key| {
        let own = key.common.key_id.as_deref();
        (id.is_none() || own.is_none() || own == id) && algorithms(key).contains(&algorithm)
    })
}

/// The algorithms that a key may verify; none for secrets and for keys with another use.
fn algorithms(key: &Jwk) -> Vec<Algorithm> {
    let signs = key.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
    let verifies = key.common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    if !signs || !verifies {
        return vec![];
    }
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
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        _ => &[],
    };
    let pinned = key.common.key_algorithm.map(|pinned| pinned.to_string());
    let is_allowed = |algorithm: &&Algorithm| pinned.as_ref().is_none_or(|pinned| *pinned == format!("{algorithm:?}"));
    of_type.iter().filter(is_allowed).copied().collect()
}
