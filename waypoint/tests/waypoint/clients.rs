//! Clients that are not ours: curl, h2load, wrk, Python's grpcio and websockets. They speak no HBONE: a small forwarder
//! opens a stream for each of their connections, as an agent would.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::backend::{Act, Backend, ok};
use super::programs;
use super::rig::{Rig, SHOP, TARGET, policy, route, service, shop};

/// The packages of `clients.py`; pinned, and fetched from PyPI the first time.
const PACKAGES: [&str; 2] = ["grpcio==1.74.0", "websockets==15.0.1"];

/// The directory with the Python packages.
fn packages() -> PathBuf {
    static FETCHING: Mutex<()> = Mutex::new(());
    let _one = FETCHING.lock().unwrap();
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("culvert/python");
    let directory = cache.join(PACKAGES.join("+").replace("==", "-"));
    if !directory.exists() {
        let fresh = cache.join(format!("fetching-{}", std::process::id()));
        let mut pip = programs::command("python3").unwrap();
        pip.args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--only-binary=:all:", "--target"]);
        let out = pip.arg(&fresh).args(PACKAGES).output().expect("python3 is installed");
        assert!(out.status.success(), "{PACKAGES:?} cannot be installed from PyPI: {out:?}; is python3-pip there?");
        // Whole or not at all; another process may have been faster.
        let _ = std::fs::rename(&fresh, &directory);
        let _ = std::fs::remove_dir_all(&fresh);
    }
    directory
}

