//! Traffic of an enrolled workload is captured, and neither end can tell; traffic of others never is.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tests::apps;
use tests::manifest::PodSpec;
use tests::mesh::{Mesh, Pod};
use tests::peer::Outcome;
use tests::wire::Capture;

/// The client saw the address it dialled; the server saw the client's own address and the address dialled.
fn both_see_each_other(outcome: &Outcome, target: SocketAddr) -> Result<()> {
    let local = outcome.local.context("no local address")?;
    ensure!(outcome.peer == Some(target), "the client sees {:?} where it dialled {target}", outcome.peer);
    let (server_sees, server_is) = seen(outcome)?;
    ensure!(server_sees.ip() == local.ip(), "the server sees {server_sees}, the client is {local}");
    ensure!(server_is.port() == target.port() && server_is.ip() == target.ip(), "the server is dialled as {server_is}");
    Ok(())
}

/// The addresses in the answer of a `who` server: its peer's and its own.
fn seen(outcome: &Outcome) -> Result<(SocketAddr, SocketAddr)> {
    let word = |name: &str| {
        let value = outcome.text.split(' ').find_map(|w| w.strip_prefix(name));
        value.and_then(|v| v.parse().ok()).with_context(|| format!("no {name} in {outcome:?}"))
    };
    Ok((word("peer=")?, word("local=")?))
}

fn pair(mesh: &std::sync::Arc<Mesh>, stem: &str) -> Result<(Pod, Pod)> {
    let ns = mesh.namespace(stem);
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    Ok((client, server))
}

#[test]
fn between_nodes_both_families_are_tunnelled_and_nothing_readable_is_on_the_wire() -> Result<()> {
    let mesh = Mesh::start()?;
    let (client, server) = pair(&mesh, "wire")?;
    let _server = server.serve(&["who:80", "echo:7000"])?;
    let capture = Capture::start(&mesh.net, "tunnelled")?;
    for target in [server.at(80), server.at6(80)] {
        both_see_each_other(&client.call_ok(target, &["who"])?, target)?;
    }
    for target in [server.at(7000), server.at6(7000)] {
        client.talk(target)?.echo("a secret that nobody on the wire may read")?;
    }
    let packets = capture.stop()?;
    ensure!(packets.opened_to(15008) > 0, "no tunnel was opened");
    ensure!(packets.opened_to(80) + packets.opened_to(7000) == 0, "a plain connection was opened");
    for secret in ["nobody on the wire", "GET / HTTP", "server=server"] {
        ensure!(!packets.contains(secret.as_bytes()), "{secret:?} is on the wire");
    }
    let line = client.agent().access("the client's side", |l| {
        l.get("direction") == "outbound" && l.get("dst.addr") == server.at(15008).to_string()
            || l.get("dst.hbone_addr") == server.at(80).to_string()
    })?;
    ensure!(
        line.get("src.identity") == client.identity() && line.get("dst.identity") == server.identity(),
        "{}",
        line.text()
    );
    Ok(())
}

#[test]
fn on_one_node_both_families_are_captured() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("same");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let _server = server.serve(&["who:80"])?;
    for target in [server.at(80), server.at6(80)] {
        both_see_each_other(&client.call_ok(target, &["who"])?, target)?;
    }
    let agent = client.agent();
    for direction in ["outbound", "inbound"] {
        agent.access(direction, |l| {
            l.get("direction") == direction
                && l.get("src.identity") == client.identity()
                && l.get("dst.identity") == server.identity()
        })?;
    }
    Ok(())
}

#[test]
fn however_an_application_opens_its_socket_it_is_captured() -> Result<()> {
    let mesh = Mesh::shared()?;
    let (client, server) = pair(&mesh, "socket")?;
    let _server = server.serve(&["who:80"])?;
    let bound = format!("{}:0", client.ip4);
    let fixed = format!("{}:12345", client.ip4);
    let cases: [&[&str]; 7] = [
        &["--mapped"],
        &["--mptcp"],
        &["--nonblocking"],
        &["--device", "eth0"],
        &["--bind", &bound],
        &["--bind", &fixed],
        // What a pod with NET_ADMIN might try to be taken for the agent.
        &["--mark", "273"],
    ];
    for options in cases {
        let outcome = apps::call(&client.place, server.at(80), &["who"], options)?;
        ensure!(outcome.ok, "{options:?}: {outcome:?}");
        both_see_each_other(&outcome, server.at(80)).with_context(|| format!("{options:?}"))?;
        let local = outcome.local.context("no local address")?;
        server.agent().access(&format!("{options:?}"), |l| {
            l.get("direction") == "inbound"
                && l.get("src.addr").starts_with(&local.ip().to_string())
                && l.get("src.identity") == client.identity()
        })?;
    }
    Ok(())
}

