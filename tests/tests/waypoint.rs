//! A service behind a waypoint: traffic takes it, and nothing bypasses it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::apps::{Server, fetch};
use tests::eventually::{allow, always, eventually};
use tests::manifest::{PodSpec, authorization, guard, service, service_behind, waypoint};
use tests::mesh::{Mesh, Pod};
use tests::pki::{Authority, LeafSpec};
use tests::tunnel::{Tunnel, connect_to};
use tests::waypoint::WaypointPod;

/// Service `shop` behind waypoint `wp`: client and waypoint on east, server on west.
struct Scene {
    mesh: Arc<Mesh>,
    ca: &'static Authority,
    ns: String,
    client: Pod,
    other: Pod,
    server: Pod,
    app: Server,
    vip: SocketAddr,
    waypoint: WaypointPod,
}

fn scene(stem: &str, traffic: &str) -> Result<Scene> {
    let (mesh, ca) = Mesh::shared_with_ca()?;
    let ns = mesh.namespace(stem);
    let (vip4, vip6) = mesh.vips();
    mesh.apply(&format!("gateway-{ns}.yaml"), &waypoint(&ns, "wp", traffic))?;
    mesh.apply(&format!("guard-{ns}.yaml"), &guard(&ns, "Gateway", "wp"))?;
    let ports = [("http", 80, "8080")];
    mesh.apply(&format!("shop-{ns}.yaml"), &service_behind("wp", &ns, "shop", "shop", &[&vip4, &vip6], &ports))?;
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let other = mesh.pod(PodSpec::new(&ns, "other"))?;
    let server = mesh.pod(PodSpec::new(&ns, "shop").on(1))?;
    let app = server.serve(&["http:8080", "echo:7000"])?;
    let waypoint = WaypointPod::start(&mesh, "wp", PodSpec::new(&ns, "wp-1").account("wp"))?;
    let vip = SocketAddr::new(vip4.parse()?, 80);
    Ok(Scene { mesh, ca, ns, client, other, server, app, vip, waypoint })
}

impl Scene {
    fn works(&self, from: &Pod) -> Result<tests::peer::WebAnswer> {
        eventually(&format!("{} reaches the shop", from.spec.name), || {
            let answer = from.fetch(self.vip, &[])?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(answer)
        })
    }

    fn identity(&self, account: &str) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{account}", self.ns)
    }
}

#[test]
fn traffic_takes_the_waypoint_and_all_three_logs_agree_on_who_called() -> Result<()> {
    let s = scene("handoff", "service")?;
    let answer = s.works(&s.client)?;
    let seen = answer.json();
    let (client, wp, shop) = (s.client.identity(), s.identity("wp"), s.server.identity());
    ensure!(seen["headers"]["x-forwarded-client-cert"] == format!("By={wp};URI={client}"), "{seen}");
    let out = s.client.agent().access("the call leaves", |l| {
        l.get("direction") == "outbound" && l.get("src.identity") == client && l.get("dst.identity") == wp
    })?;
    ensure!(out.get("dst.hbone_addr") == s.vip.to_string(), "{}", out.text());
    ensure!(out.get("dst.service") == format!("shop.{}.svc.cluster.local", s.ns), "{}", out.text());
    let line = s.waypoint.waypoint.access("the request passes", |l| l.get("src.identity") == client)?;
    ensure!(line.number("response_code") == 200 && line.get("dst.workload") == "shop", "{}", line.text());
    s.waypoint.waypoint.kill()?;
    let inbound = s.server.agent().access("the call arrives", |l| {
        l.get("direction") == "inbound" && l.get("src.identity") == client && l.get("dst.identity") == shop
    })?;
    ensure!(inbound.get("src.via") == wp, "{}", inbound.text());
    ensure!(inbound.get("dst.hbone_addr") == s.server.at(8080).to_string(), "{}", inbound.text());
    Ok(())
}

#[test]
fn what_an_application_claims_about_its_client_does_not_pass() -> Result<()> {
    let s = scene("claims", "service")?;
    s.works(&s.client)?;
    let lie = "URI=spiffe://cluster.local/ns/bank/sa/root";
    let headers = [&format!("x-forwarded-client-cert: {lie}"), "--header", &format!("x-mesh-source: {lie}")];
    let answer = s.client.fetch(s.vip, &["--header", headers[0], headers[1], headers[2]])?;
    let seen = answer.json()["headers"].to_string();
    ensure!(answer.status == 200 && !seen.contains("bank") && seen.contains(&s.client.identity()), "{seen}");
    Ok(())
}

