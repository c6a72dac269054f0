//! RequestAuthentication: tokens with keys in the manifest and behind a URL.

use base64::Engine as _;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::backend::{Backend, ok};
use super::rig::{Got, Rig, SHOP, got, route, shop};

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

    /// A token with exactly this header.
    fn headed(&self, header: &str, claims: &Value) -> String {
        let text = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", text(header), text(&claims.to_string()));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES256).unwrap();
        format!("{signed}.{signature}")
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

/// A call with these headers, to `path`.
async fn call_with(rig: &Rig, path: &str, lines: &[(&str, &str)]) -> Got {
    let mut request = Request::get(path).header("host", "shop");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let mut sender = rig.one(SHOP).await;
    got(sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await
}

#[tokio::test]
async fn a_token_is_taken_off_wherever_it_stood() {
    let issuer = Issuer::new();
    let rules = |more: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt, namespace: default}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: shop}}], jwtRules: [{{issuer: 'https://issuer', jwks: '{}', {more}\n\
             fromHeaders: [{{name: x-token}}], fromParams: [token, access_token], fromCookies: [session]}}]}}\n",
            issuer.jwks
        )
    };
    let token = issuer.token(&claims("shop"));
    let cookie = format!("a=1; session={token}; b=2");
    for (more, kept) in [("", false), ("forwardOriginalToken: true,", true)] {
        let copying = "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}], backendRefs: [{name: shop, port: 80}]}]";
        let copied = super::rig::service("copy", "10.96.0.30", "http", &[31]);
        let rig = Rig::start(&(shop("http", &[11]) + &copied + &route(copying) + &rules(more))).await;
        let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
        let copy = Backend::start(&rig, 31, |_, _| ok("fine")).await;
        for (path, lines) in [
            (format!("/x?a=1&token={token}&b=%2F"), vec![]),
            (format!("/x?a=1&access%5Ftoken={token}&b=%2F"), vec![]),
            ("/x?a=1&b=%2F".to_owned(), vec![("cookie", cookie.as_str())]),
            ("/x?a=1&b=%2F".to_owned(), vec![("x-token", token.as_str())]),
            (format!("/x?a=1&token={token}&b=%2F"), vec![("cookie", cookie.as_str()), ("x-token", token.as_str())]),
        ] {
            assert_eq!(call_with(&rig, &path, &lines).await.status, 200, "{path}");
            let seen = backend.last();
            rig.eventually("copied", async || copy.hits() == backend.hits()).await;
            for seen in [seen, copy.last()] {
                let text = format!("{} {:?}", seen.path(), seen.headers);
                assert_eq!(text.contains(&token), kept, "{text}");
                if !kept {
                    assert_eq!(seen.path(), "/x?a=1&b=%2F");
                    let cookies = if lines.iter().any(|(name, _)| *name == "cookie") { "a=1; b=2" } else { "" };
                    assert_eq!(seen.header("cookie"), cookies);
                }
            }
        }
        if !kept {
            assert_eq!(call_with(&rig, &format!("/x?token={token}"), &[]).await.status, 200);
            assert_eq!(backend.last().path(), "/x");
        }
    }
}

/// Fills headers from tokens, and asks for nothing.
fn telling(keys: &Value) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: shop}}], jwtRules: [{{issuer: 'https://issuer', jwks: '{keys}',\n\
         outputPayloadToHeader: x-payload, outputClaimToHeaders: [{{header: x-subject, claim: sub}}, {{header: x-role, claim: role}}]}},\n\
         {{issuer: 'https://issuer/team', jwks: '{keys}', fromHeaders: [{{name: x-team-token}}], outputClaimToHeaders: [{{header: x-team, claim: sub}}]}}]}}\n"
    )
}

