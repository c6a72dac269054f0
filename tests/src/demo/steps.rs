//! The steps, in the order they are shown.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::market;
use super::report::{MemoryRow, Report};
use super::stage::Stage;
use crate::apps::{self, Talk};
use crate::eventually::{allow, eventually};
use crate::net::PodNet;
use crate::observe::LogLine;
use crate::waypoint::Waypoint;
use crate::wire::{Capture, Packets};

/// What must never be read on the wire.
const SECRET: &str = "order 42 card 4111-1111-1111-1111";

/// Runs all steps. An error means that the rest makes no sense any more.
pub fn run(stage: &mut Stage, report: &mut Report, keep: bool) -> Result<()> {
    let mut open = before(stage, report)?;
    enroll(stage, report, &mut open)?;
    tunnelled(stage, report);
    identities(stage, report);
    strict(stage, report)?;
    probes(stage, report);
    policy(stage, report)?;
    crash(stage, report)?;
    market::run(stage, report)?;
    memory(stage, report);
    waypoint_memory(stage, report);
    if !keep {
        // Their connections to each other would have to be drained first.
        stage.market.close();
        cleanup(stage, report);
    }
    Ok(())
}

/// Plain text, while the agents already run.
fn before(stage: &Stage, report: &mut Report) -> Result<Talk> {
    report.step(
        "Before",
        "Two nodes, east and west. A shop: `web` on east places orders with `orders` on west.
         The agents run, but no pod is enrolled yet. We listen on the wire between the nodes.",
    );
    report.check("agents-ready", "Both agents start and become ready", start_agents(stage));
    let capture = Capture::start(&stage.net, "before")?;
    let mut talk = stage.talk(&stage.web, stage.orders.at(7000)).context("web calls orders")?;
    let result = talk.echo(SECRET);
    let packets = capture.stop()?;
    report.check(
        "plaintext-before",
        "Before enrollment, anyone on the wire reads the order",
        result.and_then(|()| {
            let seen = packets.carrying(SECRET.as_bytes()).next().context("the order was not seen on the wire")?;
            let text = String::from_utf8_lossy(&seen.payload).into_owned();
            Ok(format!("{} → {}: {:?}", seen.source, seen.destination, text.trim_end()))
        }),
    );
    Ok(talk)
}

fn start_agents(stage: &Stage) -> Result<String> {
    stage.apply("pods.yaml")?;
    stage.apply("services.yaml")?;
    let started = Instant::now();
    for agent in &stage.agents {
        agent.launch()?;
    }
    for agent in &stage.agents {
        agent.wait_ready()?;
    }
    stage.captured([0, 0])?;
    Ok(format!("both ready after {} ms; 0 pods captured", started.elapsed().as_millis()))
}

fn enroll(stage: &Stage, report: &mut Report, open: &mut Talk) -> Result<()> {
    report.step(
        "Enrollment",
        "One label on a namespace enrolls its pods (deploy/examples/shop/enroll.yaml).
         No pod is restarted; connections that are open stay open.",
    );
    let started = Instant::now();
    stage.apply("enroll.yaml")?;
    stage.captured([2, 2])?;
    let took = started.elapsed();
    report.check(
        "enroll-live",
        "Four pods join while they run, and the open connection goes on",
        (|| {
            open.echo("still talking on the connection from before")?;
            Ok(format!("captured {} ms after the file was written; web, visitor, orders, ledger", took.as_millis()))
        })(),
    );
    Ok(())
}

