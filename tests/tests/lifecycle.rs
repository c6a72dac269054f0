//! Agents start, stop, are killed and come back; what is not theirs notices nothing.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::agent::{Agent, AgentOptions, Ports};
use tests::eventually::{allow, always, eventually};
use tests::manifest::PodSpec;
use tests::mesh::{Mesh, MeshOptions, Pod};
use tests::wire::Capture;

struct Scene {
    mesh: std::sync::Arc<Mesh>,
    client: Pod,
    server: Pod,
    plain: Pod,
    other: Pod,
    _apps: Vec<tests::apps::Server>,
}

fn scene(flags: &[&str]) -> Result<Scene> {
    let flags = flags.iter().map(|&f| f.to_owned()).collect();
    let mesh = Mesh::with(MeshOptions { flags, ..MeshOptions::default() })?;
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let server = mesh.pod(PodSpec::new("app", "server").on(1))?;
    let plain = mesh.pod(PodSpec::new("app", "plain").plain())?;
    let other = mesh.pod(PodSpec::new("app", "other").on(1).plain())?;
    let specs = ["who:80", "echo:7000"];
    let apps = [&client, &server, &plain, &other].into_iter().map(|p| p.serve(&specs)).collect::<Result<_>>()?;
    Ok(Scene { mesh, client, server, plain, other, _apps: apps })
}

#[test]
fn killed_under_load_it_fails_closed_and_is_ready_within_a_second() -> Result<()> {
    let s = scene(&[])?;
    let agent: &Agent = s.client.agent();
    let mut load = s.client.load(s.server.at(80), 4)?;
    let mut unharmed = s.plain.load(s.other.at(80), 1)?;
    let mut talk = s.plain.talk(s.other.at(7000))?;
    thread::sleep(Duration::from_millis(500));
    let count = load.count()?;
    ensure!(count.ok > 0 && count.errors.is_empty(), "{count:?}");
    let capture = Capture::start(&s.mesh.net, "killed")?;
    for round in 0..3 {
        agent.kill()?;
        thread::sleep(Duration::from_millis(100));
        load.count()?;
        always(Duration::from_millis(300), "refused while the agent is dead", || {
            for target in [s.server.at(80), s.server.at6(80), s.other.at(80)] {
                let outcome = s.client.call_refused(target, &["who"])?;
                ensure!(outcome.stage == "connect" && outcome.millis < 1000, "{outcome:?}");
            }
            // Loopback inside the pod is nobody's business.
            s.client.call_ok(([127, 0, 0, 1], 80).into(), &["who"])?;
            // Arriving plain text is refused too: nobody is there to judge it.
            let inbound = s.plain.call_refused(s.client.at(80), &["who"])?;
            ensure!(inbound.millis < 1000, "{inbound:?}");
            Ok(())
        })?;
        let dead = load.count()?;
        ensure!(dead.ok == 0, "round {round}: {dead:?}");
        let started = Instant::now();
        agent.launch()?;
        eventually("the client is captured again", || {
            let outcome = s.client.call(s.server.at(80), &["who"])?;
            ensure!(outcome.ok, "{outcome:?}");
            Ok(())
        })?;
        let took = started.elapsed();
        ensure!(took < allow(Duration::from_secs(1)), "round {round}: it took {took:?}");
        agent.wait_ready()?;
        load.count()?;
        thread::sleep(Duration::from_millis(300));
        let after = load.count()?;
        ensure!(after.ok > 0 && after.errors.is_empty(), "round {round}: {after:?}");
        talk.echo("pods that are not enrolled notice nothing")?;
    }
    let packets = capture.stop()?;
    // The plain pair's own calls are on the wire; nothing to the enrolled server in the clear.
    let leaked =
        packets.segments.iter().filter(|p| p.destination.ip() == s.server.ips()[0] && p.destination.port() == 80);
    ensure!(leaked.count() == 0, "something went out in the clear");
    let count = unharmed.count()?;
    ensure!(count.ok > 0 && count.errors.is_empty(), "pods that are not enrolled noticed: {count:?}");
    Ok(())
}

#[test]
fn told_to_fail_open_it_lets_traffic_pass_while_it_is_dead() -> Result<()> {
    let s = scene(&["--fail", "open"])?;
    let agent = s.client.agent();
    s.client.call_ok(s.server.at(80), &["who"])?;
    agent.kill()?;
    for target in [s.server.at(80), s.server.at6(80), s.other.at(80)] {
        s.client.call_ok(target, &["who"])?;
    }
    for target in [s.client.at(80), s.client.at6(80)] {
        s.plain.call_ok(target, &["who"])?;
    }
    let capture = Capture::start(&s.mesh.net, "back")?;
    agent.restart()?;
    s.client.captured(true)?;
    s.client.call_ok(s.server.at(80), &["who"])?;
    ensure!(capture.stop()?.opened_to(80) == 0, "not captured after the restart");
    Ok(())
}

