//! The steps with the waypoint: the way through it, and the four incidents that a mesh exists to prevent.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::report::Report;
use super::stage::{Market, Stage};
use crate::apps::{self, WebLoad};
use crate::eventually::eventually;
use crate::incident::{CONTEXTS, Leak, Storm, given, kept, percent, traces};
use crate::peer::{Behaviour, WebAnswer};
use crate::waypoint::Waypoint;

/// Runs the steps.
pub fn run(stage: &mut Stage, report: &mut Report) -> Result<()> {
    hand_off(stage, report)?;
    storm(stage, report)?;
    downgrade(stage, report);
    slow_pod(stage, report)?;
    trace(stage, report);
    route(stage, report);
    Ok(())
}

fn get(stage: &Stage, service: SocketAddr, options: &[&str]) -> Result<WebAnswer> {
    apps::fetch(&stage.web.place, service, options)
}

fn load(stage: &Stage, service: SocketAddr, rate: u32) -> Result<WebLoad> {
    WebLoad::start(&stage.web.place, service, rate, &[])
}

fn hand_off(stage: &mut Stage, report: &mut Report) -> Result<()> {
    report.step(
        "The waypoint",
        "A market joins the mesh: front asks cart, cart asks stock; catalog has six pods. One label on its namespace puts its
         services behind the waypoint `gate` (deploy/examples/waypoint/namespace.yaml), which a policy guards (access.yaml).",
    );
    for file in ["market-namespace.yaml", "market-access.yaml", "market-services.yaml", "market-pods.yaml"] {
        stage.apply(file)?;
    }
    stage.captured([7, 8])?;
    let closed = eventually("agents know that the waypoint is missing", || {
        let answer = get(stage, Market::CATALOG, &["--timeout", "3000"])?;
        let error = answer.error.clone().with_context(|| format!("web gets through without a waypoint: {answer:?}"))?;
        let why = |l: &crate::observe::LogLine| l.get("error").contains("unknown waypoint");
        let line = stage.agents[0].access("no waypoint yet", why)?;
        Ok(format!("web: {error}\neast: {}", line.get("error")))
    });
    report.check("waypoint-missing-closed", "Named and not there: nobody gets through", closed);
    stage.apply("market-gateway.yaml")?;
    stage.start_waypoint()?;
    let stage = &*stage;
    let answer = eventually("web reaches the catalog", || {
        let answer = get(stage, Market::CATALOG, &[])?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(answer)
    })?;
    report.check("waypoint-handoff", "A call takes the waypoint, and all ends know who called", handed(stage, &answer));
    report.check(
        "waypoint-no-bypass",
        "Nobody gets past it, not even from inside the mesh",
        (|| {
            let pod = &stage.market.pods[0];
            let answer = apps::fetch(&stage.market.stranger.place, pod.at(8080), &["--timeout", "3000"])?;
            ensure!(answer.status == 0, "stranger got past the waypoint: {answer:?}");
            let line = stage.agents[0].access("the bypass", |l| {
                l.get("direction") == "inbound" && l.get("error").contains("bypassed_waypoint")
            })?;
            Ok(format!(
                "stranger → {}: {}\neast: {}",
                pod.at(8080),
                answer.error.unwrap_or_default(),
                line.get("error")
            ))
        })(),
    );
    Ok(())
}

