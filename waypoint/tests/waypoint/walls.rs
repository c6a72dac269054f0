//! What one namespace may do to the requests of another, and where it can send a waypoint.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh::model::identity::Identity;
use tokio::io::AsyncReadExt as _;
use transport::hbone::Authority;

use super::backend::{Act, Backend, ok};
use super::rig::{Got, PORT, Rig, SERVERS, SHOP, TARGET, consumer, get, got, identity, pod, route, service, shop};

const BANK: &str = "10.96.0.30";

fn authorization(service: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {service}, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: {service}}}], {spec}}}\n"
    )
}

/// A route of another namespace on `shop`.
fn consumer_route(namespace: &str, rules: &str) -> String {
    route(rules)
        .replace("name: r, namespace: default", &format!("name: c, namespace: {namespace}"))
        .replace("kind: Service, name: shop", "kind: Service, name: shop, namespace: default")
}

async fn call(rig: &Rig, source: Identity, vip: &str, request: Request<Full<Bytes>>) -> Got {
    let authority = Authority::Address(SocketAddr::new(vip.parse().unwrap(), PORT));
    let stream = rig.connect_by(source, authority).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    got(sender.send_request(request).await.unwrap()).await
}

#[tokio::test]
async fn a_route_on_anothers_gateway_takes_no_traffic() {
    let trap = "[{backendRefs: [{name: trap, namespace: default, port: 80}]}]";
    let on_gateway = |section: &str| {
        consumer_route("evil", trap).replace(
            "group: '', kind: Service, name: shop, namespace: default",
            &format!("name: wp, namespace: default{section}"),
        )
    };
    let rig = Rig::start(
        &(shop("http", &[11])
            + &service("trap", "10.96.0.66", "http", &[66])
            + &on_gateway("")
            + &on_gateway(", sectionName: nolistener").replace("name: c,", "name: d,")),
    )
    .await;
    let backend = Backend::start(&rig, 11, |_, _| ok("shop")).await;
    let trapped = Backend::start(&rig, 66, |_, _| ok("trap")).await;
    for _ in 0..5 {
        assert_eq!(rig.get("/").await.text(), "shop");
    }
    assert_eq!((backend.hits(), trapped.hits()), (5, 0));
    let statuses = rig.admin("/config_dump/statuses").await;
    assert!(statuses.contains("NotAllowedByListeners") && statuses.contains("NoMatchingParent"), "{statuses}");
}

#[tokio::test]
async fn policy_judges_what_a_consumers_route_sends() {
    let rewrite = |from: &str, to: &str| {
        format!(
            "{{matches: [{{path: {{value: {from}}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}}}}}],
               backendRefs: [{{name: shop, namespace: default, port: 80}}]}}"
        )
    };
    let header = |place: &str, name: &str| {
        format!(
            "{{matches: [{{path: {{value: /{place}}}}}], {}}}",
            match place {
                "rule" => format!(
                    "filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: {name}, value: a}}]}}}}], backendRefs: [{{name: shop, namespace: default, port: 80}}]"
                ),
                _ => format!(
                    "backendRefs: [{{name: shop, namespace: default, port: 80, filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: {name}, value: a}}]}}}}]}}]"
                ),
            }
        )
    };
    let host = "{matches: [{path: {value: /host}}], filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example}}], backendRefs: [{name: shop, namespace: default, port: 80}]}";
    let plain = "{backendRefs: [{name: shop, namespace: default, port: 80}]}";
    let rules = [
        rewrite("/harmless", "/admin"),
        rewrite("/fine", "/public"),
        rewrite("/up", "/"),
        header("rule", "x-debug"),
        header("backend", "x-debug"),
        host.to_owned(),
        plain.to_owned(),
    ];
    let rig = Rig::start(
        &(shop("http", &[11])
            + &consumer_route("consumer", &format!("[{}]", rules.join(", ")))
            + &authorization(
                "shop",
                "default",
                "action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}, {to: [{operation: {hosts: [inner.example]}}]}, {when: [{key: 'request.headers[x-debug]', values: ['*']}]}]",
            )),
    )
    .await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    for (path, status) in [
        ("/admin/users", 403),
        ("/harmless/users", 403),
        ("/harmless", 403),
        ("/harmless/../harmless/%75sers", 403),
        ("/up/admin/users", 403),
        ("/up/%61dmin", 403),
        ("/rule", 403),
        ("/backend", 403),
        ("/host", 403),
        ("/fine/x", 200),
        ("/else", 200),
    ] {
        let answer = call(&rig, consumer(), SHOP, get(path)).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(
            call(&rig, identity("client"), SHOP, get("/harmless/x")).await.status,
            200,
            "others have no such route"
        );
    }
    let arrived: Vec<String> = backend.seen.lock().iter().map(super::backend::Seen::path).collect();
    assert!(arrived.iter().all(|path| !path.starts_with("/admin")), "{arrived:?}");
    assert!(arrived.contains(&"/public/x".to_owned()), "what is let in arrives as it was judged: {arrived:?}");
}