#[test]
fn a_mark_does_not_make_a_pod_the_agent() -> Result<()> {
    let mesh = Mesh::start()?;
    let (client, server) = pair(&mesh, "mark")?;
    let _server = server.serve(&["who:80"])?;
    let capture = Capture::start(&mesh.net, "marks")?;
    for mark in ["273", "1337", "1", "4095"] {
        apps::call(&client.place, server.at(80), &["who"], &["--mark", mark, "--timeout", "3"])?;
    }
    let packets = capture.stop()?;
    ensure!(packets.opened_to(80) == 0, "a marked socket got past the agent");
    ensure!(!packets.contains(b"GET / HTTP"), "a marked socket's request is on the wire");
    Ok(())
}

#[test]
fn loopback_and_own_addresses_inside_a_pod_are_left_alone() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("self");
    let pod = mesh.pod(PodSpec::new(&ns, "alone"))?;
    let _server = pod.serve(&["who:80"])?;
    let before = pod.agent().log()?.len();
    for target in [
        SocketAddr::from(([127, 0, 0, 1], 80)),
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80)),
        pod.at(80),
        pod.at6(80),
    ] {
        let outcome = pod.call_ok(target, &["who"])?;
        ensure!(outcome.peer == Some(target), "{outcome:?}");
        let (server_sees, _) = seen(&outcome)?;
        ensure!(Some(server_sees) == outcome.local, "something sits between: {outcome:?}");
    }
    let log = pod.agent().log()?;
    let ours: Vec<_> = log[before..].iter().filter(|l| l.is_access() && l.text().contains(&ns)).collect();
    ensure!(ours.is_empty(), "the agent saw {:?}", ours.iter().map(|l| l.text()).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_pod_that_is_not_enrolled_is_called_in_plain_text_and_is_not_captured() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("plain");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let outside = mesh.pod(PodSpec::new(&ns, "outside").on(1).plain())?;
    let inside = mesh.pod(PodSpec::new(&ns, "inside").on(1))?;
    let _servers = (outside.serve(&["who:80"])?, inside.serve(&["who:80"])?);
    let capture = Capture::start(&mesh.net, "plain")?;
    for target in [outside.at(80), outside.at6(80)] {
        both_see_each_other(&client.call_ok(target, &["who"])?, target)?;
    }
    // And the other way round, where PERMISSIVE is the default.
    for target in [client.at(15021), client.at6(15021)] {
        let refused = outside.call_refused(target, &["who"])?;
        ensure!(refused.error.as_deref().is_some_and(|e| e.contains("refused")), "{refused:?}");
    }
    let packets = capture.stop()?;
    let (plain, tunnels) = (packets.opened_to(80), packets.opened_to(15008));
    ensure!(plain == 2 && tunnels == 0, "{plain} plain connections, {tunnels} tunnels: {:?}", packets.openings());
    let line = client.agent().access("the plain call", |l| {
        l.get("direction") == "outbound" && l.get("dst.addr") == outside.at(80).to_string()
    })?;
    ensure!(line.number("bytes_sent") > 0 && line.number("bytes_recv") > 0, "{}", line.text());
    ensure!(line.get("dst.identity").is_empty(), "{}", line.text());
    Ok(())
}

