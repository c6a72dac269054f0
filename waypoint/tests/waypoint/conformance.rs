//! The conformance tests of the Gateway API, restated as tables (`cases/*.yaml`) and run over real connections against
//! the real binary. Each case is written into the manifest directory of a waypoint that runs, so that every one is a
//! live change as well.
//!
//! The cases bear the names of upstream's (`sigs.k8s.io/gateway-api/conformance/tests`, read up to v1.6), each once: a
//! mesh test and a gateway test of the same name are one case here. Ours ask more: upstream's mesh tests never look at
//! `Location`, at the rewritten path or at who else got the request; ours always do. What a table does not say is
//! checked all the same: nobody but the backend named gets the request, and it arrives as it was sent.
//!
//! Without meaning for a waypoint, whose parent is a Service and whose listener is HBONE, and hence not here:
//!
//! - listeners, addresses and classes of Gateways: `Gateway*`, `GatewayClass*`, `HTTPRouteListenerPortMatching`,
//!   `HTTPRouteHTTPSListener*`, `HTTPRouteDisallowedKind`, `HTTPRouteMultipleGateways`, `HTTPRouteCrossNamespace` (as a
//!   parent in another namespace it is `MeshConsumerRoute`), `HTTPRouteInvalidCrossNamespaceParentRef`,
//!   `GRPCRouteMultipleGateways`;
//! - host names, by which services behind a waypoint are not told apart: `HTTPRouteHostnameIntersection`,
//!   `HTTPRouteListenerHostnameMatching`, `GRPCRouteListenerHostnameMatching`; the parts of
//!   `HTTPRouteMatchingAcrossRoutes` that need them;
//! - ReferenceGrants, which a mesh does not ask for (GEP-1294): `HTTPRouteReferenceGrant`,
//!   `HTTPRouteInvalidReferenceGrant`, `HTTPRoutePartiallyInvalidViaInvalidReferenceGrant`; what
//!   `HTTPRouteInvalidCrossNamespaceBackendRef` refuses is asserted to work;
//! - status that an API server keeps: `*ObservedGenerationBump`, `*PreserveForeignStatus`;
//! - kinds and fields that this waypoint does not know, and says so in a status: TLSRoute, UDPRoute, BackendTLSPolicy,
//!   ListenerSet, session persistence, external authorisation; `HTTPRouteDirectResponse` and the external ones are
//!   represented by the case of an unknown filter, which answers 500 and lets nothing through.
//!
//! `HTTPRouteBackendProtocolWebSocket` needs more than a request and an answer: `basics.rs` and `clients.rs` have it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use transport::hbone::Authority;

use super::backend::{Act, Backend, Seen};
use super::rig::{Got, Rig, TARGET, consumer, get, got, identity, pod};

/// Services by name: namespace, address, the pods behind them.
const SERVICES: [(&str, &str, &str, &str); 7] = [
    ("default", "echo", "10.96.1.10", "group: echo"),
    ("default", "echo-v1", "10.96.1.11", "app: echo-v1"),
    ("default", "echo-v2", "10.96.1.12", "app: echo-v2"),
    ("default", "echo-v3", "10.96.1.13", "app: echo-v3"),
    ("default", "nobody", "10.96.1.14", "app: nobody"),
    ("elsewhere", "far", "10.96.1.15", "app: far"),
    ("default", "marker", MARKER, "app: nobody"),
];
/// Answers with the number of the case that is in effect.
const MARKER: &str = "10.96.1.99";
/// Pods, by the last byte of their address.
const PODS: [(&str, u8); 4] = [("echo-v1", 11), ("echo-v2", 12), ("echo-v3", 13), ("far", 15)];