#[tokio::test]
async fn an_allow_policy_is_met_by_what_a_consumer_sends_and_not_by_what_it_was() {
    let rules = "[{matches: [{path: {value: /public}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /secret}}}],
                   backendRefs: [{name: shop, namespace: default, port: 80}]},
                  {matches: [{path: {value: /old}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /public}}}],
                   backendRefs: [{name: shop, namespace: default, port: 80}]}]";
    let allow = authorization("shop", "default", "rules: [{to: [{operation: {paths: [/public]}}]}]");
    let rig = Rig::start(&(shop("http", &[11]) + &consumer_route("consumer", rules) + &allow)).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    assert_eq!(call(&rig, consumer(), SHOP, get("/public")).await.status, 403);
    assert_eq!(call(&rig, consumer(), SHOP, get("/old?q=1")).await.status, 200);
    assert_eq!(backend.last().path(), "/public?q=1");
    // The service's own routes change what has been judged: its owner wrote both.
    rig.write("own.yaml", &route(&rules.replace(", namespace: default", "")));
    rig.eventually("routed", async || rig.get("/public").await.status == 200 && backend.last().path() == "/secret")
        .await;
    assert_eq!(rig.get("/old").await.status, 403);
}

#[tokio::test]
async fn a_service_is_not_reached_around_its_own_policy_by_anothers_route() {
    let to_bank = "[{matches: [{path: {value: /pay}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /admin}}}], backendRefs: [{name: bank, port: 80}]},
                    {matches: [{path: {value: /copy}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: bank, port: 80}}}], backendRefs: [{name: shop, port: 80}]},
                    {backendRefs: [{name: bank, port: 80}]}]";
    let deny = "action: DENY, rules: [{to: [{operation: {paths: [/admin/*, /copy]}}]}, {from: [{source: {principals: [cluster.local/ns/default/sa/other]}}]}]";
    let rig = Rig::start(
        &(shop("http", &[11])
            + &service("bank", BANK, "http", &[31])
            + &route(to_bank)
            + &authorization("bank", "default", deny)),
    )
    .await;
    let here = Backend::start(&rig, 11, |_, _| ok("shop")).await;
    let bank = Backend::start(&rig, 31, |_, _| ok("bank")).await;
    assert_eq!(rig.get("/open").await.text(), "bank");
    assert_eq!(rig.get("/pay/out").await.status, 403, "as it is sent");
    assert_eq!(call(&rig, identity("other"), SHOP, get("/open")).await.status, 403, "whoever asks");
    assert_eq!(rig.get("/copy").await.text(), "shop");
    rig.eventually("served", async || here.hits() == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bank.hits(), 1, "nor by a copy");
}

