//! The four incidents that a mesh exists to prevent, with the real binaries and six backends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::apps::Server;
use tests::eventually::{allow, eventually};
use tests::incident::{CONTEXTS, Leak, Storm, given, kept, traces};
use tests::manifest::{PodSpec, peer_authentication, service_behind, waypoint};
use tests::mesh::{Mesh, Pod};
use tests::peer::Behaviour;
use tests::waypoint::WaypointPod;

/// Load distribution is measured: one incident at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client and a waypoint.
struct Scene {
    mesh: Arc<Mesh>,
    ns: String,
    client: Pod,
    waypoint: WaypointPod,
}

/// A service and its pods.
struct Tier {
    vip: SocketAddr,
    pods: Vec<Pod>,
    servers: Vec<Server>,
}

impl Scene {
    fn start(stem: &str) -> Result<Self> {
        let mesh = Mesh::shared()?;
        let ns = mesh.namespace(stem);
        mesh.apply(&format!("gateway-{ns}.yaml"), &waypoint(&ns, "wp", "service"))?;
        let client = mesh.pod(PodSpec::new(&ns, "client"))?;
        let waypoint = WaypointPod::start(&mesh, "wp", PodSpec::new(&ns, "wp-1").account("wp"))?;
        Ok(Self { mesh, ns, client, waypoint })
    }

    /// A service of `count` pods, which ask `next` before they answer.
    fn tier(&self, name: &str, count: usize, next: Option<&str>) -> Result<Tier> {
        let (vip4, vip6) = self.mesh.vips();
        let service = service_behind("wp", &self.ns, name, name, &[&vip4, &vip6], &[("http", 80, "8080")]);
        let service = service.replace("    app: ", "    tier: ");
        self.mesh.apply(&format!("service-{}-{name}.yaml", self.ns), &service)?;
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for n in 0..count {
            let spec = PodSpec::new(&self.ns, &format!("{name}-{n}")).on(n % 2).label("tier", name).account(name);
            let pod = self.mesh.pod_unseen(spec)?;
            pod.apply(&pod.spec)?;
            servers.push(match next {
                Some(next) => pod.serve_next(next, &["http:8080"])?,
                None => pod.serve(&["http:8080"])?,
            });
            pods.push(pod);
        }
        for pod in &pods {
            pod.settled()?;
        }
        Ok(Tier { vip: SocketAddr::new(vip4.parse()?, 80), pods, servers })
    }

    fn works(&self, vip: SocketAddr) -> Result<()> {
        eventually("the service answers", || {
            let answer = self.client.fetch(vip, &[])?;
            ensure!(answer.status == 200, "{answer:?}; {}", self.waypoint.waypoint.log_tail());
            Ok(())
        })
    }
}

#[test]
fn a_failing_leaf_makes_no_storm() -> Result<()> {
    let _alone = alone();
    let s = Scene::start("storm")?;
    let leaf = s.tier("leaf", 2, None)?;
    let middle = s.tier("middle", 2, Some(&leaf.vip.to_string()))?;
    let front = s.tier("front", 2, Some(&middle.vip.to_string()))?;
    s.works(front.vip)?;
    let tiers = [front.servers, middle.servers, leaf.servers];
    let mut load = s.client.web_load(front.vip, 60, &[])?;
    std::thread::sleep(Duration::from_secs(1));
    let storm = Storm::make(&mut load, &tiers, Duration::from_secs(5))?;
    storm.check().with_context(|| format!("{storm:?}"))?;
    ensure!(storm.users.ok() * 20 <= storm.users.ended(), "the leaf failed, and yet: {:?}", storm.users);
    eventually("all is well when the leaf is", || {
        let count = load.count()?;
        std::thread::sleep(Duration::from_millis(500));
        ensure!(count.ended() > 20 && count.failure_rate() == 0.0, "{count:?}");
        Ok(())
    })
}

fn slow_leak(stem: &str, rate: u32) -> Result<()> {
    let _alone = alone();
    let s = Scene::start(stem)?;
    let shop = s.tier("shop", 6, None)?;
    s.works(shop.vip)?;
    let mut load = s.client.web_load(shop.vip, rate, &[])?;
    std::thread::sleep(Duration::from_secs(1));
    let leak = Leak::make(&mut load, &shop.servers, Duration::from_secs(3))?;
    leak.check().with_context(|| format!("{leak:?}"))?;
    Ok(())
}

#[test]
fn a_slow_pod_of_six_loses_its_traffic_at_60_requests_a_second() -> Result<()> {
    slow_leak("leak60", 60)
}

#[test]
fn a_slow_pod_of_six_loses_its_traffic_at_600_requests_a_second() -> Result<()> {
    slow_leak("leak600", 600)
}