#[test]
fn restarts_leave_nothing_over() -> Result<()> {
    let s = scene(&[])?;
    let agent = s.client.agent();
    let state = || -> Result<(usize, usize, String)> {
        let pins = agent.node.place.run("find", &[&agent.node.pins().to_string_lossy()])?.lines().count();
        let listeners = s.client.place.run("ss", &["-Hltn"])?.lines().count();
        let rules = s.client.place.run("ip", &["rule"])? + &s.client.place.run("ip", &["-6", "rule"])?;
        Ok((pins, listeners, rules))
    };
    s.client.call_ok(s.server.at(80), &["who"])?;
    let before = state()?;
    for kill in [true, false, true] {
        if kill {
            agent.kill()?;
        } else {
            agent.terminate()?;
            agent.wait_end()?;
        }
        agent.restart()?;
        s.client.captured(true)?;
        s.client.call_ok(s.server.at(80), &["who"])?;
        eventually("the state is as it was", || {
            let now = state()?;
            ensure!(now == before, "before {before:?}, now {now:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_pod_released_while_the_agent_was_dead_is_released_at_its_start() -> Result<()> {
    let mut s = scene(&[])?;
    s.client.agent().kill()?;
    s.client.call_refused(s.server.at(80), &["who"])?;
    s.client.spec.enrolled = false;
    s.client.apply(&s.client.spec)?;
    s.client.agent().restart()?;
    s.client.settled()?;
    let capture = Capture::start(&s.mesh.net, "released")?;
    s.client.call_ok(s.server.at(80), &["who"])?;
    ensure!(capture.stop()?.opened_to(80) == 1, "still captured");
    let rules = s.client.place.run("ip", &["rule"])?;
    ensure!(!rules.contains("fwmark"), "{rules}");
    Ok(())
}

#[test]
fn told_to_stop_it_lets_open_connections_end_and_takes_no_new_ones() -> Result<()> {
    let s = scene(&["--drain", "4"])?;
    let agent = s.server.agent();
    let mut talks = [s.client.talk(s.server.at(7000))?, s.client.talk(s.server.at6(7000))?];
    for talk in &mut talks {
        talk.echo("before")?;
    }
    let stopped = Instant::now();
    agent.terminate()?;
    eventually("it is not ready any more", || {
        let ready = tests::observe::get(&agent.node.place, Ports::default().ready, "/healthz/ready");
        ensure!(ready.is_err(), "still ready");
        Ok(())
    })?;
    for talk in &mut talks {
        talk.echo("while it drains")?;
    }
    s.client.call_refused(s.server.at(80), &["who"])?;
    drop(talks);
    let (code, _) = agent.wait_end()?;
    ensure!(code == Some(0), "exit code {code:?}\n{}", agent.log_tail());
    ensure!(stopped.elapsed() < allow(Duration::from_secs(4)), "it waited although all connections had ended");
    // Fail closed holds after an orderly stop too.
    s.server.call_refused(s.client.at(80), &["who"])?;
    agent.restart()?;
    s.client.call_ok(s.server.at(80), &["who"])?;
    Ok(())
}

#[test]
fn a_drain_ends_at_its_limit() -> Result<()> {
    let s = scene(&["--drain", "1"])?;
    let agent = s.client.agent();
    let mut talk = s.client.talk(s.server.at(7000))?;
    talk.echo("before")?;
    agent.terminate()?;
    let (code, took) = agent.wait_end()?;
    ensure!(code == Some(0), "exit code {code:?}");
    ensure!(took >= Duration::from_millis(700) && took < allow(Duration::from_secs(4)), "{took:?}");
    talk.ended(Duration::from_secs(5)).context("the connection outlived its agent")?;
    Ok(())
}

#[test]
fn cleanup_removes_every_trace() -> Result<()> {
    let s = scene(&[])?;
    s.client.call_ok(s.server.at(80), &["who"])?;
    let agents = &s.mesh.agents;
    for agent in agents {
        agent.kill()?;
        ensure!(agent.node.pins().exists(), "no pins to clean up");
        let output = agent.cleanup()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let left = agent.node.place.output("find", &[&agent.node.pins().to_string_lossy()])?;
        let left = String::from_utf8_lossy(&left.stdout).into_owned();
        ensure!(left.lines().count() <= 1, "left:\n{left}");
    }
    let links = s.client.node.place.run("bpftool", &["cgroup", "tree", &s.client.node.kubepods().to_string_lossy()])?;
    ensure!(!links.contains("connect"), "{links}");
    for pod in [&s.client, &s.server] {
        for family in ["-4", "-6"] {
            let rules = pod.place.run("ip", &[family, "rule"])?;
            ensure!(!rules.contains("fwmark"), "{rules}");
        }
        let value = pod.place.inside(|| std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fwmark_accept"))??;
        ensure!(value.trim() == "0", "tcp_fwmark_accept is {value}");
    }
    let capture = Capture::start(&s.mesh.net, "cleaned")?;
    s.client.call_ok(s.server.at(80), &["who"])?;
    s.client.call_ok(s.server.at6(80), &["who"])?;
    ensure!(capture.stop()?.opened_to(80) == 2);
    // And a second time there is nothing to do.
    ensure!(agents[0].cleanup()?.status.success());
    Ok(())
}

#[test]
fn out_of_file_descriptors_it_refuses_says_so_and_recovers() -> Result<()> {
    out_of_descriptors(&[])?;
    // Without quotas the process itself runs out of them.
    out_of_descriptors(&["--unfair".to_owned()])
}

fn out_of_descriptors(flags: &[String]) -> Result<()> {
    let options = MeshOptions { open_files: Some(256), flags: flags.to_vec(), ..MeshOptions::default() };
    let mesh = Mesh::with(options)?;
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let server = mesh.pod(PodSpec::new("app", "server").on(1))?;
    let _app = server.serve(&["echo:7000", "who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    let hold = client.hold(server.at(7000), 400)?;
    client.agent().says(&["file"]).context("no line tells of it")?;
    ensure!(client.agent().is_running() && server.agent().is_running(), "an agent died");
    drop(hold);
    eventually("it recovers", || {
        let outcome = client.call(server.at(80), &["who"])?;
        ensure!(outcome.ok, "{outcome:?}");
        Ok(())
    })?;
    let lines = client.agent().log_text().lines().filter(|l| l.contains("file")).count();
    ensure!(lines < 200, "{lines} lines tell of it: the log is flooded");
    Ok(())
}

#[test]
fn a_new_agent_takes_over_while_the_old_one_drains_and_nobody_notices() -> Result<()> {
    let s = scene(&["--drain", "20"])?;
    let old = s.client.agent();
    let ports = Ports { admin: 16000, stats: 16020, ready: 16021 };
    let options = AgentOptions { ports, ..old.options().clone() };
    let mut load = s.client.load(s.server.at(80), 2)?;
    let mut talks = [s.client.talk(s.server.at(7000))?, s.client.talk(s.server.at6(7000))?];
    for talk in &mut talks {
        talk.echo("carried by the old one")?;
    }
    let new = Agent::start(&old.node, options, s.mesh.net.run.files())?;
    eventually("the new one has the pod", || {
        let captures = new.dump()?["captures"].to_string();
        ensure!(captures.contains(&s.client.uid()) && captures.contains("\"captured\""), "{captures}");
        Ok(())
    })?;
    old.terminate()?;
    thread::sleep(Duration::from_millis(500));
    for talk in &mut talks {
        talk.echo("still carried by the old one")?;
    }
    s.client.call_ok(s.server.at6(80), &["who"])?;
    drop(talks);
    let (code, _) = old.wait_end()?;
    ensure!(code == Some(0), "exit code {code:?}");
    s.client.call_ok(s.server.at(80), &["who"])?;
    let count = load.count()?;
    ensure!(count.ok > 0 && count.errors.is_empty(), "{count:?}");
    let carried = new.log()?.iter().filter(|l| l.is_access() && l.get("direction") == "outbound").count();
    ensure!(carried > 0, "the new one carried nothing");
    Ok(())
}

#[test]
fn a_peer_that_restarts_costs_its_callers_no_connection() -> Result<()> {
    let s = scene(&["--drain", "20"])?;
    let mut old = s.server.agent().options().clone();
    let mut draining: Option<Agent> = None;
    for round in 1..=3_u16 {
        // Held in more than one tunnel, each of which has room.
        let _hold = s.client.hold(s.server.at(7000), 20)?;
        let port = 16000 + 100 * round;
        let options = AgentOptions { ports: Ports { admin: port, stats: port + 1, ready: port + 2 }, ..old.clone() };
        let new = Agent::start(&s.server.agent().node, options.clone(), s.mesh.net.run.files())?;
        eventually("the new one has the pod", || {
            let captures = new.dump()?["captures"].to_string();
            ensure!(captures.contains(&s.server.uid()) && captures.contains("\"captured\""), "{captures}");
            Ok(())
        })?;
        match &draining {
            Some(before) => before.terminate()?,
            None => s.server.agent().terminate()?,
        }
        for call in 0..10 {
            s.client.call_ok(s.server.at(80), &["who"]).with_context(|| format!("round {round}, call {call}"))?;
        }
        (old, draining) = (options, Some(new));
    }
    Ok(())
}

#[test]
fn at_rest_an_agent_unmaps_the_code_that_only_starting_up_needed() -> Result<()> {
    let of_files = |mesh: &Mesh| mesh.agents[0].memory().map(|memory| memory.rss_kib - memory.anonymous_kib);
    // Code is unmapped after five seconds: measure before that.
    let in_time = (0..5).find_map(|_| {
        let began = Instant::now();
        let looked = Mesh::with(MeshOptions::default()).and_then(|mesh| Ok((of_files(&mesh)?, mesh)));
        (looked.is_err() || began.elapsed() < Duration::from_secs(4)).then_some(looked)
    });
    let (started, mesh) = in_time.context("no mesh was up within four seconds")??;
    eventually("most of its code is no longer mapped", || {
        let now = of_files(&mesh)?;
        ensure!(now < started * 2 / 3, "{now} of {started} KiB");
        Ok(())
    })?;
    mesh.agents[0].metrics()?;
    Ok(())
}