fn handed(stage: &Stage, answer: &WebAnswer) -> Result<String> {
    let (web, gate) = ("spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/market/sa/gate");
    let cert = answer.json()["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default().to_owned();
    ensure!(cert == format!("By={gate};URI={web}"), "x-forwarded-client-cert: {cert:?}");
    let [east, _] = &stage.agents;
    let out = east.access("web calls the waypoint", |l| {
        l.get("direction") == "outbound" && l.get("src.identity") == web && l.get("dst.identity") == gate
    })?;
    let line = waypoint(stage)?.access("the request", |l| l.get("src.identity") == web)?;
    Ok(format!(
        "east: outbound to {} for {}\nwaypoint: {} → {}, status {}\ncatalog was given x-forwarded-client-cert: {cert}",
        out.get("dst.identity"),
        out.get("dst.hbone_addr"),
        line.get("src.identity"),
        line.get("dst.workload"),
        line.get("response_code"),
    ))
}

fn waypoint(stage: &Stage) -> Result<&Waypoint> {
    stage.market.waypoint.as_ref().context("the waypoint was not started")
}

fn storm(stage: &Stage, report: &mut Report) -> Result<()> {
    report.step(
        "Incident 1: the retry storm",
        "front → cart → stock, and every pod of stock fails. Each tier retries. Three attempts at each of three tiers
         would be 27 requests for one; a budget of 20 % and 10 a second at each tier keeps it to what is in brackets.",
    );
    let mut load = load(stage, Market::FRONT, 100)?;
    thread::sleep(Duration::from_millis(1000));
    let storm = Storm::make(&mut load, &stage.market.tiers, Duration::from_secs(4));
    report.check("retry-storm", "The load on each tier stays within its budget", storm.and_then(|s| s.check()));
    Ok(())
}

fn downgrade(stage: &Stage, report: &mut Report) {
    report.step(
        "Incident 2: the silent downgrade",
        "`batch` is not in the mesh and calls a pod of the catalog in plain text. Nobody asked for STRICT here.",
    );
    report.check(
        "mtls-downgrade",
        "It is refused, and seen",
        (|| {
            let pod = &stage.market.pods[0];
            let answer = apps::fetch(&stage.batch.place, pod.at(8080), &["--timeout", "3000"])?;
            ensure!(answer.status == 0, "batch got through: {answer:?}");
            let line = stage.agents[0]
                .access("the refusal", |l| l.get("src.workload") == "batch" && l.get("dst.workload") == "catalog-0")?;
            let refused = stage.agents[0].metrics()?.sum("culvert_bypassed_waypoint_total", &[]);
            let error = answer.error.unwrap_or_default();
            Ok(format!("batch: {error}\neast: {}\nculvert_bypassed_waypoint_total {refused}", line.get("error")))
        })(),
    );
}

fn slow_pod(stage: &Stage, report: &mut Report) -> Result<()> {
    report.step(
        "Incident 3: the slow pod",
        "One of the six pods of the catalog begins to take 1.5 s for each answer. It still answers, so no health check fails.",
    );
    let servers = &stage.market.catalog;
    for (id, title, rate) in [
        ("slow-pod-60", "At 60 requests/s it has lost its share within 2 s", 60),
        ("slow-pod-600", "At 600 requests/s too", 600),
    ] {
        let mut load = load(stage, Market::CATALOG, rate)?;
        thread::sleep(Duration::from_millis(500));
        let leak = Leak::make(&mut load, servers, Duration::from_secs(3));
        for server in servers {
            server.behave(Behaviour::default())?;
        }
        report.check(id, title, leak.and_then(|leak| leak.check()));
        if rate == 600 {
            let recovered = mended(stage);
            report.check("slow-pod-back", "It has its share again after it recovered", recovered);
        }
    }
    let mut load = load(stage, Market::CATALOG, 100)?;
    thread::sleep(Duration::from_millis(500));
    report.check(
        "failing-pod",
        "A pod that fails fast looks quick, and costs the users nothing",
        (|| {
            servers[0].behave(Behaviour { fail_per_mille: 1000, ..Behaviour::default() })?;
            given(servers)?;
            load.count()?;
            thread::sleep(Duration::from_secs(2));
            let (users, given) = (load.count()?, given(servers)?);
            servers[0].behave(Behaviour::default())?;
            let all: u64 = given.iter().sum();
            ensure!(users.ended() > 50 && users.failure_rate() <= 0.005, "{users:?}");
            ensure!(given[0] * 10 <= all, "the failing pod was given {given:?}");
            let (ended, failed) = (users.ended(), users.failure_rate() * 100.0);
            let part = percent(given[0], all);
            Ok(format!("{failed:.2} % of {ended} requests failed; the pod was given {part:.1} % of them"))
        })(),
    );
    Ok(())
}

/// The MeshPolicy of the example keeps the demo short: by default a waypoint forgets in most of a minute.
fn mended(stage: &Stage) -> Result<String> {
    stage.apply("market-policy.yaml")?;
    let servers = &stage.market.catalog;
    eventually("every pod has a share", || {
        given(servers)?;
        thread::sleep(Duration::from_millis(500));
        let given = given(servers)?;
        let all: u64 = given.iter().sum();
        ensure!(all > 50 && given.iter().all(|&n| n * 20 >= all), "{given:?}");
        Ok(format!("with decay: 1s (policy.yaml), in half a second: {given:?}"))
    })
}

fn trace(stage: &Stage, report: &mut Report) {
    report.step(
        "Incident 4: the broken trace",
        "Callers speak W3C, B3 in one header or in several, and gRPC's binary form. Each has to come out at the far end.",
    );
    report.check(
        "trace-kept",
        "Every form of context survives three tiers, over HTTP/1.1 and HTTP/2",
        (|| {
            let mut told = Vec::new();
            for (form, headers, trace) in CONTEXTS {
                for http2 in [false, true] {
                    let mut options: Vec<&str> = headers.iter().flat_map(|header| ["--header", header]).collect();
                    options.extend(http2.then_some("--http2"));
                    // After the storm breakers are still open for a moment.
                    let answer = eventually("front answers", || {
                        let answer = get(stage, Market::FRONT, &options)?;
                        ensure!(answer.status == 200, "{answer:?}");
                        Ok(answer)
                    })?;
                    let mut seen = answer.json();
                    for tier in ["front", "cart", "stock"] {
                        kept(form, &seen, trace).with_context(|| format!("{form} at {tier}: {}", answer.status))?;
                        seen = seen["next"].take();
                    }
                }
                told.push(format!("{form}: {trace}"));
            }
            Ok(told.join("\n"))
        })(),
    );
    report.check(
        "trace-started",
        "A call without any is one trace all the same",
        (|| {
            let found = traces(&get(stage, Market::FRONT, &[])?);
            ensure!(found.len() == 3 && found.iter().all(|t| *t == found[0] && t.len() == 32), "{found:?}");
            waypoint(stage)?.access("the trace", |l| l.get("trace").contains(&found[0]))?;
            Ok(format!("{} at front, cart and stock, and in the waypoint's log", found[0]))
        })(),
    );
}

fn route(stage: &Stage, report: &mut Report) {
    report.step("Changing a route under load", "route.yaml is written, and changed twice, while requests run.");
    report.check(
        "route-live-change",
        "In effect while they run, and none of them fails",
        (|| {
            let mut load = load(stage, Market::CATALOG, 200)?;
            let mut told = Vec::new();
            for edition in ["spring", "summer", "autumn"] {
                let started = std::time::Instant::now();
                stage.apply_changed("market-route.yaml", |text| text.replace("spring", edition))?;
                eventually(edition, || {
                    let answer = get(stage, Market::CATALOG, &[])?;
                    let found = answer.headers.get("x-edition").cloned().unwrap_or_default();
                    ensure!(found == edition, "x-edition: {found:?}");
                    Ok(())
                })?;
                told.push(format!("{edition} after {} ms", started.elapsed().as_millis()));
            }
            thread::sleep(Duration::from_millis(300));
            let users = load.count()?;
            ensure!(users.ended() > 20 && users.failure_rate() == 0.0, "{users:?}");
            Ok(format!("{}; {} requests, none failed", told.join(", "), users.ended()))
        })(),
    );
}
