//! The harness itself, without any agent: if these fail, no other end-to-end result means anything.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::apps::{self, Server, Talk};
use tests::envoy::{Envoy, hbone_client, hbone_server};
use tests::net::Net;
use tests::peer::Event;
use tests::pki::Authority;
use tests::wire::Capture;

#[test]
fn pods_on_two_nodes_reach_each_other_and_the_wire_shows_it() -> Result<()> {
    let net = Net::new()?;
    let (east, west) = (net.node("east")?, net.node("west")?);
    let outsider = net.outsider("outside")?;
    let (a, b) = (east.pod("a")?, west.pod("b")?);
    let server =
        Server::start(&b.place, "b", &["echo:7000", "who:80", "half:7001", "first:7002", "sink:7003", "source:7004"])?;
    let capture = Capture::start(&net, "plain")?;
    for target in [b.at(80), b.at6(80)] {
        let outcome = apps::call(&a.place, target, &["who"], &[])?;
        ensure!(
            outcome.ok && outcome.text.contains(&format!("server=b peer={}", outcome.local.unwrap())),
            "{outcome:?}"
        );
        ensure!(apps::call(&outsider.place, target, &["who"], &[])?.ok);
        ensure!(apps::call(&east.kubelet(), target, &["who"], &[])?.ok);
    }
    for exchange in [["echo", "70000"], ["half", "70000"], ["send", "1000000"], ["receive", "1000000"]] {
        let port = match exchange[0] {
            "echo" => 7000,
            "half" => 7001,
            "send" => 7003,
            _ => 7004,
        };
        let outcome = apps::call(&a.place, b.at(port), &exchange, &[])?;
        ensure!(outcome.ok, "{exchange:?}: {outcome:?}");
    }
    let mapped = apps::call(&a.place, b.at(7002), &["first"], &["--mapped"])?;
    ensure!(mapped.ok && mapped.text == "220 b ready", "{mapped:?}");
    let mut talk = Talk::open(&a.place, b.at(7000), &[])?;
    talk.echo("a word that can be seen on the wire")?;
    let packets = capture.stop()?;
    ensure!(packets.contains(b"can be seen on the wire"));
    ensure!(packets.opened_to(80) >= 2, "{} connections were opened", packets.opened_to(80));
    drop(server);
    talk.ended(Duration::from_secs(5))?;
    Ok(())
}

#[test]
fn a_server_reports_what_it_read_and_a_lost_byte_would_be_seen() -> Result<()> {
    let net = Net::new()?;
    let node = net.node("solo")?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let server = Server::start(&b.place, "b", &["half:7001", "echo:7000"])?;
    ensure!(apps::call(&a.place, b.at(7001), &["half", "12345"], &[])?.ok);
    let read = server.event("the half-closing server is done", |event| match event {
        Event::Closed { received, error: None, .. } => Some(*received),
        _ => None,
    })?;
    ensure!(read == 12345, "{read}");
    // An echo server is no source of the pattern that `receive` expects.
    let wrong = apps::call(&a.place, b.at(7000), &["receive", "10"], &["--timeout", "2"])?;
    ensure!(!wrong.ok, "{wrong:?}");
    Ok(())
}

#[test]
fn a_run_leaves_nothing_behind() -> Result<()> {
    let net = Net::new()?;
    let id = net.run.id().to_owned();
    let node = net.node("solo")?;
    let pod = node.pod("a")?;
    let server = Server::start(&pod.place, "a", &["stall:7000"])?;
    let pid = server.pid();
    let paths = [net.run.cgroup(), net.run.files(), net.run.pins(), pod.place.netns.clone(), node.place.netns.clone()];
    ensure!(paths.iter().all(|p| p.exists()), "{paths:?}");
    // The processes must go although nobody ends them one by one.
    std::mem::forget(server);
    drop(pod);
    drop(node);
    drop(net);
    for path in paths {
        ensure!(!path.exists(), "{} is left of {id}", path.display());
    }
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ensure!(state.is_empty() || state.contains(") Z "), "process {pid} is left: {state}");
    Ok(())
}

#[test]
fn envoy_as_configured_for_interoperation_talks_with_itself() -> Result<()> {
    let net = Net::new()?;
    let node = net.node("solo")?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let _app = Server::start(&b.place, "b", &["echo:7000"])?;
    let ca = Authority::new("Test")?;
    let (client, server) = (ca.identity("x", "client")?, ca.identity("x", "server")?);
    let id = |name: &str| format!("spiffe://cluster.local/ns/x/sa/{name}");
    let authority = b.at(7000).to_string();
    let directory = net.run.files();
    let ends =
        hbone_server(&ca, &server, &id("client"), std::slice::from_ref(&authority), ([127, 0, 0, 1], 7000).into());
    let _server = Envoy::start(&b.place, &directory, "server", &ends)?;
    for (port, target, peer, works) in
        [(9000, b.at(15008), "server", true), (9001, b.at6(15008), "server", true), (9002, b.at(15008), "other", false)]
    {
        let begins = hbone_client(&ca, &client, &id(peer), port, target, &authority);
        let _client = Envoy::start(&a.place, &directory, &format!("client{port}"), &begins)?;
        let outcome = apps::call(&a.place, ([127, 0, 0, 1], port).into(), &["echo", "70000"], &["--timeout", "5"])?;
        ensure!(outcome.ok == works, "{port}: {outcome:?}");
    }
    Ok(())
}