/// One conformance test.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    case: String,
    #[serde(default)]
    routes: Vec<Route>,
    /// By name of a route: reasons of its conditions, by type.
    #[serde(default)]
    conditions: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Route {
    #[serde(default = "http_route")]
    kind: String,
    name: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    /// `service` or `service:port`, of namespace `default`.
    parents: Vec<String>,
    #[serde(default)]
    hostnames: Vec<String>,
    rules: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Call {
    /// `service`, `service:port`, `pod/name`, or `host/service:port` for an authority by name.
    to: String,
    #[serde(default = "default_namespace")]
    from: String,
    /// `h1`, `h2` or `grpc`.
    #[serde(default = "h1")]
    speak: String,
    method: Option<String>,
    #[serde(default = "slash")]
    path: String,
    /// Else the name of the service.
    host: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// The backends fail so many attempts of each request, with this status.
    #[serde(default)]
    fail: Option<(usize, u16)>,
    /// The backends are slow to answer so many attempts of each request, by milliseconds.
    #[serde(default)]
    slow: Option<(usize, u64)>,
    #[serde(default = "once")]
    times: usize,
    #[serde(default)]
    want: Want,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Want {
    /// 200 when a backend is named.
    status: Option<u16>,
    backend: Option<String>,
    /// Answers by backend or status, least and most.
    #[serde(default)]
    counts: BTreeMap<String, (usize, usize)>,
    /// Copies by backend, least and most of all the calls.
    #[serde(default)]
    mirrored: BTreeMap<String, (usize, usize)>,
    /// At the backend, and in copies: path, host, version, headers (`""` is none).
    path: Option<String>,
    host: Option<String>,
    version: Option<String>,
    #[serde(default)]
    seen: BTreeMap<String, String>,
    /// Of the answer: headers (`""` is none).
    #[serde(default)]
    headers: BTreeMap<String, String>,
    grpc: Option<String>,
    attempts: Option<usize>,
}

fn http_route() -> String {
    "HTTPRoute".to_owned()
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn h1() -> String {
    "h1".to_owned()
}

fn slash() -> String {
    "/".to_owned()
}

fn once() -> usize {
    1
}

/// By `x-key` of a request: who got it, and as what.
type Arrivals = Arc<Mutex<HashMap<String, Vec<(&'static str, Value)>>>>;

struct Stage {
    rig: Rig,
    arrivals: Arrivals,
    keys: usize,
}

fn world() -> String {
    let mut out = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {name: wp, namespace: default, labels: {istio.io/waypoint-for: all}}\n\
         spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n\
         status: {addresses: [{type: IPAddress, value: $NET.1}]}\n"
        .to_owned();
    out += &pod("client", "client", 5, "ambient");
    for (namespace, name, vip, selector) in SERVICES {
        out += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: default}}}}\n\
             spec: {{clusterIP: {vip}, selector: {{{selector}}}, ports: [{{name: http, port: 80, targetPort: {TARGET}}}, {{name: http-alt, port: 8080, targetPort: {TARGET}}},\n\
             {{name: two, port: 8081, targetPort: {TARGET}, appProtocol: kubernetes.io/h2c}}, {{name: grpc, port: 7070, targetPort: {TARGET}}}]}}\n"
        );
    }
    out += "---\napiVersion: v1\nkind: Service\nmetadata: {name: headless, namespace: default, labels: {istio.io/use-waypoint: wp}}\n\
            spec: {clusterIP: None, selector: {app: echo-v1}, ports: [{name: http, port: 80}]}\n";
    for (name, host) in PODS {
        let (namespace, group) = if name == "far" { ("elsewhere", "far") } else { ("default", "echo") };
        out += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}, group: {group}, istio.io/dataplane-mode: none, istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: default}}}}\n\
             spec: {{serviceAccountName: {name}}}\nstatus: {{podIP: $NET.{host}}}\n"
        );
    }
    out
}

/// What a backend tells of a request: everything that a case can ask for.
fn told(name: &str, seen: &Seen) -> Value {
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in &seen.headers {
        let value = value.to_str().unwrap();
        headers.entry(name.to_string()).and_modify(|all| *all = format!("{all},{value}")).or_insert(value.to_owned());
    }
    let uri: http::Uri = seen.uri.parse().unwrap();
    let host = uri.authority().map_or(seen.header("host"), |authority| authority.as_str());
    json!({
        "backend": name, "method": seen.method.as_str(), "path": seen.path(), "host": host,
        "version": if seen.version == Version::HTTP_2 { "2" } else { "1" },
        "headers": headers, "body": String::from_utf8_lossy(&seen.body),
    })
}