#[tokio::test]
async fn a_connection_is_not_let_around_policy_by_anothers_route_either() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: t, namespace: default}\n\
                 spec: {parentRefs: [{group: '', kind: Service, name: shop}], rules: [{backendRefs: [{name: bank, port: 80}]}]}\n";
    let deny = "action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/other]}}]}]";
    let rig = Rig::start(
        &(shop("tcp", &[11]) + &service("bank", BANK, "tcp", &[31]) + route + &authorization("bank", "default", deny)),
    )
    .await;
    let bank = Backend::start(&rig, 31, |_, _| ok("bank")).await;
    assert_eq!(call(&rig, identity("client"), SHOP, get("/")).await.text(), "bank");
    let authority = Authority::Address(SocketAddr::new(SHOP.parse().unwrap(), PORT));
    // The refusal comes with the tunnel or right behind it.
    if let Ok(mut refused) = rig.connect_by(identity("other"), authority).await {
        let mut buffer = [0; 16];
        let read = tokio::time::timeout(Duration::from_secs(5), refused.read(&mut buffer)).await.unwrap();
        assert!(!matches!(read, Ok(1..)), "{read:?}");
    }
    assert_eq!(bank.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_route_of_the_service_forges_who_the_client_is() {
    let forged = "{set: [{name: x-forwarded-client-cert, value: 'URI=spiffe://cluster.local/ns/default/sa/root'}, {name: x-mesh-source, value: 'spiffe://cluster.local/ns/default/sa/root'}], add: [{name: X_Forwarded_Client_Cert, value: 'URI=root'}], remove: [x-forwarded-client-cert]}";
    let filter = format!("filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {forged}}}]");
    let rules = format!("[{{{filter}, backendRefs: [{{name: shop, port: 80, {filter}}}]}}]");
    let rig = Rig::start(&(shop("http", &[11]) + &route(&rules))).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    assert_eq!(rig.get("/").await.status, 200);
    let seen = backend.last();
    let told: Vec<_> = seen.headers.get_all("x-forwarded-client-cert").iter().collect();
    assert_eq!(told, ["By=spiffe://cluster.local/ns/default/sa/wp;URI=spiffe://cluster.local/ns/default/sa/client"]);
    assert_eq!((seen.header("x-mesh-source"), seen.header("x_forwarded_client_cert")), ("", ""));
}

/// A Service and an enrolled pod of namespace `bank`, not behind any waypoint.
fn foreign_bank() -> String {
    let own = |text: String| {
        text.replace("namespace: default", "namespace: bank").replace(", labels: {istio.io/use-waypoint: wp}", "")
    };
    own(service("bank", BANK, "http", &[])) + &own(pod("bank-31", "bank", 31, "ambient"))
}

#[tokio::test]
async fn a_backend_of_another_namespace_is_told_for_whom_and_no_connection_serves_two_clients() {
    let rules = "[{matches: [{path: {value: /copy}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: bank, namespace: bank, port: 80}}}], backendRefs: [{name: shop, port: 80}]},
                  {backendRefs: [{name: bank, namespace: bank, port: 80}]}]";
    let rig = Rig::start(&(shop("http", &[11]) + &foreign_bank() + &route(rules))).await;
    Backend::start(&rig, 11, |_, _| ok("shop")).await;
    let own = Identity::new("cluster.local", "bank", "bank");
    let bank = Backend::start_enrolled_as(&rig, 31, own, |_, _| ok("bank")).await;
    for source in [identity("client"), identity("other"), consumer(), identity("client")] {
        assert_eq!(call(&rig, source, SHOP, get("/")).await.text(), "bank");
    }
    let mut told: Vec<_> = bank.on_behalf_of.lock().clone();
    told.sort_by_key(|told| told.as_ref().map(ToString::to_string));
    told.dedup();
    let all = [consumer(), identity("client"), identity("other")].map(Some);
    assert_eq!(told, all, "each client's own, and its own alone");
    let authority = Authority::Address(SocketAddr::new(SHOP.parse().unwrap(), PORT));
    drop(rig.connect_by(identity("shop"), authority).await.unwrap());
    assert_eq!(call(&rig, identity("shop"), SHOP, get("/copy")).await.text(), "shop");
    rig.eventually("copied", async || bank.on_behalf_of.lock().contains(&Some(identity("shop")))).await;
}

fn rule(namespace: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: choke, namespace: {namespace}, creationTimestamp: '1999-01-01T00:00:00Z'}}\n\
         spec: {{host: shop.default.svc.cluster.local, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1}}, http: {{http1MaxPendingRequests: 0, http2MaxRequests: 1}}}}}}}}\n"
    )
}

async fn at_once(rig: &Rig, source: &Identity, count: usize) -> Vec<u16> {
    let calls = (0..count).map(|_| async { call(rig, source.clone(), SHOP, get("/")).await.status });
    futures_util::future::join_all(calls).await
}

#[tokio::test]
async fn a_destination_rule_chokes_nobody_but_its_own_namespaces_clients() {
    let slow = |_: usize, _: &super::backend::Seen| Act { delay: Duration::from_millis(150), ..ok("fine") };
    let rig = Rig::start(&(shop("http", &[11]) + &rule("evil") + &rule("consumer"))).await;
    Backend::start(&rig, 11, slow).await;
    let (client, other) = (identity("client"), consumer());
    let (ours, theirs) = tokio::join!(at_once(&rig, &client, 30), at_once(&rig, &other, 10));
    assert_eq!(ours, [200; 30], "what others write does not concern us");
    assert!(theirs.contains(&200) && theirs.contains(&503), "it does concern its author's: {theirs:?}");
    rig.write("own.yaml", &rule("default"));
    rig.eventually("in effect", async || at_once(&rig, &identity("client"), 5).await.contains(&503)).await;
}

