//! `--same-node direct`: the same guarantees without a tunnel between two pods of one node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::eventually::eventually;
use tests::manifest::{PodSpec, guard, service_behind};
use tests::mesh::{Mesh, MeshOptions};

#[cfg(test)]
#[path = "cases/bytes.rs"]
mod bytes;
#[cfg(test)]
#[path = "cases/policy.rs"]
mod policy;

/// The node of the server.
const FAR: usize = 0;

fn mesh() -> Result<Arc<Mesh>> {
    Mesh::shared_with(options())
}

fn options() -> MeshOptions {
    let flags = ["--same-node", "direct"].map(str::to_owned).to_vec();
    MeshOptions { nodes: 2, flags, ..MeshOptions::default() }
}

#[test]
fn both_sides_are_logged_and_counted_with_both_identities() -> Result<()> {
    let mesh = mesh()?;
    let ns = mesh.namespace("count");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let _app = server.serve(&["sink:7003", "who:80"])?;
    client.call_ok(server.at(7003), &["send", "100000"])?;
    let agent = client.agent();
    for direction in ["outbound", "inbound"] {
        let line = agent.access(direction, |l| l.get("direction") == direction && l.get("src.namespace") == ns)?;
        ensure!(
            line.get("src.identity") == client.identity()
                && line.get("dst.identity") == server.identity()
                && line.get("src.workload") == "client"
                && line.get("dst.workload") == "server"
                && line.get("dst.addr") == server.at(7003).to_string()
                && line.get("dst.hbone_addr").is_empty(),
            "{}",
            line.text()
        );
        let (sent, received) = (line.number("bytes_sent"), line.number("bytes_recv"));
        ensure!(sent.max(received) == 100_000 && sent.min(received) < 100, "{}", line.text());
        let reporter = if direction == "outbound" { "source" } else { "destination" };
        let labels = [
            ("reporter", reporter),
            ("source_principal", &client.identity()),
            ("destination_principal", &server.identity()),
            ("source_workload_namespace", &ns),
        ];
        let metrics = agent.metrics()?;
        for name in ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"] {
            ensure!(metrics.sum(name, &labels) == 1.0, "{direction} {name}: {}", metrics.sum(name, &labels));
        }
    }
    Ok(())
}

#[test]
fn both_ends_see_each_others_addresses_and_no_tunnel_is_there() -> Result<()> {
    let mesh = mesh()?;
    let ns = mesh.namespace("addresses");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let _app = server.serve(&["who:80", "echo:7000"])?;
    for target in [server.at(80), server.at6(80)] {
        let outcome = client.call_ok(target, &["who"])?;
        ensure!(outcome.peer == Some(target), "{outcome:?}");
        let own = outcome.local.context("no local address")?.ip();
        ensure!(outcome.text.contains(&own.to_string()), "{outcome:?}");
    }
    let _hold = client.hold(server.at(7000), 20)?;
    let tunnels = client.place.run("ss", &["-Htn", "state", "established", "dport", "=", ":15008"])?;
    ensure!(tunnels.trim().is_empty(), "{tunnels}");
    Ok(())
}

#[test]
fn between_nodes_there_still_is_a_tunnel() -> Result<()> {
    let mesh = mesh()?;
    let ns = mesh.namespace("between");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    server.agent().access("through a tunnel", |l| {
        l.get("direction") == "inbound" && l.get("dst.hbone_addr") == server.at(80).to_string()
    })?;
    Ok(())
}

#[test]
fn a_pod_that_leaves_the_mesh_is_called_in_plain_text() -> Result<()> {
    let mesh = mesh()?;
    let ns = mesh.namespace("leaves");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let mut server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let _app = server.serve(&["who:80", "echo:7000"])?;
    let mut talk = client.talk(server.at(7000))?;
    talk.echo("before")?;
    server.spec.enrolled = false;
    server.apply(&server.spec)?;
    server.settled()?;
    talk.echo("still there")?;
    eventually("it is called in plain text", || {
        client.call_ok(server.at(80), &["who"])?;
        let log = client.agent().log()?;
        let plain = log.iter().any(|l| {
            l.is_access()
                && l.get("src.namespace") == ns
                && l.get("direction") == "outbound"
                && l.get("dst.identity").is_empty()
        });
        ensure!(plain, "no plain connection in the log");
        Ok(())
    })?;
    talk.echo("to the end")?;
    Ok(())
}

#[test]
fn killed_the_agent_takes_its_connections_along_and_the_next_one_serves_new_ones() -> Result<()> {
    let mesh = Mesh::with(options())?;
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let server = mesh.pod(PodSpec::new("app", "server"))?;
    let _app = server.serve(&["who:80", "echo:7000"])?;
    let mut talk = client.talk(server.at(7000))?;
    talk.echo("open")?;
    let agent = client.agent();
    agent.kill()?;
    talk.ended(Duration::from_secs(5)).context("a connection outlives the agent that carried it")?;
    client.call_refused(server.at(80), &["who"])?;
    agent.launch()?;
    agent.wait_ready()?;
    eventually("it is back", || client.call_ok(server.at(80), &["who"]).map(drop))
}

#[test]
fn a_port_behind_a_guarded_waypoint_takes_no_call_from_the_same_node() -> Result<()> {
    let mesh = mesh()?;
    let ns = mesh.namespace("guarded");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let _app = server.serve(&["echo:7000"])?;
    let (vip, _) = mesh.vips();
    let shop = service_behind("wp", &ns, "shop", "server", &[&vip], &[("tcp", 7000, "7000")]);
    mesh.apply_seen(&format!("shop-{ns}.yaml"), &shop, &format!("shop.{ns}.svc"))?;
    client.call_ok(server.at(7000), &["echo", "10"])?;
    mesh.apply(&format!("guard-{ns}.yaml"), &guard(&ns, "Service", "shop"))?;
    eventually("the pod takes no call", || client.call_refused(server.at(7000), &["echo", "10"]).map(drop))?;
    let agent = client.agent();
    agent.access("the refusal", |l| l.get("error").contains("bypassed_waypoint") && l.get("error").contains(&ns))?;
    Ok(())
}