fn act(name: &'static str, seen: &Seen, arrivals: &Arrivals) -> Act {
    let told = told(name, seen);
    let mut act = Act { status: 200, ..Act::default() };
    act.headers = vec![
        ("x-backend", name.to_owned()),
        ("x-told", told.to_string()),
        ("x-answer-set", "old".to_owned()),
        ("x-answer-added", "old".to_owned()),
        ("x-answer-gone", "old".to_owned()),
    ];
    let attempt = {
        let mut arrivals = arrivals.lock();
        let known = arrivals.entry(seen.header("x-key").to_owned()).or_default();
        known.push((name, told));
        known.iter().filter(|(own, _)| *own == name).count()
    };
    let asked = |header: &str| -> Option<(usize, u64)> {
        let (times, what) = seen.header(header).split_once(' ')?;
        Some((times.parse().unwrap(), what.parse().unwrap()))
    };
    if let Some((_, delay)) = asked("x-slow").filter(|(times, _)| attempt <= *times) {
        act.delay = Duration::from_millis(delay);
    }
    if let Some((_, status)) = asked("x-fail").filter(|(times, _)| attempt <= *times) {
        act.status = u16::try_from(status).unwrap();
    }
    if seen.header("content-type") == "application/grpc" {
        act.headers.push(("content-type", "application/grpc".to_owned()));
        act.trailers = vec![("grpc-status", "0".to_owned())];
    }
    act
}

impl Stage {
    async fn set() -> Self {
        let rig = Rig::start(&world()).await;
        let arrivals = Arrivals::default();
        for (name, host) in PODS {
            let known = Arc::clone(&arrivals);
            Backend::start(&rig, host, move |_, seen| act(name, seen, &known)).await;
        }
        Self { rig, arrivals, keys: 0 }
    }

    /// Writes a case's routes and waits until they are in effect.
    async fn play(&mut self, number: usize, case: &Case) {
        let mut routes: Vec<Value> = case.routes.iter().map(object).collect();
        let marker = json!({"parents": ["marker"], "name": "marker", "rules": [{"filters": [
            {"type": "RequestRedirect", "requestRedirect": {"hostname": format!("case-{number}")}}]}]});
        routes.push(object(&serde_json::from_value(marker).unwrap()));
        let text: Vec<String> = routes.iter().map(Value::to_string).collect();
        self.rig.write("case.yaml", &text.join("\n---\n"));
        let expected = format!("http://case-{number}/");
        self.rig
            .eventually(&case.case, async || {
                let answer = got(self.rig.one(MARKER).await.send_request(get("/")).await.unwrap()).await;
                answer.header("location") == expected
            })
            .await;
    }

