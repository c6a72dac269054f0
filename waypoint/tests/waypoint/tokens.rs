//! RequestAuthentication: tokens with keys in the manifest and behind a URL.

use base64::Engine as _;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::backend::{Backend, ok};
use super::rig::{Got, Rig, SHOP, got, shop};

struct Issuer {
    key: EncodingKey,
    jwks: Value,
}

impl Issuer {
    fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let point = pair.public_key_raw();
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "x": text(&point[1..33]), "y": text(&point[33..])}]});
        Self { key: EncodingKey::from_ec_der(&pair.serialize_der()), jwks }
    }

    fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &self.key).unwrap()
    }
}

fn claims(audience: &str) -> Value {
    json!({"iss": "https://issuer", "sub": "ann", "aud": [audience], "exp": 4_000_000_000_u64, "role": "admin"})
}

fn authentication(keys: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: shop}}], jwtRules: [{{issuer: 'https://issuer', audiences: [shop], {keys},\n\
         outputClaimToHeaders: [{{header: x-subject, claim: sub}}]}}]}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: jwt, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: shop}}], rules: [{{to: [{{operation: {{paths: [/public]}}}}]}},\n\
         {{from: [{{source: {{requestPrincipals: ['https://issuer/*']}}}}], when: [{{key: 'request.auth.claims[role]', values: [admin]}}]}}]}}\n"
    )
}

async fn call(rig: &Rig, path: &str, token: Option<&str>) -> Got {
    let mut request = Request::get(path).header("host", "shop").header("x-subject", "root");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut sender = rig.one(SHOP).await;
    got(sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await
}

async fn is_enforced(rig: &Rig, backend: &Backend, issuer: &Issuer) {
    let good = issuer.token(&claims("shop"));
    assert_eq!(call(rig, "/", Some(&good)).await.status, 200);
    let seen = backend.last();
    assert_eq!((seen.header("x-subject"), seen.header("authorization")), ("ann", ""), "the claim is ours to say");
    assert_eq!(call(rig, "/public", None).await.status, 200, "no token passes where none is asked for");
    let answer = call(rig, "/", None).await;
    assert_eq!((answer.status, answer.header("x-culvert-error")), (403, "rbac"));
    let mut guest = claims("shop");
    guest["role"] = json!("guest");
    assert_eq!(call(rig, "/", Some(&issuer.token(&guest))).await.status, 403);
    let before = backend.hits();
    let stranger = Issuer::new().token(&claims("shop"));
    let none = format!(
        "{}.{}.",
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        good.split('.').nth(1).unwrap()
    );
    for (what, token) in [
        ("stranger", stranger),
        ("audience", issuer.token(&claims("bank"))),
        ("none", none),
        ("nonsense", "x".to_owned()),
    ] {
        let answer = call(rig, "/public", Some(&token)).await;
        assert_eq!((answer.status, answer.header("x-culvert-error")), (401, "jwt"), "{what}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{what}");
    }
    assert_eq!(backend.hits(), before);
}

#[tokio::test]
async fn tokens_are_checked_with_keys_of_the_manifest() {
    let issuer = Issuer::new();
    let rig = Rig::start(&(shop("http", &[11]) + &authentication(&format!("jwks: '{}'", issuer.jwks)))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    is_enforced(&rig, &backend, &issuer).await;
}

#[tokio::test]
async fn tokens_are_checked_with_keys_behind_a_url_which_may_come_late() {
    let issuer = Issuer::new();
    let rig = Rig::start(&(shop("http", &[11]) + &authentication("jwksUri: 'http://$NET.40:8080/keys'"))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let good = issuer.token(&claims("shop"));
    let answer = call(&rig, "/public", Some(&good)).await;
    assert_eq!((answer.status, answer.header("x-culvert-error")), (503, "jwks"), "nobody can say whether it is good");
    let jwks = issuer.jwks.to_string();
    let keys = Backend::start(&rig, 40, move |_, _| ok(&jwks)).await;
    rig.eventually("fetched", async || call(&rig, "/", Some(&good)).await.status == 200).await;
    is_enforced(&rig, &backend, &issuer).await;
    assert_eq!((keys.hits(), keys.last().path().as_str()), (1, "/keys"), "fetched once, not for each request");
}
