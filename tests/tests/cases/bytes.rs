//! No byte is lost, repeated or reordered, whichever side ends first and whatever path the bytes take.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::apps::{Server, call};
use tests::manifest::PodSpec;
use tests::mesh::{Mesh, Pod};
use tests::peer::Event;

use crate::{FAR, mesh};

const SERVERS: [&str; 9] = [
    "echo:7000",
    "half:7001",
    "first:7002",
    "sink:7003",
    "source:7004",
    "stall:7005",
    "reset:7006",
    "slow:7007",
    "early:7008",
];

pub(crate) fn pair(stem: &str, node: usize) -> Result<(Arc<Mesh>, Pod, Pod, Server)> {
    let mesh = mesh()?;
    let ns = mesh.namespace(stem);
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(node))?;
    let app = server.serve(&SERVERS)?;
    Ok((mesh, client, server, app))
}

/// Around the sizes of TLS records, HTTP/2 frames and windows.
pub(crate) const SIZES: [&str; 10] =
    ["0", "1", "16383", "16385", "65535", "65536", "65537", "1048575", "1048577", "5000000"];

#[test]
fn every_size_arrives_intact_in_both_directions() -> Result<()> {
    let (_mesh, client, server, _app) = pair("sizes", FAR)?;
    for (i, size) in SIZES.into_iter().enumerate() {
        let at = |port| if i % 2 == 0 { server.at(port) } else { server.at6(port) };
        client.call_ok(at(7003), &["send", size])?;
        client.call_ok(at(7004), &["receive", size])?;
        client.call_ok(at(7000), &["echo", size])?;
    }
    Ok(())
}

#[test]
fn a_hundred_megabytes_arrive_intact_in_both_directions() -> Result<()> {
    let (_mesh, client, server, _app) = pair("big", FAR)?;
    let size = "100000000";
    std::thread::scope(|scope| {
        let up = scope.spawn(|| client.call_ok(server.at(7003), &["send", size]));
        let down = scope.spawn(|| client.call_ok(server.at6(7004), &["receive", size]));
        for side in [up, down] {
            side.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}

#[test]
fn a_half_close_travels_in_both_directions() -> Result<()> {
    let (_mesh, client, server, app) = pair("half", FAR)?;
    for target in [server.at(7001), server.at6(7001)] {
        // The server ends first and still reads; the client sends after it has seen the end.
        client.call_ok(target, &["half", "200000"])?;
    }
    for target in [server.at(7003), server.at6(7003)] {
        // The client ends first and still reads the answer.
        client.call_ok(target, &["send", "200000"])?;
    }
    let mut read = 0;
    tests::eventually::eventually("the server has read what came after its end", || {
        let events = app.events();
        let halves = events
            .iter()
            .filter(|e| matches!(e, Event::Closed { mode, received: 200_000, error: None, .. } if mode == "half"));
        read = halves.count();
        ensure!(read == 2, "{events:?}");
        Ok(())
    })
}

#[test]
fn a_server_may_speak_first() -> Result<()> {
    let (_mesh, client, server, _app) = pair("first", FAR)?;
    for target in [server.at(7002), server.at6(7002)] {
        let outcome = client.call_ok(target, &["first"])?;
        ensure!(outcome.text == "220 server ready", "{outcome:?}");
    }
    Ok(())
}

#[test]
fn a_reset_reaches_the_client_as_an_error_and_a_closed_port_as_a_refusal() -> Result<()> {
    let (_mesh, client, server, _app) = pair("reset", FAR)?;
    let outcome = client.call_refused(server.at(7006), &["who"])?;
    ensure!(outcome.millis < 5000, "{outcome:?}");
    let closed = client.call_refused(server.at(7999), &["who"])?;
    ensure!(closed.millis < 5000, "{closed:?}");
    Ok(())
}

#[test]
fn an_answer_before_the_end_of_an_upload_arrives_and_is_no_error() -> Result<()> {
    let (_mesh, client, server, _app) = pair("early", FAR)?;
    for round in 0..30 {
        let target = if round % 2 == 0 { server.at(7008) } else { server.at6(7008) };
        let outcome = client.call(target, &["upload", "30000000"])?;
        ensure!(outcome.ok, "round {round}: {outcome:?}");
    }
    let namespace = client.spec.namespace.clone();
    for agent in [client.agent(), server.agent()] {
        tests::eventually::eventually("all are told of, and none as an error", || {
            let lines = agent.log()?.into_iter().filter(|line| line.is_access());
            let lines: Vec<_> = lines.filter(|line| line.get("dst.namespace") == namespace).collect();
            ensure!(lines.len() >= 30, "{} lines", lines.len());
            let failed = lines.iter().find(|line| !line.get("error").is_empty());
            ensure!(failed.is_none(), "{failed:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_reader_that_stalls_holds_up_nobody_else() -> Result<()> {
    let (_mesh, client, server, _app) = pair("stall", FAR)?;
    std::thread::scope(|scope| {
        // Far more than any window: back-pressure must reach the sender, and all use one tunnel.
        let stalled: Vec<_> = (0..25)
            .map(|_| scope.spawn(|| call(&client.place, server.at(7005), &["send", "50000000"], &["--timeout", "6"])))
            .collect();
        let slow = scope.spawn(|| client.call(server.at(7007), &["send", "10000000"]));
        std::thread::sleep(Duration::from_millis(300));
        for _ in 0..10 {
            let outcome = client.call_ok(server.at(7000), &["echo", "100000"])?;
            ensure!(outcome.millis < 2000, "held up: {outcome:?}");
        }
        let slow = slow.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(slow.ok, "{slow:?}");
        for side in stalled {
            let outcome = side.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(!outcome.ok, "the stalled server took 50 MB: {outcome:?}");
        }
        Ok(())
    })?;
    // The bytes have waited at the sender, not in the agents' memory.
    for agent in [client.agent(), server.agent()] {
        let memory = agent.memory()?;
        ensure!(memory.rss_kib < 200_000, "{memory:?}");
    }
    Ok(())
}
