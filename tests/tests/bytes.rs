//! No byte is lost, repeated or reordered, whichever side ends first: in tunnels, between two nodes and on one.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tests::mesh::Mesh;

#[cfg(test)]
#[path = "cases/bytes.rs"]
mod cases;

use cases::{SIZES, pair};

/// The node of the server.
const FAR: usize = 1;

fn mesh() -> Result<Arc<Mesh>> {
    Mesh::shared()
}

#[test]
fn every_size_arrives_intact_on_one_node() -> Result<()> {
    let (_mesh, client, server, _app) = pair("near", 0)?;
    for (i, size) in SIZES.into_iter().enumerate() {
        let at = |port| if i % 2 == 1 { server.at(port) } else { server.at6(port) };
        client.call_ok(at(7003), &["send", size])?;
        client.call_ok(at(7004), &["receive", size])?;
        client.call_ok(at(7000), &["echo", size])?;
    }
    Ok(())
}

#[test]
fn both_sides_call_the_same_end_upstream() -> Result<()> {
    let (_mesh, client, server, _app) = pair("names", FAR)?;
    client.call_refused(server.at(7006), &["who"])?;
    for agent in [client.agent(), server.agent()] {
        let line = agent.access("a line of the connection that the server has reset", |line| {
            line.get("dst.namespace") == client.spec.namespace
        })?;
        ensure!(line.get("error").starts_with("upstream: "), "{line:?}");
    }
    Ok(())
}

#[test]
fn many_connections_use_few_tunnels() -> Result<()> {
    let (mesh, client, server, _app) = pair("shared", FAR)?;
    let _hold = client.hold(server.at(7000), 150)?;
    let table = client.place.run("ss", &["-Htn", "state", "established", "dport", "=", ":15008"])?;
    let tunnels = table.lines().count();
    ensure!((1..=8).contains(&tunnels), "{tunnels} tunnels for 150 connections:\n{table}");
    client.call_ok(server.at(7000), &["echo", "1000"])?;
    drop(mesh);
    Ok(())
}