#[test]
fn nobody_gets_past_the_waypoint() -> Result<()> {
    let s = scene("bypass", "service")?;
    s.works(&s.client)?;
    let refused = |from: &Pod, port: u16| -> Result<()> {
        let answer = from.fetch(s.server.at(port), &["--timeout", "3000"])?;
        ensure!(answer.status == 0, "{} got past the waypoint: {answer:?}", from.spec.name);
        Ok(())
    };
    let bypassed = |line: &tests::observe::LogLine| line.get("error").contains("bypassed_waypoint");
    // An enrolled pod that calls the pod itself: refused with 401 by the destination.
    refused(&s.other, 8080)?;
    let line = s.server.agent().access("a tunnel past the waypoint", |l| {
        bypassed(l) && l.get("src.identity") == s.other.identity() && l.get("direction") == "inbound"
    })?;
    ensure!(line.get("error").contains(&format!("{}/wp", s.ns)), "{}", line.text());
    s.other.agent().access("the caller is told", |l| {
        l.get("src.identity") == s.other.identity() && l.get("error").contains("401")
    })?;
    // Somebody without identity: refused by the kernel.
    let plain = s.mesh.pod(PodSpec::new(&s.ns, "plain").plain())?;
    eventually("plaintext past the waypoint is refused", || refused(&plain, 8080))?;
    s.server.agent().access("plaintext past the waypoint", |l| {
        bypassed(l) && l.get("src.identity").is_empty() && l.get("src.addr").starts_with(&plain.ip4.to_string())
    })?;
    let counted = s.server.agent().metrics()?.sum("culvert_bypassed_waypoint_total", &[]);
    ensure!(counted >= 2.0, "culvert_bypassed_waypoint_total is {counted}");
    // A port of no service behind the waypoint is nobody's business but policy's; so are probes.
    s.other.call_ok(s.server.at(7000), &["echo", "100"])?;
    plain.call_ok(s.server.at(7000), &["echo", "100"])?;
    let probe = fetch(&s.server.node.kubelet(), s.server.at(8080), &[])?;
    ensure!(probe.status == 200, "the kubelet's probe: {probe:?}");
    Ok(())
}

#[test]
fn open_connections_past_the_waypoint_end_when_there_is_one() -> Result<()> {
    let (mesh, _) = Mesh::shared_with_ca()?;
    let ns = mesh.namespace("sudden");
    let (vip4, _) = mesh.vips();
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let plain = mesh.pod(PodSpec::new(&ns, "plain").plain())?;
    let server = mesh.pod(PodSpec::new(&ns, "shop").on(1))?;
    let _app = server.serve(&["echo:7000"])?;
    let (mut tunnelled, mut open) = (client.talk(server.at(7000))?, plain.talk(server.at(7000))?);
    tunnelled.echo("before")?;
    open.echo("before")?;
    let yaml = service_behind("wp", &ns, "shop", "shop", &[&vip4], &[("tcp", 7000, "7000")]);
    let more = [waypoint(&ns, "wp", "service"), guard(&ns, "Service", "shop")].join("---\n");
    mesh.apply(&format!("shop-{ns}.yaml"), &(yaml + "---\n" + &more))?;
    for talk in [&mut tunnelled, &mut open] {
        talk.ended(allow(Duration::from_secs(5))).context("an open connection past the waypoint")?;
    }
    client.call_refused(server.at(7000), &["echo", "10"])?;
    client.call_refused(SocketAddr::new(vip4.parse()?, 7000), &["echo", "10"])?;
    // Other tests use the same agent: its reports about them do not matter here.
    let missing = format!("unknown waypoint: {ns}/wp");
    client.agent().access("no waypoint yet", |l| l.get("error").contains(&missing))?;
    Ok(())
}

