//! Requests that could be read in more than one way: a policy judges every reading, and the backend gets one.

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;

use super::backend::{Act, Backend, ok};
use super::rig::{Rig, SHOP, get, got, route, service, shop};
use super::security::{authorization, raw};

const NOT_ADMIN: &str = "action: DENY, rules: [{to: [{operation: {paths: [/admin, '/admin/*']}}, {operation: {hosts: [admin.example]}}, {operation: {methods: [DELETE]}}]}, \
     {when: [{key: 'request.headers[x-evil]', values: ['*']}]}, {when: [{key: 'request.headers[x-role]', values: [admin]}]}, \
     {when: [{key: 'request.headers[x-team]', notValues: [shop]}], to: [{operation: {paths: [/team]}}]}]";

fn request(target: &str, host: &str, lines: &[u8]) -> Vec<u8> {
    [format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n").as_bytes(), lines, b"\r\n"].concat()
}

/// What must be refused under [`NOT_ADMIN`], each a whole request.
fn steps_around() -> Vec<Vec<u8>> {
    let mut refused = by_host_and_path();
    refused.extend(by_header());
    refused.extend(by_overriding_field());
    refused
}

fn by_host_and_path() -> Vec<Vec<u8>> {
    let mut refused: Vec<Vec<u8>> = vec![];
    for host in [
        "admin.example",
        "ADMIN.Example",
        "admin.example.",
        "admin.example:80",
        "admin.example.:80",
        "%61dmin.example",
        "admin.example%2e",
    ] {
        refused.push(request("/", host, b""));
    }
    for path in [
        "/admin",
        "/%61dmin",
        "/admin;x=1",
        "/admin;x=1/users",
        "/admin;x=1/../admin",
        "/;/admin",
        "/public/..;/admin",
        "/public/..;x=1/admin",
        "/public/%2e%2e;/admin",
        "/public/..%3b/admin",
        "/public/../admin",
        "/public/..%2fadmin",
        "/public/..%5cadmin",
        "/public/%252e%252e%252fadmin",
        "/public\\..\\admin",
        "//admin",
        "/.//admin",
        "/admin%2fusers",
        "/admin%2Fusers",
        "/admin%3bx",
        "/%2561dmin",
        "/admin?x=/public",
        "/%c0%ae%c0%ae/admin",
        "/public/%c0%ae%c0%ae/admin",
        "/admin%00",
        "http://shop/admin",
        "http://shop/x/../admin",
    ] {
        refused.push(request(path, "shop", b""));
    }
    refused
}

fn by_header() -> Vec<Vec<u8>> {
    let mut refused: Vec<Vec<u8>> = vec![];
    for lines in [
        &b"x-evil: 1\r\n"[..],
        b"X-EVIL: \xff\r\n",
        b"x-evil: \xc3\xa9\r\n",
        b"x-evil:\r\nx-evil: 1\r\n",
        b"x-role: admin\r\n",
        b"x-role: guest\r\nx-role: admin\r\n",
        b"x-role: admin\r\nx-role: guest\r\n",
        b"x-role: guest, admin\r\n",
        b"x-role: guest,admin,\r\n",
        b"x-role:\t admin \r\n",
        b"x-role: ad\xffmin\r\n",
        b"x-role: guest\r\nx-role: \xff\r\n",
    ] {
        refused.push(request("/", "shop", lines));
    }
    for lines in [
        &b"x-team: bank\r\n"[..],
        b"x-team: shop\r\nx-team: bank\r\n",
        b"x-team: shop,bank\r\n",
        b"x-team: sh\xffop\r\n",
    ] {
        refused.push(request("/team", "shop", lines));
    }
    refused
}

/// Fields by which an application takes another path, method or host, and fields that `Connection` names.
fn by_overriding_field() -> Vec<Vec<u8>> {
    let mut refused: Vec<Vec<u8>> = vec![];
    for lines in [
        &b"connection: x-role\r\nx-role: admin\r\n"[..],
        b"connection: close, X-Evil\r\nx-evil: 1\r\n",
        b"connection: x-role\r\nx-role: guest\r\n",
        b"connection: x-original-url\r\nx-original-url: /\r\n",
        b"x-original-url: /admin\r\n",
        b"x-original-url: /public\r\nx-original-url: /admin\r\n",
        b"x-original-url: /public, /admin\r\n",
        b"X-Original-URL: http://shop/admin?x\r\n",
        b"x-original-url: /%61dmin\r\n",
        b"x-original-url: /public/..;/admin\r\n",
        b"x-original-url: ad\xffmin\r\n",
        b"x-rewrite-url: admin\r\n",
        b"x-original-uri: /x/../admin/users\r\n",
        b"x-forwarded-path: /admin;x\r\n",
        b"x-forwarded-uri: //admin\r\n",
        b"x-forwarded-prefix: /admin\r\n",
        b"x-forwarded-prefix: /, /admin/\r\n",
        b"x-script-name: /admin\r\n",
        b"x-http-method-override: DELETE\r\n",
        b"x-http-method-override: GET\r\nx-http-method-override: DELETE\r\n",
        b"x-http-method: delete\r\n",
        b"x-method-override: GET,DELETE\r\n",
        b"x-method: \xff\r\n",
        b"x-forwarded-host: admin.example\r\n",
        b"x-forwarded-host: shop, ADMIN.example.\r\n",
        b"forwarded: for=1.1.1.1;host=\"admin.example:80\"\r\n",
    ] {
        refused.push(request("/", "shop", lines));
    }
    for target in ["/?_method=DELETE", "/?a=1&%5fmethod=delete", "/?_method=GET&_method=DELETE"] {
        refused.push(request(target, "shop", b""));
    }
    refused
}

#[tokio::test]
async fn a_denial_cannot_be_stepped_around() {
    let rig = Rig::start(&(shop("http", &[11]) + &authorization("deny", NOT_ADMIN))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let refused = steps_around();
    for bytes in &refused {
        let (answer, what) = (raw(&rig, bytes).await, String::from_utf8_lossy(bytes));
        assert!(answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400"), "{what}: {answer}");
    }
    for host in ["admin.example", "ADMIN.example", "admin.example.", "admin.example:80"] {
        let mut sender = rig.two(SHOP).await;
        let request = Request::get(format!("http://{host}/")).body(Full::<Bytes>::default()).unwrap();
        assert_eq!(got(sender.send_request(request).await.unwrap()).await.status, 403, "{host} over HTTP/2");
    }
    assert_eq!(backend.hits(), 0, "{:?}", backend.seen.lock().last());
    for (target, host, lines) in [
        ("/administrator", "shop", &b""[..]),
        ("/public/admin", "admin.example.org", b""),
        ("/public;x=1/a%20b", "shop", b"x-role: guest, reader\r\n"),
        ("/team", "shop", b"x-team: shop\r\n"),
        ("/", "shop", b"connection: x-private\r\nx-private: 1\r\n"),
        ("/?method=DELETE", "shop", b"x-original-url: /public\r\nx-http-method-override: POST\r\n"),
        ("/", "shop", b"x-original-url:\r\nx_original_url: /admin\r\nx-forwarded-host: shop.example\r\n"),
    ] {
        let answer = raw(&rig, &request(target, host, lines)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{target}: {answer}");
    }
}

#[tokio::test]
async fn an_allowance_is_not_stretched() {
    let allow = "rules: [{to: [{operation: {paths: ['/public/*', '/caf\u{e9}', '/a%20b'], hosts: [shop]}}], when: [{key: 'request.headers[x-role]', values: [reader]}, \
         {key: 'request.headers[x-mark]', notValues: [barred]}]}]";
    let rig = Rig::start(&(shop("http", &[11]) + &authorization("allow", allow))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let reader = b"x-role: reader\r\n";
    for (target, host, lines) in [
        ("/public/a", "shop", &reader[..]),
        ("/public/a", "SHOP:80", reader),
        ("/caf%c3%a9", "shop", reader),
        ("/a%20b", "shop", reader),
        ("/public/a;v=1/b%2Fc", "shop", reader),
        ("/public/a", "shop", b"x-role: reader\r\nx-mark: none\r\n"),
    ] {
        let answer = raw(&rig, &request(target, host, lines)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{target} {host}: {answer}");
    }
    let allowed = backend.hits();
    for (target, host, lines) in [
        ("/public/..;/private", "shop", &reader[..]),
        ("/public/%252e%252e/private", "shop", reader),
        ("/public/..%2fprivate", "shop", reader),
        ("/public;/../private", "shop", reader),
        ("/public/a", "shop.", reader),
        ("/public/a", "shop", b"x-role: reader\r\nx-role: admin\r\n"),
        ("/public/a", "shop", b"x-role: \xff\r\n"),
        ("/public/a", "shop", b"x-role: reader\r\nx-mark: bar\xffred\r\n"),
        ("/public/a", "shop", b"x-role: reader\r\nx-mark: none\r\nx-mark: barred\r\n"),
        ("/public/a", "shop", b"x-role: reader\r\nx-mark: none, barred\r\n"),
        ("/public/a", "shop", b"x_role: reader\r\n"),
        ("/public/a", "shop", b"x-role: reader\r\nx-original-url: /private\r\n"),
        ("/public/a", "shop", b"x-role: reader\r\nx-forwarded-prefix: /private\r\n"),
        ("/public/a", "shop", b"x-role: reader\r\nx-forwarded-host: other\r\n"),
    ] {
        let (answer, what) = (raw(&rig, &request(target, host, lines)).await, String::from_utf8_lossy(lines));
        assert!(answer.starts_with("HTTP/1.1 403"), "{target} {host} {what}: {answer}");
    }
    assert_eq!(backend.hits(), allowed);
}

#[tokio::test]
async fn a_path_with_another_place_in_it_goes_nowhere_and_others_arrive_as_they_are_judged() {
    let rules = "[{matches: [{path: {value: /public}}], backendRefs: [{name: shop, port: 80}]}]";
    let rig = Rig::start(&(shop("http", &[11]) + &route(rules))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    for path in [
        "/public/..;/admin",
        "/public/..;a=b/admin",
        "/public/..%2fadmin",
        "/public/%252e%252e/admin",
        "/public/..%5cadmin",
        "/public/..;",
        "/public/%c0%ae/x",
    ] {
        let answer = rig.get(path).await;
        assert_eq!((answer.status, answer.header("x-culvert-error")), (400, "bad_request"), "{path}");
    }
    assert_eq!(backend.hits(), 0);
    for (path, sent) in [
        ("/public/a;v=1/b", "/public/a;v=1/b"),
        ("/public/a%2fb?x=..;/", "/public/a%2Fb?x=..;/"),
        ("/public/./%61;x", "/public/a;x"),
        ("/public/...;/a", "/public/...;/a"),
    ] {
        assert_eq!(rig.get(path).await.status, 200, "{path}");
        assert_eq!(backend.last().path(), sent);
    }
}

#[tokio::test]
async fn a_second_form_of_a_header_that_is_judged_does_not_arrive() {
    let rig = Rig::start(&(shop("http", &[11]) + &authorization("deny", NOT_ADMIN))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let request =
        Request::get("/").header("host", "shop").header("x_evil", "1").header("x.role", "admin").header("x_other", "1");
    assert_eq!(rig.call(request.body(Full::default()).unwrap()).await.status, 200);
    let seen = backend.last();
    assert_eq!((seen.header("x_evil"), seen.header("x.role"), seen.header("x_other")), ("", "", "1"));
}

#[tokio::test]
async fn what_only_policies_concern_passes_where_there_are_none() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let lines =
        b"x-original-url: /admin\r\nx-http-method-override: DELETE\r\nx_original_url: /x\r\nx-role: a\r\nx-role: b\r\n";
    let answer = raw(&rig, &request("/?_method=DELETE", "shop", lines)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = backend.last();
    assert_eq!((seen.header("x-original-url"), seen.header("x-http-method-override")), ("/admin", "DELETE"));
    assert_eq!((seen.header("x_original_url"), seen.headers.get_all("x-role").iter().count()), ("/x", 2));
}

#[tokio::test]
async fn a_header_that_a_route_matches_is_one_for_route_policy_and_backend() {
    let rules = "[{matches: [{headers: [{name: x-version, value: 'one,two'}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-by, value: both}]}}], \
                  backendRefs: [{name: shop, port: 80}]}, {matches: [{headers: [{name: x-version, value: one}]}], filters: [{type: RequestHeaderModifier, \
                  requestHeaderModifier: {set: [{name: x-by, value: first}]}}], backendRefs: [{name: shop, port: 80}]}, {backendRefs: [{name: shop, port: 80}]}]";
    let deny =
        authorization("deny", "action: DENY, rules: [{when: [{key: 'request.headers[x-version]', values: [three]}]}]");
    let rig = Rig::start(&(shop("http", &[11]) + &route(rules) + &deny)).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    for (lines, by, version) in [
        (&b"x-version: one\r\nx-version: two\r\n"[..], "both", "one,two"),
        (b"x-version: one\r\n", "first", "one"),
        (b"x-version: two\r\nx-version: one\r\n", "", "two,one"),
        (b"x-version: one\r\nx-version: \r\n", "", "one,"),
    ] {
        let (answer, what) = (raw(&rig, &request("/", "shop", lines)).await, String::from_utf8_lossy(lines));
        assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        let seen = backend.last();
        assert_eq!((seen.header("x-by"), seen.header("x-version")), (by, version), "{what}");
        assert_eq!(seen.headers.get_all("x-version").iter().count(), 1, "{what}");
    }
    let hits = backend.hits();
    for (lines, status) in [
        (&b"x-version: one\r\nx-version: three\r\n"[..], "403"),
        (b"x-version: three\r\nx-version: one\r\n", "403"),
        (b"connection: x-version\r\nx-version: three\r\n", "400"),
        (b"connection: X-Version\r\nx-version: one\r\n", "400"),
    ] {
        let (answer, what) = (raw(&rig, &request("/", "shop", lines)).await, String::from_utf8_lossy(lines));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer}");
    }
    assert_eq!(backend.hits(), hits);
}

#[tokio::test]
async fn who_calls_is_settled_after_every_filter_and_on_every_copy() {
    let lie = "URI=spiffe://cluster.local/ns/default/sa/admin";
    let forge = format!(
        "{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-forwarded-client-cert, value: '{lie}'}}, {{name: x-mesh-source, value: evil}}, \
         {{name: x_forwarded_client_cert, value: '{lie}'}}, {{name: x-envoy-retry-on, value: 5xx}}], add: [{{name: x-forwarded-for, value: 6.6.6.6}}], remove: [x-forwarded-proto]}}}}"
    );
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}";
    let rules =
        format!("[{{filters: [{forge}, {mirror}], backendRefs: [{{name: shop, port: 80, filters: [{forge}]}}]}}]");
    let rig = Rig::start(&(shop("http", &[11]) + &service("copy", "10.96.0.30", "http", &[31]) + &route(&rules))).await;
    let backend =
        Backend::start(&rig, 11, |hit, _| if hit == 0 { Act { status: 503, ..ok("") } } else { ok("fine") }).await;
    let copy = Backend::start(&rig, 31, |_, _| ok("fine")).await;
    let request = Request::get("/")
        .header("host", "shop")
        .header("x-forwarded-client-cert", lie)
        .header("X_Forwarded_Client_Cert", lie)
        .header("x-forwarded-for", "1.2.3.4")
        .header("forwarded", "for=1.2.3.4")
        .header("x-envoy-original-dst-host", "10.0.0.1:1")
        .header("connection", "x-forwarded-client-cert, x-forwarded-for");
    assert_eq!(rig.call(request.body(Full::default()).unwrap()).await.status, 200);
    rig.eventually("copied", async || copy.hits() == 1).await;
    let client = rig.net.ip(5).to_string();
    let all: Vec<_> = backend.seen.lock().iter().chain(copy.seen.lock().iter()).cloned().collect();
    assert_eq!(all.len(), 3, "a first attempt, a retry, a copy");
    for seen in all {
        let certificates: Vec<&HeaderValue> = seen.headers.get_all("x-forwarded-client-cert").iter().collect();
        assert_eq!(
            certificates,
            ["By=spiffe://cluster.local/ns/default/sa/wp;URI=spiffe://cluster.local/ns/default/sa/client"]
        );
        for name in ["x_forwarded_client_cert", "x-mesh-source", "x-envoy-retry-on", "x-envoy-original-dst-host"] {
            assert_eq!(seen.header(name), "", "{name}");
        }
        assert!(seen.header("x-forwarded-for").ends_with(&format!(", {client}")), "{:?}", seen.headers);
        assert_eq!(seen.headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(seen.header("forwarded"), format!("for=1.2.3.4, for={client};proto=http"));
        assert_eq!(seen.header("x-forwarded-proto"), "http");
    }
}

#[tokio::test]
async fn answers_carry_nothing_of_the_mesh_s_own() {
    let own = [
        "x-mesh-source",
        "x-culvert-error",
        "x-forwarded-client-cert",
        "x-envoy-immediate-health-check-fail",
        "l5d-server-id",
    ];
    let rig = Rig::start(&shop("http", &[11])).await;
    let headers = move || own.iter().map(|name| (*name, "x".to_owned())).chain([("x-app", "1".to_owned())]).collect();
    Backend::start(&rig, 11, move |_, _| Act { headers: headers(), ..ok("fine") }).await;
    let answer = rig.get("/").await;
    for name in own {
        assert_eq!(answer.header(name), "", "{name}");
    }
    assert_eq!((answer.status, answer.header("x-app")), (200, "1"));
}

#[tokio::test]
async fn nothing_that_a_caller_sends_reaches_the_log_raw() {
    let rig = Rig::start(&shop("http", &[11])).await;
    Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let hidden = "\u{9b}2J\u{85}\u{2028}\u{202e}\u{200b}";
    let answer = raw(&rig, &request(&format!("/marked?q={hidden}"), "shop", b"")).await;
    assert!(answer.starts_with("HTTP/1.1"), "{answer}");
    assert_eq!(rig.call(get("/after")).await.status, 200);
    rig.eventually("logged", async || rig.log().contains("path=\"/after\"")).await;
    let log = rig.log();
    assert!(!log.contains(|c| process::telemetry::escape::is_hidden(c) && c != '\n' && c != '\t'), "{log:?}");
    assert!(!answer.starts_with("HTTP/1.1 200") || log.contains(r"/marked?q=\u009b2J\u0085\u2028"), "{log}");
}