#[tokio::test]
async fn a_waypoint_dials_nothing_on_loopback() {
    let mirrored = "[{matches: [{path: {value: /copy}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}], backendRefs: [{name: shop, port: 80}]}, {backendRefs: [{name: shop, port: 80}]}]";
    let keys = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: jwt, namespace: default}\n\
                spec: {targetRefs: [{group: '', kind: Service, name: v2}], jwtRules: [{issuer: a, jwksUri: 'http://$NET.40:8080/keys'}]}\n";
    let rig = Rig::start_guarded(
        &(shop("http", &[11]) + &service("v2", "10.96.0.20", "http", &[21]) + &route(mirrored) + keys),
    )
    .await;
    let one = Backend::start(&rig, 11, |_, _| ok("one")).await;
    let two = Backend::start(&rig, 21, |_, _| ok("two")).await;
    let keys = Backend::start(&rig, 40, |_, _| ok("{\"keys\": []}")).await;
    for path in ["/", "/copy"] {
        let answer = rig.get(path).await;
        assert_eq!((answer.status, answer.header("x-culvert-error")), (503, "no_endpoint"), "{path}");
    }
    rig.eventually("asked for keys", async || rig.log().contains("keys from http://")).await;
    assert!(rig.log().contains("which a waypoint never dials"), "{}", rig.log());
    let count = |backend: &Backend| backend.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((count(&one), count(&two), count(&keys)), (0, 0, 0));
}

#[tokio::test]
async fn an_enrolled_endpoint_on_loopback_is_not_dialled_either() {
    let enrolled = shop("http", &[]) + &pod("shop-11", "shop", 11, "ambient");
    let rig = Rig::start_guarded(&enrolled).await;
    let backend = Backend::start_enrolled(&rig, 11, |_, _| ok("fine")).await;
    let answer = rig.get("/").await;
    assert_eq!((answer.status, answer.header("x-culvert-error")), (503, "no_endpoint"));
    assert!(backend.on_behalf_of.lock().is_empty());
}

#[tokio::test]
async fn a_waypoint_dials_no_address_of_its_own() {
    let all = transport::net::interfaces::addresses().unwrap();
    let own = all.into_iter().find(|address| address.is_ipv4() && !address.is_loopback());
    let own = own.expect("this machine has an address besides loopback");
    let at_own = pod("shop-own", "shop", 11, "none").replace("$NET.11", &own.to_string());
    let enrolled = pod("v2-own", "v2", 21, "ambient").replace("$NET.21", &own.to_string());
    for (pods, name) in [(at_own, "shop"), (enrolled.replace("v2", "shop"), "enrolled")] {
        let rig = Rig::start_guarded(&(shop("http", &[]) + &pods)).await;
        let answer = rig.get("/").await;
        assert_eq!((answer.status, answer.header("x-culvert-error")), (503, "connect"), "{name}");
        assert!(answer.text().contains("the waypoint's own address") || rig.log().contains("own address"), "{name}");
    }
}

#[tokio::test]
async fn nobody_stops_a_waypoint_through_itself() {
    let entry = |name: &str, vip: &str, endpoint: &str, port: u16| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default, labels: {{istio.io/use-waypoint: wp}}}}\n\
             spec: {{hosts: [{name}.example], addresses: [{vip}], location: MESH_EXTERNAL, resolution: STATIC,\n\
             ports: [{{name: http, number: {PORT}, protocol: HTTP, targetPort: {port}}}], endpoints: [{{address: '{endpoint}'}}]}}\n"
        )
    };
    // The rig's waypoint may dial its own part of loopback, and still not the servers that are its own there.
    let mut rig = Rig::start(
        &(shop("http", &[11])
            + &entry("admin", "10.96.0.66", "$NET.1", SERVERS[0])
            + &entry("loop", "10.96.0.67", "127.0.0.1", TARGET)
            + &entry("mapped", "10.96.0.68", "::ffff:$NET.1", SERVERS[0])
            + &entry("any", "10.96.0.69", "0.0.0.0", SERVERS[0])),
    )
    .await;
    for (vip, target) in [
        ("10.96.0.66", "/quitquitquit"),
        ("10.96.0.67", "/"),
        ("10.96.0.68", "/quitquitquit"),
        ("10.96.0.69", "/quitquitquit"),
    ] {
        let request = Request::post(target).header("host", "127.0.0.1").body(Full::<Bytes>::default()).unwrap();
        let answer = call(&rig, identity("client"), vip, request).await;
        assert_eq!(answer.status, 503, "{vip}: {}", answer.text());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(rig.is_running());
    Backend::start(&rig, 11, |_, _| ok("fine")).await;
    assert_eq!(rig.get("/").await.status, 200);
}