#[tokio::test]
async fn headers_that_tokens_fill_are_filled_by_nobody_else() {
    let issuer = Issuer::new();
    let forge = "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-role, value: root}, {name: x-marked, value: '1'}]}}], \
                  backendRefs: [{name: shop, port: 80}]}]";
    let rig = Rig::start(&(shop("http", &[11]) + &telling(&issuer.jwks) + &route(forge))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let spoofed = [
        ("x-subject", "root"),
        ("x-role", "root"),
        ("x-payload", "e30"),
        ("x-team", "root"),
        ("X_Subject", "root"),
        ("x.role", "root"),
    ];
    let own = ["x-subject", "x-role", "x-payload", "x-team", "x_subject", "x.role"];
    assert_eq!(call_with(&rig, "/", &spoofed).await.status, 200);
    let seen = backend.last();
    assert_eq!(seen.header("x-marked"), "1", "the route applies");
    assert!(own.iter().all(|name| !seen.headers.contains_key(*name)), "no token, no claim: {:?}", seen.headers);

    let bearer =
        format!("Bearer {}", issuer.token(&json!({"iss": "https://issuer", "sub": "ann", "role": ["a", "b"]})));
    let nominated = "x-subject, x-role, x-payload, x-team, authorization";
    for nomination in ["keep-alive", nominated] {
        let lines = [&spoofed[..], &[("authorization", bearer.as_str()), ("connection", nomination)]].concat();
        assert_eq!(call_with(&rig, "/", &lines).await.status, 200);
        let seen = backend.last();
        if nomination != "keep-alive" && !seen.headers.contains_key("x-subject") {
            // The nomination took the token itself: then nobody speaks.
            assert!(own.iter().all(|name| !seen.headers.contains_key(*name)), "{:?}", seen.headers);
            continue;
        }
        assert_eq!((seen.header("x-subject"), seen.header("x-role")), ("ann", "a,b"));
        assert_eq!(seen.header("x-payload"), bearer.split('.').nth(1).unwrap());
        assert!(
            ["x-team", "x_subject", "x.role", "authorization"].iter().all(|name| !seen.headers.contains_key(*name))
        );
        assert_eq!(seen.headers.get_all("x-subject").iter().count(), 1);
    }
    let lines = [("authorization", bearer.as_str()), ("connection", "x-subject, x-role, x-payload")];
    assert_eq!(call_with(&rig, "/", &lines).await.status, 200);
    assert_eq!(backend.last().header("x-subject"), "ann", "a hop's own fields are the caller's, not the mesh's");
    let hostile = issuer.token(&json!({"iss": "https://issuer", "sub": "a\r\nx-role: root", "role": "a\u{85}b"}));
    assert_eq!(
        call_with(&rig, "/", &[("authorization", &format!("Bearer {hostile}")), ("x-subject", "root")]).await.status,
        200
    );
    let seen = backend.last();
    assert!(!seen.headers.contains_key("x-subject") && !seen.headers.contains_key("x-role"), "{:?}", seen.headers);
}

#[tokio::test]
async fn a_token_has_one_reading_and_a_request_one_token() {
    let issuer = Issuer::new();
    let rig = Rig::start(&(shop("http", &[11]) + &telling(&issuer.jwks))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let ann = json!({"iss": "https://issuer", "sub": "ann"});
    let good = issuer.token(&ann);
    let bearer = format!("Bearer {good}");
    assert_eq!(call_with(&rig, "/", &[("authorization", &bearer)]).await.status, 200);
    assert_eq!(call_with(&rig, "/", &[("authorization", "Basic YTpi")]).await.status, 200);
    let hits = backend.hits();
    let headed = |header: &str| format!("Bearer {}", issuer.headed(header, &ann));
    let team = |subject: &str| issuer.token(&json!({"iss": "https://issuer", "sub": subject}));
    for (what, path, lines) in [
        ("crit", "/", vec![("authorization", headed(r#"{"alg":"ES256","crit":["exp"],"exp":1}"#))]),
        ("unknown crit", "/", vec![("authorization", headed(r#"{"alg":"ES256","crit":["urn:x"],"urn:x":1}"#))]),
        ("b64", "/", vec![("authorization", headed(r#"{"alg":"ES256","b64":false,"crit":["b64"]}"#))]),
        ("typ", "/", vec![("authorization", headed(r#"{"alg":"ES256","typ":"dpop+jwt"}"#))]),
        ("alg twice", "/", vec![("authorization", headed(r#"{"alg":"none","alg":"ES256"}"#))]),
        (
            "exp as text",
            "/",
            vec![("authorization", format!("Bearer {}", issuer.token(&json!({"iss": "https://issuer", "exp": "9"}))))],
        ),
        ("two lines", "/", vec![("authorization", bearer.clone()), ("authorization", "Bearer x".to_owned())]),
        ("header and query", "/?access_token=x.y.z", vec![("authorization", bearer.clone())]),
        ("two in the query", "/?access_token=a&access_token=b", vec![]),
        ("two headers", "/", vec![("authorization", bearer.clone()), ("x-team-token", "x.y.z".to_owned())]),
        ("a tab for a space", "/", vec![("authorization", "Bearer\tx.y.z".to_owned())]),
        ("another issuer's place", "/", vec![("x-team-token", good.clone())]),
        ("another issuer's subject", "/", vec![("authorization", format!("Bearer {}", team("team/bob")))]),
    ] {
        let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = call_with(&rig, path, &lines).await;
        assert_eq!((answer.status, answer.header("x-culvert-error")), (401, "jwt"), "{what}");
    }
    assert_eq!(backend.hits(), hits);
}

#[tokio::test]
async fn an_authentication_that_cannot_be_read_refuses_everything_at_its_target() {
    let issuer = Issuer::new();
    let sound = telling(&issuer.jwks);
    for (what, broken) in [
        ("a misspelt field", sound.replace("outputPayloadToHeader", "outputPayloadToHeaders")),
        ("a secret for a key", sound.replace("\"kty\":\"EC\"", "\"kty\":\"oct\",\"k\":\"YQ\"")),
        ("a header of the message", sound.replace("header: x-subject", "header: content-length")),
        ("a header of the mesh", sound.replace("header: x-subject", "header: x_forwarded_client_cert")),
    ] {
        let rig = Rig::start(&(shop("http", &[11]) + &broken)).await;
        let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
        let answer = call_with(&rig, "/", &[]).await;
        assert_eq!((answer.status, answer.header("x-culvert-error"), backend.hits()), (403, "rbac", 0), "{what}");
    }
}

#[tokio::test]
async fn dead_issuers_delay_no_good_one() {
    let good = Issuer::new();
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let jwks = good.jwks.to_string();
    let _keys = Backend::start(&rig, 20, move |_, _| ok(&jwks)).await;
    // They take connections and never answer.
    let mut dead = vec![];
    let mut rules = String::new();
    for host in 30..38 {
        dead.push(std::net::TcpListener::bind((rig.net.ip(host), 80)).unwrap());
        rules += &format!("jwksUri: 'http://$NET.{host}/keys'}}, {{issuer: 'https://issuer-{host}', ");
    }
    let began = std::time::Instant::now();
    let keys = "jwksUri: 'http://$NET.20:8080/keys'";
    // The good one stands among the dead.
    let text = authentication(keys)
        .replace("jwtRules: [{issuer:", &format!("jwtRules: [{{issuer: 'https://dead', {rules}{keys}}}, {{issuer:"));
    rig.write("jwt.yaml", &text);
    let token = good.token(&claims("shop"));
    rig.eventually("accepted", async || call(&rig, "/", Some(&token)).await.status == 200 && backend.hits() > 0).await;
    rig.eventually("guarded", async || call(&rig, "/", None).await.status == 403).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
}