    async fn call(&mut self, call: &Call) -> Vec<(String, Got)> {
        let source = if call.from == "consumer" { consumer() } else { identity("client") };
        let (authority, name) = self.place(&call.to);
        let stream = self.rig.connect_by(source, authority).await.unwrap();
        let io = TokioIo::new(stream);
        let mut answers = vec![];
        if call.speak == "h1" {
            let (mut sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..call.times {
                let (key, request) = self.request(call, &name);
                answers.push((key, got(sender.send_request(request).await.unwrap()).await));
            }
        } else {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..call.times {
                let (key, request) = self.request(call, &name);
                answers.push((key, got(sender.send_request(request).await.unwrap()).await));
            }
        }
        answers
    }

    fn place(&self, to: &str) -> (Authority, String) {
        if let Some(name) = to.strip_prefix("pod/") {
            let host = PODS.iter().find(|(known, _)| *known == name).unwrap().1;
            return (Authority::Address(SocketAddr::new(self.rig.net.ip(host), TARGET)), name.to_owned());
        }
        let (name, port) = to.split_once(':').unwrap_or((to, "80"));
        let port = port.parse().unwrap();
        if let Some(name) = name.strip_prefix("host/") {
            let host = format!("{name}.default.svc.cluster.local");
            return (Authority::Host(host.as_str().into(), port), name.to_owned());
        }
        let vip = SERVICES.iter().find(|(_, known, ..)| *known == name).unwrap().2;
        (Authority::Address(SocketAddr::new(vip.parse().unwrap(), port)), name.to_owned())
    }

    fn request(&mut self, call: &Call, name: &str) -> (String, Request<Full<Bytes>>) {
        self.keys += 1;
        let key = self.keys.to_string();
        let host = call.host.as_deref().unwrap_or(name);
        let grpc = call.speak == "grpc";
        let method = call.method.as_deref().unwrap_or(if grpc { "POST" } else { "GET" });
        let mut request = Request::builder().method(method).header("x-key", &key);
        request = match call.speak.as_str() {
            "h1" => request.uri(&call.path).header("host", host),
            _ => request.uri(format!("http://{host}{}", call.path)),
        };
        if grpc {
            request = request.header("content-type", "application/grpc").header("te", "trailers");
        }
        if let Some((times, status)) = call.fail {
            request = request.header("x-fail", format!("{times} {status}"));
        }
        if let Some((times, delay)) = call.slow {
            request = request.header("x-slow", format!("{times} {delay}"));
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        (key, request.body(Full::new(Bytes::from(call.body.clone()))).unwrap())
    }

    async fn check(&self, call: &Call, answers: &[(String, Got)]) -> Result<(), String> {
        let want = &call.want;
        let mut counts = BTreeMap::<String, usize>::new();
        let mut copies = BTreeMap::<String, usize>::new();
        if want.mirrored.values().any(|(least, _)| *least > 0) {
            self.rig
                .eventually("mirrored", async || self.copied(answers) >= want.mirrored.values().map(|m| m.0).sum())
                .await;
        }
        for (key, answer) in answers {
            let backend = answer.header("x-backend");
            let who = if backend.is_empty() { answer.status.to_string() } else { backend.to_owned() };
            *counts.entry(who).or_default() += 1;
            check_answer(call, answer)?;
            let arrivals = self.arrivals.lock().get(key).cloned().unwrap_or_default();
            let mut attempts = 0;
            for (who, told) in &arrivals {
                if want.mirrored.is_empty() || *who == backend {
                    attempts += 1;
                } else {
                    *copies.entry((*who).to_owned()).or_default() += 1;
                }
                check_arrival(call, told)?;
            }
            let expected = want.attempts.unwrap_or(usize::from(!backend.is_empty()));
            same("attempts", &attempts, &expected)?;
        }
        within("answers", &counts, &want.counts)?;
        if let Some(stray) = copies.keys().find(|who| !want.mirrored.contains_key(*who)) {
            return Err(format!("{stray} got what was not for it"));
        }
        within("copies", &copies, &want.mirrored)
    }

    fn copied(&self, answers: &[(String, Got)]) -> usize {
        let arrivals = self.arrivals.lock();
        answers
            .iter()
            .filter_map(|(key, answer)| {
                let others = arrivals.get(key)?.iter().filter(|(who, _)| *who != answer.header("x-backend"));
                Some(others.count())
            })
            .sum()
    }
}

fn within(
    what: &str,
    counted: &BTreeMap<String, usize>,
    bounds: &BTreeMap<String, (usize, usize)>,
) -> Result<(), String> {
    for (who, (least, most)) in bounds {
        let count = counted.get(who).copied().unwrap_or_default();
        if !(*least..=*most).contains(&count) {
            return Err(format!("{what}: {count} of {who}, not {least} to {most}: {counted:?}"));
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, expected: &T) -> Result<(), String> {
    if is == expected { Ok(()) } else { Err(format!("{what} is {is:?}, not {expected:?}")) }
}

fn check_answer(call: &Call, answer: &Got) -> Result<(), String> {
    let want = &call.want;
    if want.counts.is_empty() {
        same("status", &answer.status, &want.status.unwrap_or(200)).map_err(|error| format!("{error}: {answer:?}"))?;
        same("backend", &answer.header("x-backend"), &want.backend.as_deref().unwrap_or_default())?;
    }
    if let Some(grpc) = &want.grpc {
        let trailer = answer.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        let status = trailer.map_or(answer.header("grpc-status"), |value| value.to_str().unwrap());
        same("grpc-status", &status, &grpc.as_str())?;
    }
    for (name, value) in &want.headers {
        let all: Vec<&str> = answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        same(name, &all.join(","), value)?;
    }
    Ok(())
}

/// What arrives is what was sent, but for what the case says.
fn check_arrival(call: &Call, told: &Value) -> Result<(), String> {
    let want = &call.want;
    let method = call.method.as_deref().unwrap_or(if call.speak == "grpc" { "POST" } else { "GET" });
    same("method", &told["method"], &json!(method))?;
    same("path", &told["path"], &json!(want.path.as_ref().unwrap_or(&call.path)))?;
    same("body", &told["body"], &json!(call.body))?;
    let name = call.to.split(':').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let host = want.host.as_deref().or(call.host.as_deref()).unwrap_or(name);
    same("host", &told["host"], &json!(host))?;
    if let Some(version) = &want.version {
        same("version", &told["version"], &json!(version))?;
    }
    let header = |name: &str| told["headers"][name.to_ascii_lowercase()].as_str().unwrap_or_default().to_owned();
    for (name, value) in &want.seen {
        same(name, &header(name), value)?;
    }
    for (name, value) in call.headers.iter().filter(|(name, _)| !want.seen.contains_key(*name)) {
        same(name, &header(name), value)?;
    }
    Ok(())
}

fn object(route: &Route) -> Value {
    let parents: Vec<Value> = route
        .parents
        .iter()
        .map(|parent| {
            let (name, port) = parent.split_once(':').unwrap_or((parent, ""));
            let mut parent = json!({"group": "", "kind": "Service", "namespace": "default", "name": name});
            match port.parse::<u16>() {
                Ok(port) => parent["port"] = json!(port),
                Err(_) if !port.is_empty() => parent["sectionName"] = json!(port),
                Err(_) => {}
            }
            parent
        })
        .collect();
    let mut object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": route.kind,
        "metadata": {"name": route.name, "namespace": route.namespace},
        "spec": {"parentRefs": parents, "rules": route.rules},
    });
    if !route.hostnames.is_empty() {
        object["spec"]["hostnames"] = json!(route.hostnames);
    }
    object
}

/// Compares the conditions of a case's routes; a condition is true exactly when its reason is its own name, or it is
/// `PartiallyInvalid`.
fn check_conditions(case: &Case, statuses: &str) -> Result<(), String> {
    let statuses: Vec<Value> = serde_json::from_str(statuses).unwrap();
    for (name, conditions) in &case.conditions {
        let status = statuses.iter().find(|status| status["name"] == **name);
        let status = status.ok_or_else(|| format!("no status of {name}"))?;
        for parent in status["parents"].as_array().unwrap() {
            for (kind, reason) in conditions {
                let all = parent["conditions"].as_array().unwrap();
                let condition = all.iter().find(|condition| condition["type"] == **kind);
                let is = condition.map_or("", |condition| condition["reason"].as_str().unwrap());
                same(&format!("{name}: {kind}"), &is, &reason.as_str())
                    .map_err(|error| format!("{error}: {parent}"))?;
                let good = kind == reason || kind == "PartiallyInvalid";
                if let Some(condition) = condition {
                    same(kind, &condition["status"], &json!(if good { "True" } else { "False" }))?;
                }
            }
        }
    }
    Ok(())
}

/// Plays all cases of a file and reports every one that failed.
async fn play(file: &str, least: usize) {
    let path = format!("{}/tests/waypoint/cases/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<Case> = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() >= least, "only {} cases", cases.len());
    let mut stage = Stage::set().await;
    let mut failed = vec![];
    for (number, case) in cases.iter().enumerate() {
        stage.play(number, case).await;
        if let Err(error) = check_conditions(case, &stage.rig.admin("/config_dump/statuses").await) {
            failed.push(format!("{}: {error}", case.case));
        }
        for (index, call) in case.calls.iter().enumerate() {
            let answers = stage.call(call).await;
            if let Err(error) = stage.check(call, &answers).await {
                failed.push(format!("{}, call {} ({} {}): {error}", case.case, index + 1, call.to, call.path));
            }
        }
    }
    assert!(failed.is_empty(), "{} of the calls failed:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test]
async fn routes_apply_to_the_services_ports_and_clients_they_name() {
    play("mesh", 12).await;
}

#[tokio::test]
async fn requests_are_matched_as_the_gateway_api_says() {
    play("matching", 10).await;
}

#[tokio::test]
async fn filters_do_what_the_gateway_api_says() {
    play("filters", 18).await;
}

#[tokio::test]
async fn backends_are_chosen_tried_and_timed_as_the_gateway_api_says() {
    play("backends", 13).await;
}

#[tokio::test]
async fn grpc_routes_do_what_the_gateway_api_says() {
    play("grpc", 9).await;
}