#[test]
fn a_slow_pod_that_recovers_gets_its_traffic_again() -> Result<()> {
    let _alone = alone();
    let s = Scene::start("mended")?;
    // How long that takes follows the decay; by default it is most of a minute.
    let policy = format!(
        "apiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata:\n  name: quick\n  namespace: {}\nspec:\n  \
         loadBalancing:\n    decay: 1s\n",
        s.ns
    );
    s.mesh.apply(&format!("mesh-policy-{}.yaml", s.ns), &policy)?;
    let shop = s.tier("shop", 6, None)?;
    s.works(shop.vip)?;
    let mut load = s.client.web_load(shop.vip, 60, &[])?;
    std::thread::sleep(Duration::from_secs(1));
    let leak = Leak::make(&mut load, &shop.servers, Duration::from_secs(2))?;
    leak.mend(&shop.servers, allow(Duration::from_secs(20)))?;
    Ok(())
}

#[test]
fn a_pod_that_fails_fast_costs_nearly_nothing() -> Result<()> {
    let _alone = alone();
    let s = Scene::start("failing")?;
    let shop = s.tier("shop", 6, None)?;
    s.works(shop.vip)?;
    let mut load = s.client.web_load(shop.vip, 100, &[])?;
    std::thread::sleep(Duration::from_secs(1));
    given(&shop.servers)?;
    load.count()?;
    shop.servers[0].behave(Behaviour { fail_per_mille: 1000, ..Behaviour::default() })?;
    std::thread::sleep(Duration::from_secs(4));
    let users = load.count()?;
    let given = given(&shop.servers)?;
    ensure!(users.ended() > 100 && users.failure_rate() <= 0.005, "{users:?}");
    ensure!(given[0] * 10 <= given.iter().sum(), "the failing pod, the first, was given too much: {given:?}");
    Ok(())
}

#[test]
fn a_plaintext_caller_is_refused_and_seen() -> Result<()> {
    let _alone = alone();
    let s = Scene::start("downgrade")?;
    let shop = s.tier("shop", 1, None)?;
    s.works(shop.vip)?;
    s.mesh.apply(&format!("strict-{}.yaml", s.ns), &peer_authentication(&s.ns, "strict", "", "STRICT", &[]))?;
    let plain = s.mesh.pod(PodSpec::new(&s.ns, "plain").plain())?;
    let server = &shop.pods[0];
    let failed = || -> Result<f64> {
        let labels = [("response_flags", "DENY"), ("destination_workload_namespace", s.ns.as_str())];
        Ok(server.agent().metrics()?.sum("istio_tcp_connections_failed_total", &labels))
    };
    let before = failed()?;
    eventually("plaintext is refused", || {
        let answer = plain.fetch(server.at(8080), &["--timeout", "3000"])?;
        ensure!(answer.status == 0, "{answer:?}");
        Ok(())
    })?;
    let line = server.agent().access("the refusal", |l| {
        l.get("src.addr").starts_with(&plain.ip4.to_string()) && l.get("error").contains("policy rejection")
    })?;
    ensure!(line.get("src.identity").is_empty() && line.get("src.workload") == "plain", "{}", line.text());
    let after = failed()?;
    ensure!(after > before, "refusals counted: {before}, then {after}");
    s.works(shop.vip)
}

#[test]
fn every_form_of_trace_context_survives_every_hop() -> Result<()> {
    let _alone = alone();
    let s = Scene::start("traces")?;
    let leaf = s.tier("leaf", 2, None)?;
    let middle = s.tier("middle", 2, Some(&format!("{},forward", leaf.vip)))?;
    let front = s.tier("front", 2, Some(&format!("{},forward", middle.vip)))?;
    s.works(front.vip)?;
    for (form, headers, trace) in CONTEXTS {
        for http2 in [false, true] {
            let mut options: Vec<&str> = headers.iter().flat_map(|header| ["--header", header]).collect();
            options.extend(http2.then_some("--http2"));
            let answer = s.client.fetch(front.vip, &options)?;
            ensure!(answer.status == 200, "{answer:?}");
            let mut seen = answer.json();
            for tier in ["front", "middle", "leaf"] {
                kept(form, &seen, trace).with_context(|| format!("{form} at {tier}, http2: {http2}"))?;
                seen = seen["next"].take();
            }
        }
    }
    let answer = s.client.fetch(front.vip, &[])?;
    let found = traces(&answer);
    ensure!(found.len() == 3 && found.iter().all(|t| *t == found[0] && t.len() == 32), "started: {found:?}");
    Ok(())
}

#[test]
fn an_application_that_forwards_nothing_still_has_a_trace_on_each_hop() -> Result<()> {
    let _alone = alone();
    let s = Scene::start("silent")?;
    let leaf = s.tier("leaf", 1, None)?;
    let front = s.tier("front", 1, Some(&leaf.vip.to_string()))?;
    s.works(front.vip)?;
    let (_, headers, trace) = CONTEXTS[0];
    let answer = s.client.fetch(front.vip, &["--header", headers[0]])?;
    let found = traces(&answer);
    ensure!(found.len() == 2 && found[0] == trace, "the hop that had a trace: {found:?}");
    ensure!(found[1].len() == 32 && found[1] != trace, "the hop behind the application: {found:?}");
    for trace in &found {
        s.waypoint.waypoint.access("the hop in the waypoint's log", |l| l.get("trace").contains(trace.as_str()))?;
    }
    Ok(())
}