#[test]
fn an_annotation_opens_the_pod_to_the_rest_again() -> Result<()> {
    let s = scene("opened", "service")?;
    s.works(&s.client)?;
    let yaml = s.server.spec.yaml(&s.server.node.name, &s.server.place.netns, &s.server.ips());
    let opened = yaml.replace("annotations:\n", "annotations:\n    culvert.dev/allow-waypoint-bypass: \"true\"\n");
    s.mesh.apply(&format!("pod-{}-shop.yaml", s.ns), &opened)?;
    eventually("another pod calls the pod itself", || {
        let answer = s.other.fetch(s.server.at(8080), &["--timeout", "3000"])?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
}

#[test]
fn l4_policy_sees_the_client_behind_the_waypoint() -> Result<()> {
    let s = scene("principal", "service")?;
    s.works(&s.client)?;
    s.works(&s.other)?;
    let rules = format!("  - from:\n    - source:\n        principals: [\"cluster.local/ns/{}/sa/client\"]\n", s.ns);
    s.mesh.apply(&format!("policy-{}.yaml", s.ns), &authorization(&s.ns, "only-client", "shop", "ALLOW", &rules))?;
    eventually("the other client is refused", || {
        let answer = s.other.fetch(s.vip, &[])?;
        ensure!(answer.status == 403, "{answer:?}");
        Ok(())
    })?;
    s.works(&s.client)?;
    let line = s.server.agent().access("the refusal", |l| l.get("error").contains("none allowed"))?;
    ensure!(line.get("src.identity") == s.other.identity(), "{}", line.text());
    ensure!(line.get("src.via") == s.identity("wp"), "{}", line.text());
    Ok(())
}

#[test]
fn only_the_waypoint_may_speak_for_others() -> Result<()> {
    let s = scene("impostor", "service")?;
    s.works(&s.client)?;
    let rules = format!("  - from:\n    - source:\n        principals: [\"cluster.local/ns/{}/sa/client\"]\n", s.ns);
    s.mesh.apply_seen(
        &format!("policy-{}.yaml", s.ns),
        &authorization(&s.ns, "only-client-here", "shop", "ALLOW", &rules),
        "only-client-here",
    )?;
    // Hosts with certificates of their own speak HBONE to the server and claim to be the client.
    let says = |who: &str, port: u16| -> Result<Option<u16>> {
        let leaf = s.ca.leaf(&LeafSpec::of(&s.identity(who)))?;
        let mut tunnel = Tunnel::open(&s.client.node.place, s.server.at(15008), &leaf)?;
        let mut head = connect_to(&s.server.at(port).to_string())?;
        head.headers_mut().insert("x-mesh-source", s.client.identity().parse()?);
        Ok(tunnel.request(head, b"")?.status)
    };
    for (who, port, expected) in [
        ("impostor", 8080, 401),
        ("impostor", 7000, 401),
        ("wp", 8080, 200),
        // Port 7000 is of no service behind the waypoint: there it is a client like any other.
        ("wp", 7000, 401),
        ("client", 7000, 200),
    ] {
        let status = says(who, port)?;
        ensure!(status == Some(expected), "{who} to port {port}: {status:?}");
    }
    Ok(())
}

#[test]
fn a_waypoint_that_is_gone_closes_the_service_and_opens_it_when_it_returns() -> Result<()> {
    let s = scene("gone", "service")?;
    s.works(&s.client)?;
    s.waypoint.waypoint.kill()?;
    let before = s.app.count()?;
    always(allow(Duration::from_millis(500)), "nobody reaches the shop", || {
        let answer = s.client.fetch(s.vip, &["--timeout", "3000"])?;
        ensure!(answer.status == 0, "{answer:?}");
        Ok(())
    })?;
    let came = s.app.count()?.sent;
    ensure!(before.sent > 0 && came == 0, "{came} requests came without a waypoint");
    s.waypoint.waypoint.launch()?;
    s.works(&s.client)?;
    Ok(())
}

#[test]
fn commands_show_the_waypoint() -> Result<()> {
    let s = scene("shown", "all")?;
    s.works(&s.client)?;
    let agent = s.client.agent();
    let said = agent.culvert_ok(&["explain", &format!("{}/client", s.ns), &s.vip.to_string()])?;
    for word in [&format!("waypoint {}/wp", s.ns), &s.identity("wp"), "15008", "admitted"] {
        ensure!(said.contains(word), "no {word} in {said}");
    }
    let said = agent.culvert(&["explain", &format!("{}/client", s.ns), &s.server.at(8080).to_string()])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains(&format!("waypoint {}/wp", s.ns)), "{said}");
    // The waypoint keeps its connection to the pod: behind whom the client is stands in the list of the pod's agent.
    eventually("the pod's agent shows behind whom the client is", || {
        let said = s.server.agent().culvert_ok(&["get", "connections", "-o", "wide"])?;
        let line = said.lines().find(|l| l.contains(&s.client.identity())).context("no line of the client")?;
        ensure!(line.contains(&s.identity("wp")), "{line}");
        Ok(())
    })?;
    let said = agent.culvert_ok(&["get", "services"])?;
    let line = said.lines().find(|l| l.contains(&s.ns) && l.contains("shop")).context("no line of the shop")?;
    ensure!(line.contains(&format!("{}/wp", s.ns)), "{line}");
    Ok(())
}

#[test]
fn a_service_that_wants_no_waypoint_has_none_though_its_namespace_does() -> Result<()> {
    let s = scene("none", "service")?;
    s.works(&s.client)?;
    let ports = [("http", 80, "8080")];
    let vip = s.vip.ip().to_string();
    let shop = |waypoint: &str| match waypoint {
        "" => service(&s.ns, "shop", "shop", &[&vip], &ports),
        name => service_behind(name, &s.ns, "shop", "shop", &[&vip], &ports),
    };
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {}\n  labels:\n    istio.io/use-waypoint: wp\n",
        s.ns
    );
    let behind = |from: &Pod, at: SocketAddr| -> Result<bool> {
        let answer = from.fetch(at, &["--timeout", "3000"])?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(answer.json()["headers"]["x-forwarded-client-cert"].is_string())
    };
    s.mesh.apply(&format!("namespace-{}.yaml", s.ns), &namespace)?;
    s.mesh.apply(&format!("shop-{}.yaml", s.ns), &shop("none"))?;
    eventually("the way to the shop leads past the waypoint, for services and pods", || {
        ensure!(!behind(&s.client, s.vip)?, "the service is still behind the waypoint");
        ensure!(!behind(&s.other, s.server.at(8080))?, "the pod is behind the waypoint");
        Ok(())
    })?;
    s.waypoint.waypoint.kill()?;
    ensure!(!behind(&s.client, s.vip)?, "a waypoint that is gone has passed a request");
    s.waypoint.waypoint.launch()?;
    // Without a label of its own it has its namespace's waypoint, which cannot be bypassed.
    s.mesh.apply(&format!("shop-{}.yaml", s.ns), &shop(""))?;
    eventually("the way to the shop leads through the waypoint", || {
        ensure!(behind(&s.client, s.vip)?, "the service is not behind the waypoint");
        let past = s.other.fetch(s.server.at(8080), &["--timeout", "3000"])?;
        ensure!(past.status == 0, "{past:?}");
        Ok(())
    })
}

