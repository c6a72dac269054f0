//! Tokens with every flaw, and the few that are good.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

/// A rule without keys.
pub(super) fn rule() -> JwtRule {
    JwtRule {
        issuer: "https://issuer".to_owned(),
        audiences: vec!["shop".to_owned()],
        keys: KeySource::Inline(Arc::new(JwkSet::default())),
        from_headers: vec![],
        from_params: vec![],
        from_cookies: vec![],
        payload_header: None,
        claim_headers: vec![],
        forward: false,
        space_delimited: vec![],
    }
}

struct Signer {
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = pair.public_key_raw();
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": text(&point[1..33]), "y": text(&point[33..])});
        Self { key: EncodingKey::from_ec_der(&pair.serialize_der()), jwk }
    }

    fn set(&self, changes: Value) -> Result<JwkSet, String> {
        let mut jwk = self.jwk.clone();
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        key_set(json!({"keys": [jwk]}).to_string().as_bytes())
    }

    fn keys(&self) -> JwkSet {
        self.set(json!({})).unwrap()
    }

    /// A token of exactly these texts.
    fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES256).unwrap();
        format!("{signed}.{signature}")
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(r#"{"alg":"ES256","kid":"k1"}"#, &claims.to_string())
    }
}

fn good() -> Value {
    json!({"iss": "https://issuer", "sub": "ann", "aud": ["shop", "other"], "exp": 4_000_000_000u64,
        "scope": "read write", "realm": {"roles": ["admin", "ops"]}})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

#[test]
fn a_valid_token_gives_its_claims() {
    let signer = Signer::new();
    let claims = rule().verify(&signer.token(&good()), &signer.keys()).unwrap();
    assert_eq!(claims.principal, "https://issuer/ann");
    assert_eq!(claims.audiences, ["shop", "other"]);
    assert_eq!(claims.values(&["scope".into()]), ["read", "write"]);
    assert_eq!(claims.values(&["realm".into(), "roles".into()]), ["admin", "ops"]);
    assert!(claims.values(&["absent".into()]).is_empty());
    for claims in [with("exp", json!(4_000_000_000.5)), with("nbf", json!(1.5)), with("aud", json!("shop"))] {
        assert!(rule().verify(&signer.token(&claims), &signer.keys()).is_ok(), "{claims}");
    }
    let anonymous = rule().verify(&signer.token(&with("sub", json!(""))), &signer.keys()).unwrap();
    assert_eq!(anonymous.principal, "", "without a subject there is no principal");
}

#[test]
fn every_flawed_claim_refuses_the_token() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let keys = signer.keys();
    let mut refused = vec![
        ("foreign key".to_owned(), stranger.token(&good())),
        ("nonsense".to_owned(), "a.b.c".to_owned()),
        ("four parts".to_owned(), signer.token(&good()) + ".x"),
        ("empty".to_owned(), String::new()),
    ];
    for (name, value) in [
        ("exp", json!(1_000_000)),
        ("exp", json!("4000000000")),
        ("exp", json!(null)),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!([4_000_000_000u64])),
        ("exp", json!(true)),
        ("nbf", json!(3_999_999_999u64)),
        ("nbf", json!("0")),
        ("nbf", json!(1e18)),
        ("iat", json!("yesterday")),
        ("iss", json!("https://evil")),
        ("iss", json!(["https://issuer"])),
        ("iss", json!(["https://evil", "https://issuer"])),
        ("sub", json!(7)),
        ("aud", json!("else")),
        ("aud", json!(["else"])),
        ("aud", json!([])),
        ("aud", json!({"shop": 1})),
        ("aud", json!(["shop", 7])),
    ] {
        refused.push((format!("{name}: {value}"), signer.token(&with(name, value))));
    }
    let twice = good().to_string().replacen('{', r#"{"role":"admin","role":"guest","#, 1);
    refused.push(("a claim twice".to_owned(), signer.sign(r#"{"alg":"ES256"}"#, &twice)));
    for (what, token) in refused {
        assert!(rule().verify(&token, &keys).is_err(), "{what}");
    }
}

#[test]
fn every_flawed_header_refuses_the_token() {
    let signer = Signer::new();
    let (keys, payload) = (signer.keys(), good().to_string());
    for header in [
        r#"{"alg":"ES256","crit":["exp"]}"#,
        r#"{"alg":"ES256","crit":[]}"#,
        r#"{"alg":"ES256","crit":["urn:x"],"urn:x":1}"#,
        r#"{"alg":"ES256","b64":false,"crit":["b64"]}"#,
        r#"{"alg":"ES256","b64":false}"#,
        r#"{"alg":"ES256","b64":"false"}"#,
        r#"{"alg":"ES256","zip":"DEF"}"#,
        r#"{"alg":"ES256","typ":"dpop+jwt"}"#,
        r#"{"alg":"ES256","typ":"application/logout+jwt"}"#,
        r#"{"alg":"ES256","typ":7}"#,
        r#"{"alg":"ES256","kid":["k1"]}"#,
        r#"{"alg":"ES256","alg":"ES256"}"#,
        r#"{"alg":"none","alg":"ES256"}"#,
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":["ES256"]}"#,
        "{}",
    ] {
        assert!(rule().verify(&signer.sign(header, &payload), &keys).is_err(), "{header}");
    }
    for header in [
        r#"{"alg":"ES256"}"#,
        r#"{"alg":"ES256","typ":"JWT"}"#,
        r#"{"alg":"ES256","typ":"application/at+jwt"}"#,
        r#"{"alg":"ES256","b64":true,"kid":"k1","x":1}"#,
    ] {
        assert!(rule().verify(&signer.sign(header, &payload), &keys).is_ok(), "{header}");
    }
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(&payload));
    assert!(rule().verify(&unsigned, &keys).is_err());
    let hmac = encode(&Header::new(Algorithm::HS256), &good(), &EncodingKey::from_secret(b"k")).unwrap();
    assert_eq!(rule().verify(&hmac, &keys), Err(JwtError::NoKey), "an HMAC with a public key");
}

#[test]
fn only_keys_for_signatures_verify() {
    let signer = Signer::new();
    let token = signer.token(&good());
    for usable in [json!({}), json!({"use": "sig"}), json!({"key_ops": ["verify"]}), json!({"alg": "ES256"})] {
        assert!(rule().verify(&token, &signer.set(usable.clone()).unwrap()).is_ok(), "{usable}");
    }
    for unusable in [
        json!({"use": "enc"}),
        json!({"use": "x"}),
        json!({"key_ops": ["sign"]}),
        json!({"key_ops": []}),
        json!({"alg": "ES384"}),
        json!({"alg": "ECDH-ES"}),
    ] {
        assert!(signer.set(unusable.clone()).is_err(), "{unusable}");
    }
    let secret = json!({"kty": "oct", "alg": "HS256", "kid": "k1", "k": URL_SAFE_NO_PAD.encode("secret")});
    assert!(key_set(json!({"keys": [secret]}).to_string().as_bytes()).is_err());
    let strange = json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"});
    let all = key_set(json!({"keys": [strange, secret, signer.jwk]}).to_string().as_bytes()).unwrap();
    assert_eq!(all.keys.len(), 1, "what is not known or not for us is left out");
    assert!(rule().verify(&token, &all).is_ok());
}

#[test]
fn keys_are_told_apart_by_id_and_tried_where_ids_do_not_tell() {
    let (first, second) = (Signer::new(), Signer::new());
    let set = |a: Value, b: Value| {
        let (mut one, mut two) = (first.jwk.clone(), second.jwk.clone());
        (one["kid"], two["kid"]) = (a, b);
        key_set(json!({"keys": [one, two]}).to_string().as_bytes()).unwrap()
    };
    let of_second = second.token(&good());
    assert!(
        rule().verify(&of_second, &set(json!("k1"), json!("k1"))).is_ok(),
        "one id, two keys: either may have signed"
    );
    assert!(rule().verify(&of_second, &set(json!("k0"), json!("k1"))).is_ok());
    assert!(rule().verify(&of_second, &set(json!("k1"), json!("k2"))).is_err(), "the id names another key");
    let without = second.sign(r#"{"alg":"ES256"}"#, &good().to_string());
    assert!(rule().verify(&without, &set(json!("k0"), json!("k2"))).is_ok(), "no id: any key may have signed");
}

#[test]
fn a_claim_cannot_break_out_of_its_header() {
    let signer = Signer::new();
    let told = |value: Value| {
        let claims = rule().verify(&signer.token(&with("role", value)), &signer.keys()).unwrap();
        claims.header(&["role".into()]).map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(told(json!("admin")), some("admin"));
    assert_eq!(told(json!(["a", "b"])), some("a,b"));
    assert_eq!(told(json!("a,b")), some("a,b"));
    assert_eq!(told(json!(7)), some("7"));
    assert_eq!(told(json!("é")), some("é"));
    for hostile in [
        json!("a\r\nx-admin: 1"),
        json!("a\nb"),
        json!("a\0b"),
        json!("a\u{85}b"),
        json!("a\u{2028}b"),
        json!("a\u{202e}b"),
        json!(["a", "b,admin"]),
        json!(" "),
        json!(""),
        json!({"a": 1}),
        json!(null),
    ] {
        assert_eq!(told(hostile.clone()), None, "{hostile}");
    }
}