fn python(arguments: &[String]) -> Command {
    let mut command = programs::command("python3").unwrap();
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/waypoint/clients.py")).args(arguments);
    command.env("PYTHONPATH", packages()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A server in Python that is killed at the end.
struct Server(Child);

impl Server {
    fn start(action: &str, address: SocketAddr) -> Self {
        let arguments = [action.to_owned(), address.ip().to_string(), address.port().to_string()];
        let mut child = python(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, a minute at most.
async fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = programs::within(60, program).unwrap();
    command.args(arguments);
    finish(command).await
}

async fn finish(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The sum of `istio_requests_total` over the label sets that have all of `labels`.
async fn counted(rig: &Rig, labels: &[&str]) -> u64 {
    let metrics = rig.metrics().await;
    let lines = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let fitting = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    fitting.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_both_versions_and_uploads() {
    let rig = Rig::start(&shop("undeclared", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, seen| ok(&format!("{} {}", seen.path(), seen.body.len()))).await;
    let front = rig.front(SHOP).await;
    for version in ["--http1.1", "--http1.0", "--http2-prior-knowledge"] {
        let out = run("curl", &["-sS", "-i", version, &format!("http://{front}/a?b=1")]).await;
        let answer = text(&out.stdout);
        assert!(answer.contains(" 200") && answer.ends_with("/a?b=1 0"), "{version}: {out:?}");
        let upload = rig.dir.path().join("upload");
        std::fs::write(&upload, vec![b'x'; 5_000_000]).unwrap();
        let data = format!("@{}", upload.display());
        let mut arguments = vec!["-sS", version, "--data-binary", &data];
        if version == "--http1.1" {
            // Chunked, and only after we have agreed to read it.
            arguments.extend(["-H", "transfer-encoding: chunked", "-H", "expect: 100-continue"]);
        }
        let url = format!("http://{front}/upload");
        arguments.push(&url);
        let out = run("curl", &arguments).await;
        assert_eq!(text(&out.stdout), "/upload 5000000", "{version}: {out:?}");
    }
    // Several requests on one connection, the second of which is malformed in no way that curl would notice.
    let out = run("curl", &["-sS", &format!("http://{front}/1"), &format!("http://{front}/2")]).await;
    assert_eq!(text(&out.stdout), "/1 0/2 0");
    assert_eq!(backend.hits(), 8);
    let out = run("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{front}/a%00b")]).await;
    assert_eq!(text(&out.stdout), "400");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_of_h2load_is_counted_once_whatever_became_of_it() {
    // A third fails and is tried again, a part of that in vain; one path is nobody's; the budget must not interfere.
    let rules = "[{matches: [{path: {value: /load}}], backendRefs: [{name: shop, port: 80}]}]";
    let lenient =
        "{retry: {budget: {minPerSecond: 100000}}, circuitBreaker: {endpoint: {consecutive: 0, successRate: 0}}}";
    let rig = Rig::start(&(shop("http2", &[11, 12]) + &route(rules) + &policy(lenient))).await;
    let sometimes = |hit: usize| if hit.is_multiple_of(3) { Act { status: 503, ..ok("") } } else { ok("fine") };
    let one = Backend::start(&rig, 11, move |hit, _| sometimes(hit)).await;
    let two = Backend::start(&rig, 12, move |hit, _| sometimes(hit)).await;
    let front = rig.front(SHOP).await;
    let out = run("h2load", &["-n", "3000", "-c", "4", "-m", "8", &format!("http://{front}/load")]).await;
    let said = text(&out.stdout);
    assert!(said.contains("3000 done") && said.contains("0 errored, 0 timeout"), "{said}");
    let out = run("h2load", &["-n", "200", "-c", "2", &format!("http://{front}/nobody")]).await;
    assert!(text(&out.stdout).contains("200 4xx"), "{}", text(&out.stdout));
    // The last are counted when their connections have taken note of the end.
    rig.eventually("counted", async || counted(&rig, &["reporter=\"waypoint\""]).await == 3200).await;
    assert_eq!(counted(&rig, &["response_code=\"404\"", "response_flags=\"NR\""]).await, 200);
    let good: u64 = said.split("status codes: ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(counted(&rig, &["response_code=\"200\"", "response_flags=\"-\""]).await, good);
    assert!(one.hits() + two.hits() > 3500, "retries are not requests: {} {}", one.hits(), two.hits());
    let labels = [
        "source_workload=\"client\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/client\"",
        "destination_service=\"shop.default.svc.cluster.local\"",
        "destination_service_name=\"shop\"",
        "request_protocol=\"http\"",
        "connection_security_policy=",
    ];
    assert_eq!(counted(&rig, &labels).await, 3200);
    // Lines are written in batches, some milliseconds after they are counted.
    let lines = || rig.log().lines().filter(|line| line.contains("request complete")).count();
    rig.eventually("written", async || lines() >= 3200).await;
    assert_eq!(lines(), 3200, "one line of access log each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_changed_by_editing_a_file_while_wrk_runs() {
    let rules = |a: u32, b: u32| {
        route(&format!(
            "[{{backendRefs: [{{name: shop, port: 80, weight: {a}}}, {{name: v2, port: 80, weight: {b}}}]}}]"
        ))
    };
    let rig = Rig::start(&(shop("http", &[11]) + &service("v2", "10.96.0.20", "http", &[21]))).await;
    rig.write("r.yaml", &rules(90, 10));
    let one = Backend::start(&rig, 11, |_, _| ok("one")).await;
    let two = Backend::start(&rig, 21, |_, _| ok("two")).await;
    rig.eventually("routed", async || rig.admin("/config_dump/routes").await.contains("HTTPRoute/default/r")).await;
    let front = rig.front(SHOP).await;
    let url = format!("http://{front}/");
    let running = tokio::spawn(async move { run("wrk", &["-t1", "-c4", "-d5s", &url]).await });
    rig.eventually("flowing", async || two.hits() > 10).await;
    let mut effects = vec![];
    for turn in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (weights, other) = if turn % 2 == 0 { ((0, 100), &one) } else { ((100, 0), &two) };
        let written = Instant::now();
        rig.write("r.yaml", &rules(weights.0, weights.1));
        // In effect when the last request of the other backend was seen.
        let mut last = (other.hits(), written);
        while last.1.elapsed() < Duration::from_millis(100) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if other.hits() != last.0 {
                last = (other.hits(), Instant::now());
            }
            assert!(written.elapsed() < Duration::from_secs(3), "the change had no effect");
        }
        effects.push(last.1 - written);
    }
    let out = running.await.unwrap();
    let said = text(&out.stdout);
    assert!(out.status.success() && said.contains("Requests/sec"), "{out:?}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    effects.sort();
    eprintln!("in effect after {effects:?}");
    // Beside wrk, two backends and the waypoint in the unoptimised build on the same cores; the bench measures it
    // alone.
    assert!(effects[3] < Duration::from_millis(250), "{effects:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_from_another_house_works_in_every_form() {
    let rig = Rig::start(&shop("grpc", &[11])).await;
    let _server = Server::start("serve", SocketAddr::new(rig.net.ip(11), TARGET));
    let front = rig.front(SHOP).await;
    let out = finish(python(&["call".to_owned(), front.to_string()])).await;
    assert!(out.status.success() && text(&out.stdout).ends_with("done\n"), "{}", text(&out.stderr));
    rig.eventually("counted", async || counted(&rig, &["grpc_response_status=\"0\""]).await >= 7).await;
    assert_eq!(counted(&rig, &["grpc_response_status=\"5\""]).await, 1, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_from_another_house_is_carried() {
    let rig = Rig::start(&(shop("http", &[11]) + &policy("{deadline: {default: 300ms, request: 400ms}}"))).await;
    let _server = Server::start("echo", SocketAddr::new(rig.net.ip(11), TARGET));
    let front = rig.front(SHOP).await;
    let out = finish(python(&["chat".to_owned(), format!("ws://{front}/socket")])).await;
    assert!(out.status.success() && text(&out.stdout).ends_with("done\n"), "{}", text(&out.stderr));
    rig.eventually("logged", async || rig.log().contains("response_code=101")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_served_without_a_certificate_of_the_mesh() {
    let rig = Rig::start(&shop("http", &[11])).await;
    let backend = Backend::start(&rig, 11, |_, _| ok("fine")).await;
    let hbone = format!("{}:15008", rig.net.ip(1));
    let began = Instant::now();
    let out = run("curl", &["-sS", "-m", "5", &format!("http://{hbone}/")]).await;
    assert!(!out.status.success() && out.stdout.is_empty() && began.elapsed() < Duration::from_secs(4), "{out:?}");
    let out = run("curl", &["-sS", "-k", "-m", "5", "--http2", &format!("https://{hbone}/")]).await;
    assert!(!out.status.success() && out.stdout.is_empty(), "{out:?}");
    rig.eventually("counted", async || rig.metrics().await.contains("reason=")).await;
    assert_eq!(backend.hits(), 0);
}

impl Rig {
    /// A plain address at which connections are taken into tunnels to `vip`, as the client's agent would.
    async fn front(&self, vip: &str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind((self.net.ip(6), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let opener = Arc::new(self.opener(vip));
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                let opener = Arc::clone(&opener);
                tokio::spawn(async move {
                    let mut stream = opener.open().await;
                    let _ = tokio::io::copy_bidirectional(&mut tcp, &mut stream).await;
                });
            }
        });
        address
    }
}
