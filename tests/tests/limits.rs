//! No pod and no peer exhausts a node's agent: beyond its quota it is refused with a reason, and others do not notice.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::agent::Agent;
use tests::eventually::{allow, eventually};
use tests::manifest::PodSpec;
use tests::mesh::{Mesh, MeshOptions, Pod};
use tests::tunnel::dial;

struct Scene {
    _mesh: Arc<Mesh>,
    client: Pod,
    other: Pod,
    server: Pod,
    another: Pod,
    _apps: Vec<tests::apps::Server>,
}

/// Two pods on one node that call, and two on the other that answer.
fn scene(flags: &[&str]) -> Result<Scene> {
    let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    let mesh = Mesh::with(MeshOptions { flags, ..MeshOptions::default() })?;
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let other = mesh.pod(PodSpec::new("app", "other"))?;
    let server = mesh.pod(PodSpec::new("app", "server").on(1))?;
    let another = mesh.pod(PodSpec::new("app", "another").on(1))?;
    let apps = [&server, &another].into_iter().map(|pod| pod.serve(&["who:80", "echo:7000"])).collect::<Result<_>>()?;
    Ok(Scene { _mesh: mesh, client, other, server, another, _apps: apps })
}

fn refused(agent: &Agent, reason: &str) -> Result<f64> {
    Ok(agent.metrics()?.sum("culvert_limit_refusals_total", &[("reason", reason)]))
}

fn open_of(agent: &Agent, pod: &Pod) -> Result<usize> {
    let dump = agent.dump()?;
    let all = dump["connections"].as_array().context("no connections in the dump")?;
    Ok(all.iter().filter(|open| open["workloadUid"] == pod.uid().as_str()).count())
}

#[test]
fn a_pod_that_has_all_it_may_have_is_refused_with_a_reason_and_alone() -> Result<()> {
    let s = scene(&["--pod-connections", "40"])?;
    let (near, far) = (s.client.agent(), s.server.agent());
    // More than the client may have open; what the server may have open is used up too.
    let hold = s.client.hold(s.server.at(7000), 100)?;
    eventually("the client's or the server's agent has refused", || {
        let count = refused(near, "pod_connections")? + refused(far, "pod_connections")?;
        ensure!(count >= 30.0, "{count} refusals");
        Ok(())
    })?;
    for (agent, pod) in [(near, &s.client), (far, &s.server)] {
        let open = open_of(agent, pod)?;
        ensure!(open <= 40, "{} has {open} connections", pod.uid());
    }
    let outcome = s.client.call_refused(s.server.at(80), &["who"])?;
    ensure!(outcome.millis < 2000, "it does not learn at once: {outcome:?}");
    // Neither the other caller nor the other server notices.
    for _ in 0..5 {
        s.other.call_ok(s.another.at(80), &["who"])?;
        s.other.call_ok(s.another.at6(80), &["who"])?;
    }
    far.says(&["pod_connections", &s.server.uid(), "40 connections open"])?;
    for agent in [near, far] {
        let lines = agent.log_text().lines().filter(|line| line.contains("pod_connections")).count();
        ensure!(lines < 20, "{lines} lines tell of it: the log is flooded");
    }
    drop(hold);
    eventually("it may have connections again", || {
        let outcome = s.client.call(s.server.at(80), &["who"])?;
        ensure!(outcome.ok, "{outcome:?}");
        Ok(())
    })
}

#[test]
fn slow_handshakes_of_one_peer_keep_no_other_peer_waiting() -> Result<()> {
    let s = scene(&["--peer-handshakes", "4"])?;
    let agent = s.server.agent();
    // The node is no pod: it is not captured, and reaches the port of the tunnels.
    let attacker = &s.client.node.place;
    let (mut slow, mut given_up) = (Vec::new(), 0);
    for _ in 0..40 {
        // Refused ones may have been reset already.
        match dial(attacker, s.server.at(15008)) {
            Ok(mut socket) => {
                let _begun = socket.write_all(&[22, 3, 1, 2, 0, 1, 0]);
                slow.push(socket);
            }
            Err(_) => given_up += 1,
        }
    }
    ensure!(slow.len() >= 32, "{given_up} were refused that might have waited");
    eventually("those are refused who are too many even to wait", || {
        let count = refused(agent, "peer_handshakes")?;
        ensure!(count >= 8.0, "{count} refusals");
        Ok(())
    })?;
    // No tunnel leads to the server yet: these calls need a handshake of their own.
    for client in [&s.client, &s.other] {
        let outcome = client.call_ok(s.server.at(80), &["who"])?;
        ensure!(Duration::from_millis(outcome.millis) < allow(Duration::from_secs(3)), "{outcome:?}");
    }
    for socket in &mut slow {
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let end = socket.read_to_end(&mut Vec::new());
        let reset = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        given_up += usize::from(end.is_ok() || reset);
    }
    ensure!(given_up == 40, "{given_up} of 40 slow handshakes were given up");
    Ok(())
}

#[test]
fn everyone_is_served_while_one_pod_calls_as_fast_as_it_can() -> Result<()> {
    let s = scene(&[])?;
    let mut flood = s.client.load(s.server.at(80), 32)?;
    let began = Instant::now();
    for round in 0..15 {
        for target in [s.another.at(80), s.server.at(80)] {
            let outcome = s.other.call_ok(target, &["who"]).with_context(|| format!("round {round}"))?;
            ensure!(Duration::from_millis(outcome.millis) < allow(Duration::from_secs(2)), "{outcome:?}");
        }
    }
    let count = flood.count()?;
    ensure!(count.ok > 50 && count.errors.is_empty(), "the flood was none: {count:?} in {:?}", began.elapsed());
    Ok(())
}