fn tunnelled(stage: &Stage, report: &mut Report) {
    report.step("The same order again", "Nothing changed in the applications. We listen on the wire once more.");
    let listened = listen(stage, "after", || {
        let mut said = Vec::new();
        for target in [stage.orders.at(7000), stage.orders.at6(7000)].into_iter().chain(stage.service(7000)) {
            stage.talk(&stage.web, target)?.echo(SECRET).with_context(|| target.to_string())?;
            said.push(target.to_string());
        }
        Ok(said)
    });
    let (said, packets) = match listened {
        Ok(heard) => heard,
        Err(error) => {
            return report.check("encrypted-after", "After enrollment, nobody on the wire reads it", Err(error));
        }
    };
    report.check(
        "encrypted-after",
        "After enrollment, nobody on the wire reads it",
        (|| {
            let readable = packets.carrying(SECRET.as_bytes()).count();
            let opened = packets.opened_to(15008);
            ensure!(readable == 0, "{readable} packets carry the order in the clear");
            ensure!(packets.opened_to(7000) == 0, "a plain connection was opened");
            ensure!(opened > 0, "no tunnel was opened");
            let bytes: usize = packets.segments.iter().map(|s| s.payload.len()).sum();
            Ok(format!("{bytes} bytes passed, {opened} tunnels were opened to port 15008, the order was found 0 times"))
        })(),
    );
    report.check("every-address", "By pod address and by service address, IPv4 and IPv6", Ok(said.join(", ")));
    let [service, _] = stage.service(80);
    report.check(
        "addresses-kept",
        "Neither end can tell: each sees the other's real address",
        (|| {
            let outcome = stage.get(&stage.web, service)?;
            ensure!(outcome.ok, "{outcome:?}");
            ensure!(outcome.peer == Some(service), "web dialled {service} and sees {:?}", outcome.peer);
            ensure!(outcome.text.contains(&format!("peer={}:", stage.web.ip4)), "orders sees {}", outcome.text);
            Ok(format!("web dialled {service} and getpeername() says so\norders answers: {}", outcome.text))
        })(),
    );
}

/// Does something while listening on the wire.
fn listen<T>(stage: &Stage, name: &str, act: impl FnOnce() -> Result<T>) -> Result<(T, Packets)> {
    let capture = Capture::start(&stage.net, name)?;
    let result = act();
    let packets = capture.stop()?;
    Ok((result?, packets))
}

fn identities(stage: &Stage, report: &mut Report) {
    report.step(
        "Who talked to whom",
        "Each agent writes one line per connection, with the identities that certificates proved.",
    );
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let orders = "spiffe://cluster.local/ns/shop/sa/orders";
    report.check(
        "identities",
        "Both agents name the same caller and the same callee",
        (|| {
            let both = |l: &LogLine| l.get("src.identity") == web && l.get("dst.identity") == orders;
            let [east, west] = &stage.agents;
            let out = east.access("web calls orders", |l| l.get("direction") == "outbound" && both(l))?;
            let called = out.get("dst.hbone_addr");
            let same = |l: &LogLine| l.get("direction") == "inbound" && both(l) && l.get("dst.hbone_addr") == called;
            let arrived = west.access("orders is called", same)?;
            Ok(format!(
                "east: outbound {} → {orders} ({called}, through {})\nwest: inbound  {} → {}",
                short(&out, "src"),
                out.get("dst.addr"),
                short(&arrived, "src"),
                short(&arrived, "dst"),
            ))
        })(),
    );
    report.check(
        "metrics",
        "The same is counted for Prometheus",
        (|| {
            let metrics = stage.agents[1].metrics()?;
            let labels =
                [("reporter", "destination"), ("source_principal", web), ("connection_security_policy", "mutual_tls")];
            let count = metrics.sum("istio_tcp_connections_opened_total", &labels);
            ensure!(count > 0.0, "nothing is counted");
            Ok(format!("istio_tcp_connections_opened_total{{source_principal=\"{web}\",…}} {count}"))
        })(),
    );
}

fn short(line: &LogLine, side: &str) -> String {
    format!("{} ({})", line.get(&format!("{side}.identity")), line.get(&format!("{side}.addr")))
}