#[test]
fn allowed_plain_text_reaches_the_application_with_the_callers_address_and_is_counted() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("permissive");
    let outside = mesh.pod(PodSpec::new(&ns, "outside").on(1).plain())?;
    let inside = mesh.pod(PodSpec::new(&ns, "inside"))?;
    let _server = inside.serve(&["who:80"])?;
    for target in [inside.at(80), inside.at6(80)] {
        let outcome = outside.call_ok(target, &["who"])?;
        both_see_each_other(&outcome, target)?;
        let (server_sees, _) = seen(&outcome)?;
        ensure!(Some(server_sees) == outcome.local, "something sits between: {outcome:?}");
        let local = outcome.local.context("no local address")?.to_string();
        let line = inside
            .agent()
            .access("the plain call", |l| l.get("direction") == "inbound" && l.get("src.addr") == local)?;
        ensure!(line.number("bytes_sent") > 0 && line.number("bytes_recv") > 0, "{}", line.text());
        ensure!(line.get("src.identity").is_empty(), "{}", line.text());
        ensure!(line.get("dst.workload") == "inside", "{}", line.text());
    }
    Ok(())
}

#[test]
fn an_unknown_destination_passes_through_and_is_counted_with_its_bytes() -> Result<()> {
    let mesh = Mesh::start()?;
    let outsider = mesh.net.outsider("outside")?;
    let ns = mesh.namespace("unknown");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let _server = apps::Server::start(&outsider.place, "outside", &["who:80", "sink:9000"])?;
    for (target, sink) in [(outsider.at(80), outsider.at(9000)), (outsider.at6(80), outsider.at6(9000))] {
        both_see_each_other(&client.call_ok(target, &["who"])?, target)?;
        client.call_ok(sink, &["send", "1000000"])?;
        let line = client.agent().access("the call to the unknown", |l| {
            l.get("direction") == "outbound" && l.get("dst.addr") == sink.to_string()
        })?;
        ensure!(line.number("bytes_sent") == 1_000_000 && line.number("bytes_recv") > 0, "{}", line.text());
        ensure!(!line.get("duration").is_empty() && line.get("src.workload") == "client", "{}", line.text());
    }
    let metrics = client.agent().metrics()?;
    let labels = [
        ("reporter", "source"),
        ("source_workload", "client"),
        ("source_workload_namespace", ns.as_str()),
        ("destination_workload", "unknown"),
    ];
    let opened = metrics.sum("istio_tcp_connections_opened_total", &labels);
    ensure!(opened >= 4.0, "{opened} connections were counted");
    // The source reports from the side of the request: what the client sent was received by the far end.
    let bytes =
        metrics.sum("istio_tcp_received_bytes_total", &labels) + metrics.sum("istio_tcp_sent_bytes_total", &labels);
    ensure!(bytes >= 2_000_000.0, "{bytes} bytes were counted");
    Ok(())
}

#[test]
fn with_proxy_all_even_unknown_destinations_go_through_the_agent() -> Result<()> {
    let mesh = Mesh::with(tests::mesh::MeshOptions { flags: vec!["--proxy-all".to_owned()], ..Default::default() })?;
    let outsider = mesh.net.outsider("outside")?;
    let ns = mesh.namespace("proxied");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let plain = mesh.pod(PodSpec::new(&ns, "plain").on(1).plain())?;
    let _servers =
        (apps::Server::start(&outsider.place, "outside", &["who:80"])?, client.serve(&["who:80", "echo:7000"])?);
    for target in [outsider.at(80), outsider.at6(80)] {
        let outcome = client.call_ok(target, &["who"])?;
        ensure!(outcome.peer == Some(target), "{outcome:?}");
        let (server_sees, _) = seen(&outcome)?;
        ensure!(outcome.local.is_some_and(|l| l.ip() == server_sees.ip()), "{outcome:?}");
    }
    for target in [client.at(80), client.at6(80)] {
        both_see_each_other(&plain.call_ok(target, &["who"])?, target)?;
    }
    for target in [client.at(7000), client.at6(7000)] {
        let outcome = plain.call_ok(target, &["echo", "300000"])?;
        ensure!(outcome.received == 300_000, "{outcome:?}");
    }
    Ok(())
}

#[test]
fn many_plain_callers_of_one_address_do_not_disturb_each_other_through_the_proxy() -> Result<()> {
    let mesh = Mesh::with(tests::mesh::MeshOptions { flags: vec!["--proxy-all".to_owned()], ..Default::default() })?;
    let ns = mesh.namespace("collide");
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let plain = mesh.pod(PodSpec::new(&ns, "plain").on(1).plain())?;
    let _server = server.serve(&["who:80"])?;
    let mut load = plain.load(server.at(80), 16)?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    let count = load.count()?;
    ensure!(count.ok > 100 && count.errors.is_empty(), "{count:?}");
    Ok(())
}