#[test]
fn a_waypoint_of_another_namespace_is_used_and_enforced_if_it_admits_the_service() -> Result<()> {
    let (mesh, _) = Mesh::shared_with_ca()?;
    let (ns, infra) = (mesh.namespace("tenant"), mesh.namespace("infra"));
    let (vip4, _) = mesh.vips();
    let vip = SocketAddr::new(vip4.parse()?, 80);
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let other = mesh.pod(PodSpec::new(&ns, "other"))?;
    let server = mesh.pod(PodSpec::new(&ns, "shop").on(1))?;
    let _app = server.serve(&["http:8080"])?;
    let shop = service_behind("wp", &ns, "shop", "shop", &[&vip4], &[("http", 80, "8080")]);
    let label = format!("    istio.io/use-waypoint: wp\n    istio.io/use-waypoint-namespace: {infra}\n");
    mesh.apply(&format!("shop-{ns}.yaml"), &shop.replace("    istio.io/use-waypoint: wp\n", &label))?;
    // A Gateway is for its own namespace unless it says otherwise: until then the service is closed.
    mesh.apply(&format!("gateway-{infra}.yaml"), &waypoint(&infra, "wp", "service"))?;
    mesh.apply(&format!("guard-{ns}.yaml"), &guard(&ns, "Service", "shop"))?;
    let waypoint_pod = WaypointPod::start(&mesh, "wp", PodSpec::new(&infra, "wp-1").account("wp"))?;
    let refused = |from: &Pod, at: SocketAddr| -> Result<()> {
        let answer = from.fetch(at, &["--timeout", "3000"])?;
        ensure!(answer.status == 0, "{answer:?}");
        Ok(())
    };
    eventually("a waypoint that does not admit the service closes it", || refused(&client, vip))?;
    let listener = "    protocol: HBONE\n";
    let admits = format!("{listener}    allowedRoutes: {{namespaces: {{from: All}}}}\n");
    mesh.apply(&format!("gateway-{infra}.yaml"), &waypoint(&infra, "wp", "service").replace(listener, &admits))?;
    let wp = format!("spiffe://cluster.local/ns/{infra}/sa/wp");
    eventually("the client reaches the shop through the other namespace's waypoint", || {
        let answer = client.fetch(vip, &[])?;
        ensure!(answer.status == 200, "{answer:?}; {}", waypoint_pod.waypoint.log_tail());
        let seen = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
        ensure!(seen.contains(&format!("By={wp};URI={}", client.identity())), "{seen}");
        Ok(())
    })?;
    refused(&other, server.at(8080))?;
    let line = server.agent().access("a tunnel past the waypoint", |l| {
        l.get("error").contains("bypassed_waypoint") && l.get("src.identity") == other.identity()
    })?;
    ensure!(line.get("error").contains(&format!("{infra}/wp")), "{}", line.text());
    Ok(())
}