fn strict(stage: &Stage, report: &mut Report) -> Result<()> {
    report.step(
        "STRICT",
        "`batch` was never enrolled. Until now it could call the shop in plain text.
         Then strict.yaml is applied: whoever calls must prove who it is.",
    );
    let target = stage.orders.at(8080);
    let before = stage.get(&stage.batch, target)?;
    stage.apply("strict.yaml")?;
    report.check(
        "strict-refuses-plaintext",
        "Plain text is refused, the mesh goes on",
        (|| {
            ensure!(before.ok, "batch could not call even before: {before:?}");
            let refused = eventually("batch is refused", || {
                let outcome = stage.get(&stage.batch, target)?;
                ensure!(!outcome.ok, "batch still gets through");
                Ok(outcome)
            })?;
            let web = stage.get(&stage.web, target)?;
            ensure!(web.ok, "web is refused too: {web:?}");
            let error = refused.error.unwrap_or_default();
            Ok(format!(
                "before: {}\nafter, batch: {} at {}\nafter, web: {}",
                before.text, error, refused.stage, web.text
            ))
        })(),
    );
    Ok(())
}

fn probes(stage: &Stage, report: &mut Report) {
    report.step(
        "The kubelet",
        "Health probes come from the node in plain text and must get through under STRICT.
         Not because of their address: because the kernel knows that the kubelet's cgroup opened the socket.",
    );
    let target = stage.orders.at(8080);
    let node = &stage.nodes[1];
    report.check(
        "kubelet-probe",
        "A probe of the kubelet gets through",
        (|| {
            let probe = apps::call(&node.kubelet(), target, &["who"], &["--timeout", "5"])?;
            ensure!(probe.ok, "{probe:?}");
            Ok(probe.text)
        })(),
    );
    report.check(
        "host-process-refused",
        "Another process of the same node, at the same address, does not",
        (|| {
            let other = apps::call(&node.place, target, &["who"], &["--timeout", "5"])?;
            ensure!(!other.ok, "it got through: {other:?}");
            Ok(format!("{} at {}", other.error.unwrap_or_default(), other.stage))
        })(),
    );
}

fn policy(stage: &Stage, report: &mut Report) -> Result<()> {
    report.step(
        "Policy",
        "`visitor` is in the mesh, but it is not the shop's front. policy.yaml says that only `web` may place orders.
         Both have a connection open when the file is written.",
    );
    let target = stage.orders.at(7000);
    let mut visitor = stage.talk(&stage.visitor, target).context("visitor calls orders")?;
    let mut web = stage.talk(&stage.web, target).context("web calls orders")?;
    visitor.echo("may I?")?;
    web.echo("an order")?;
    let changed = Instant::now();
    stage.apply("policy.yaml")?;
    report.check(
        "policy-live-change",
        "The open connection that is now forbidden is closed, the other is not",
        (|| {
            visitor.ended(Duration::from_secs(10)).context("visitor's connection stays open")?;
            let took = changed.elapsed();
            ensure!(took <= allow(Duration::from_secs(1)), "it took {took:?}");
            web.echo("another order on the same connection")?;
            Ok(format!("visitor's was closed {} ms after the file was written; web's goes on", took.as_millis()))
        })(),
    );
    report.check(
        "policy-denies",
        "A new one is refused, and the log names the policy",
        (|| {
            let refused = stage.get(&stage.visitor, stage.orders.at(8080))?;
            ensure!(!refused.ok, "visitor got through: {refused:?}");
            let line =
                stage.agents[1].access("the refusal", |l| l.get("error").contains("shop/orders-only-from-web"))?;
            let allowed = stage.get(&stage.web, stage.orders.at(8080))?;
            ensure!(allowed.ok, "web is refused too: {allowed:?}");
            Ok(format!("west: {}: {}\nweb: {}", short(&line, "src"), line.get("error"), allowed.text))
        })(),
    );
    Ok(())
}