#[test]
fn a_pod_can_neither_take_the_agents_port_nor_join_its_listeners() -> Result<()> {
    let mesh = Mesh::shared()?;
    let (client, server) = pair(&mesh, "ports")?;
    let _server = server.serve(&["who:80"])?;
    for reuse in [false, true] {
        for address in [SocketAddr::from(([0, 0, 0, 0], 15008)), SocketAddr::from(([0; 8], 15008)), server.at(15008)] {
            let outcome = apps::bind(&server.place, address, reuse)?;
            ensure!(!outcome.ok && outcome.stage == "bind", "{address} (reuse {reuse}) could be bound: {outcome:?}");
        }
    }
    // The agent's listeners sit on loopback at ports the kernel chose.
    let table = server.place.run("ss", &["-Hltn"])?;
    let mut tried = 0;
    for line in table.lines() {
        let local = line.split_whitespace().nth(3).context("a column of ss")?;
        let Ok(address) = local.replace("%lo", "").parse::<SocketAddr>() else { continue };
        if address.ip().is_loopback() {
            tried += 1;
            let outcome = apps::bind(&server.place, address, true)?;
            ensure!(!outcome.ok, "{address} could be shared");
            // Dialling the listener itself leads nowhere either.
            server.call_refused(address, &["who"])?;
        }
    }
    ensure!(tried >= 2, "no listeners of the agent were found in:\n{table}");
    client.call_ok(server.at(80), &["who"])?;
    Ok(())
}

#[test]
fn no_packet_filter_rule_is_made_anywhere() -> Result<()> {
    let mesh = Mesh::shared()?;
    let (client, server) = pair(&mesh, "rules")?;
    let _server = server.serve(&["who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    for place in [&client.place, &server.place, &client.node.place, &server.node.place] {
        for program in ["iptables-save", "ip6tables-save"] {
            let output = place.output(program, &[])?;
            let rules = String::from_utf8_lossy(&output.stdout);
            ensure!(!rules.lines().any(|l| l.starts_with("-A")), "{program} in {}: {rules}", place.netns.display());
        }
        let qdisc = place.run("tc", &["filter", "show", "dev", "eth0", "ingress"])?;
        ensure!(qdisc.trim().is_empty(), "tc filters in {}: {qdisc}", place.netns.display());
    }
    // The node's own namespace keeps no routing rule of ours either.
    let rules = client.node.place.run("ip", &["rule", "show"])?;
    ensure!(rules.lines().count() == 3 && !rules.contains("fwmark"), "{rules}");
    Ok(())
}

#[test]
fn three_nodes_are_one_mesh() -> Result<()> {
    let mesh = Mesh::with(tests::mesh::MeshOptions { nodes: 3, ..Default::default() })?;
    let ns = mesh.namespace("three");
    let pods: Vec<Pod> =
        (0..3).map(|i| mesh.pod(PodSpec::new(&ns, &format!("pod{i}")).on(i))).collect::<Result<_>>()?;
    let _servers: Vec<_> = pods.iter().map(|p| p.serve(&["who:80"])).collect::<Result<_>>()?;
    for from in &pods {
        for to in &pods {
            for target in [to.at(80), to.at6(80)] {
                let outcome = from.call_ok(target, &["who"])?;
                both_see_each_other(&outcome, target)?;
            }
            if from.spec.name != to.spec.name {
                to.agent().access("who called", |l| {
                    l.get("direction") == "inbound"
                        && l.get("src.identity") == from.identity()
                        && l.get("dst.identity") == to.identity()
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn datagrams_are_left_alone() -> Result<()> {
    let mesh = Mesh::shared()?;
    let (client, server) = pair(&mesh, "udp")?;
    let _server = server.serve(&["udp:53", "udp:7000"])?;
    for port in [53, 7000] {
        for target in [server.at(port), server.at6(port)] {
            let outcome = apps::datagram(&client.place, target, "a datagram")?;
            ensure!(outcome.ok, "{target}: {outcome:?}");
        }
    }
    Ok(())
}