#[test]
fn a_pod_whose_waypoint_is_not_there_is_closed_and_check_says_so() -> Result<()> {
    let (mesh, _) = Mesh::shared_with_ca()?;
    let ns = mesh.namespace("absent");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "shop").on(1).label("istio.io/use-waypoint", "wp"))?;
    let _app = server.serve(&["http:8080"])?;
    let answer = client.fetch(server.at(8080), &["--timeout", "3000"])?;
    ensure!(answer.status == 0, "{answer:?}");
    client.agent().access("no waypoint", |l| {
        l.get("error").contains(&format!("unknown waypoint: {ns}/wp")) && l.get("direction") == "outbound"
    })?;
    let said = client.agent().culvert_ok(&["get", "workloads"])?;
    let line = said.lines().find(|l| l.contains(&ns) && l.contains("shop")).context("no line of the shop")?;
    ensure!(line.contains(&format!("{ns}/wp (not ready)")), "{line}");
    let manifests = mesh.manifests.to_string_lossy().into_owned();
    let said = client.agent().culvert(&["check", "--manifests", &manifests])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains(&format!("waypoint {ns}/wp cannot be used")), "{said}");
    Ok(())
}

#[test]
fn two_waypoints_divide_the_load_and_one_carries_on_alone() -> Result<()> {
    let s = scene("pair", "service")?;
    let second = WaypointPod::start(&s.mesh, "wp", PodSpec::new(&s.ns, "wp-2").on(1).account("wp"))?;
    s.works(&s.client)?;
    // A connection each: connections, not requests, are what the agent balances.
    let options = ["--header", "connection: close"];
    let mut load = s.client.web_load(s.vip, 60, &options)?;
    let both = |counts: [f64; 2]| counts.iter().all(|count| *count > 40.0);
    let served = |waypoint: &WaypointPod| -> Result<f64> {
        let labels = [("reporter", "waypoint"), ("destination_service_namespace", s.ns.as_str())];
        Ok(waypoint.waypoint.metrics()?.sum("istio_requests_total", &labels))
    };
    eventually("both have had their share", || {
        let counts = [served(&s.waypoint)?, served(&second)?];
        ensure!(both(counts), "{counts:?}");
        Ok(())
    })?;
    let before = load.count()?;
    ensure!(before.failure_rate() == 0.0, "{before:?}");
    second.waypoint.kill()?;
    std::thread::sleep(allow(Duration::from_secs(3)));
    let after = load.count()?;
    // What was under way in the one that died cannot be saved; all that came later is.
    ensure!(after.ended() > 100 && after.ended() - after.ok() <= 5, "{after:?}");
    Ok(())
}

#[test]
fn traffic_to_the_pod_itself_takes_a_waypoint_for_workloads() -> Result<()> {
    let (mesh, _) = Mesh::shared_with_ca()?;
    let ns = mesh.namespace("workload");
    mesh.apply(&format!("gateway-{ns}.yaml"), &waypoint(&ns, "wp", "workload"))?;
    mesh.apply(&format!("guard-{ns}.yaml"), &guard(&ns, "Gateway", "wp"))?;
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let plain = mesh.pod(PodSpec::new(&ns, "plain").plain())?;
    let server = mesh.pod(PodSpec::new(&ns, "shop").on(1).label("istio.io/use-waypoint", "wp"))?;
    let _app = server.serve(&["http:8080"])?;
    let waypoint = WaypointPod::start(&mesh, "wp", PodSpec::new(&ns, "wp-1").account("wp"))?;
    eventually("the client reaches the pod", || {
        let answer = client.fetch(server.at(8080), &[])?;
        ensure!(answer.status == 200, "{answer:?}; {}", waypoint.waypoint.log_tail());
        let cert = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
        ensure!(cert.contains(&client.identity()) && cert.contains("sa/wp"), "{cert}");
        Ok(())
    })?;
    let past = plain.fetch(server.at(8080), &["--timeout", "3000"])?;
    ensure!(past.status == 0, "{past:?}");
    Ok(())
}