fn crash(stage: &Stage, report: &mut Report) -> Result<()> {
    report.step(
        "The agent is killed",
        "kill -9 on east. What is in the mesh must not fall back to plain text; what is not must notice nothing.",
    );
    let agent = &stage.agents[0];
    let outside = stage.talk(&stage.batch, stage.ledger.at(8080)).context("batch calls ledger")?;
    agent.kill()?;
    let listened = listen(stage, "killed", || {
        let mut errors = Vec::new();
        for target in [stage.orders.at(8080), stage.orders.at6(8080), stage.service(80)[0]] {
            let outcome = stage.get(&stage.web, target)?;
            ensure!(!outcome.ok, "web still gets through to {target}");
            errors.push(format!("web → {target}: {} at {}", outcome.error.unwrap_or_default(), outcome.stage));
        }
        Ok(errors)
    });
    report.check(
        "fail-closed",
        "Enrolled pods are refused at once, and nothing leaks",
        listened.and_then(|(errors, packets)| {
            ensure!(packets.opened_to(8080) == 0, "web went out in plain text");
            Ok(errors.join("\n"))
        }),
    );
    report.check(
        "unenrolled-unaffected",
        "A pod that is not enrolled notices nothing",
        (|| {
            let outcome = stage.get(&stage.batch, stage.ledger.at(8080))?;
            ensure!(outcome.ok, "{outcome:?}");
            ensure!(outside.is_quiet(), "its open connection was cut");
            Ok(outcome.text)
        })(),
    );
    let started = Instant::now();
    agent.launch()?;
    report.check(
        "recovers",
        "A new agent takes over what it finds",
        (|| {
            let outcome = eventually("web gets through", || retry(stage, &stage.web))?;
            let took = started.elapsed();
            ensure!(took <= allow(Duration::from_secs(1)), "it took {took:?}");
            agent.wait_ready()?;
            Ok(format!("back {} ms after its start: {outcome}", took.as_millis()))
        })(),
    );
    agent.wait_ready()?;
    Ok(())
}

fn retry(stage: &Stage, from: &PodNet) -> Result<String> {
    let outcome = stage.get(from, stage.service(80)[0])?;
    match outcome.ok {
        true => Ok(outcome.text),
        false => bail!("{outcome:?}"),
    }
}

fn memory(stage: &Stage, report: &mut Report) {
    for agent in &stage.agents {
        // An agent that is gone has failed a check already.
        if let Ok(memory) = agent.memory() {
            report.memory(MemoryRow {
                process: format!("agent {}", agent.node.name),
                pods: if agent.node.name == "east" { 7 } else { 8 },
                rss_kib: memory.rss_kib,
                pss_kib: memory.pss_kib,
                private_kib: memory.private_kib,
            });
        }
    }
}

fn waypoint_memory(stage: &Stage, report: &mut Report) {
    if let Some(Ok(memory)) = stage.market.waypoint.as_ref().map(Waypoint::memory) {
        report.memory(MemoryRow {
            process: "waypoint".to_owned(),
            pods: 10,
            rss_kib: memory.rss_kib,
            pss_kib: memory.pss_kib,
            private_kib: memory.private_kib,
        });
    }
}

fn cleanup(stage: &Stage, report: &mut Report) {
    report.step("The end", "`culvert agent --cleanup` takes every trace of eBPF away.");
    report.check(
        "cleanup",
        "Nothing is left in the kernel, and the pods talk as if nothing had been",
        (|| {
            for agent in &stage.agents {
                agent.terminate()?;
                agent.wait_end()?;
                let output = agent.cleanup()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let left =
                    agent.node.place.output("find", &[&agent.node.pins().to_string_lossy(), "-mindepth", "1"])?;
                ensure!(left.stdout.is_empty(), "left: {}", String::from_utf8_lossy(&left.stdout));
            }
            let (outcome, packets) = listen(stage, "end", || stage.get(&stage.web, stage.orders.at(8080)))?;
            ensure!(outcome.ok && packets.opened_to(8080) == 1, "{outcome:?}");
            Ok(format!("no pins, no programs; {}", outcome.text))
        })(),
    );
}
