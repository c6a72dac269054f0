//! What operators see: readiness, dump, metrics, log and the commands over them.

use anyhow::{Context, Result, ensure};
use tests::agent::Ports;
use tests::eventually::eventually;
use tests::manifest::{PodSpec, service};
use tests::mesh::{Mesh, MeshOptions};
use tests::observe::get;

#[test]
fn readiness_waits_for_the_configuration() -> Result<()> {
    let mesh = Mesh::prepare(MeshOptions { nodes: 1, ..MeshOptions::default() })?;
    let agent = &mesh.agents[0];
    let Ports { admin, stats, ready } = Ports::default();
    ensure!(get(&agent.node.place, ready, "/healthz/ready").is_err());
    agent.launch()?;
    agent.wait_ready()?;
    for port in [ready, stats, admin] {
        get(&agent.node.place, port, "/healthz/ready")?;
    }
    Ok(())
}

#[test]
fn the_dump_shows_all_parts_and_open_connections() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("dump");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["echo:7000"])?;
    let vip = mesh.vips().0;
    mesh.apply_seen(&format!("svc-{ns}.yaml"), &service(&ns, "echo", "server", &[&vip], &[("tcp", 7, "7000")]), &vip)?;
    let mut talk = client.talk(format!("{vip}:7").parse()?)?;
    talk.echo("hello")?;
    let dump = client.agent().dump()?;
    for part in ["workloads", "services", "policies", "certificates", "captures", "connections"] {
        ensure!(
            !dump[part].is_null(),
            "no {part} in the dump: {:?}",
            dump.as_object().map(|o| o.keys().collect::<Vec<_>>())
        );
    }
    ensure!(!dump.to_string().contains("PRIVATE KEY"), "a private key is in the dump");
    let open = |agent: &tests::agent::Agent, direction: &str| {
        eventually(&format!("the open connection is listed as {direction}"), || {
            let dump = agent.dump()?;
            let list = dump["connections"].as_array().context("no list")?;
            let found = list
                .iter()
                .find(|c| c["direction"] == direction && c.to_string().contains(&ns))
                .context("not listed")?;
            ensure!(found["sourceIdentity"] == client.identity() && found["protocol"] == "HBONE", "{found}");
            Ok(found.clone())
        })
    };
    let outbound = open(client.agent(), "outbound")?;
    ensure!(outbound["originalDestination"] == format!("{vip}:7"), "{outbound}");
    ensure!(outbound["service"].as_str().is_some_and(|s| s.contains(&format!("echo.{ns}"))), "{outbound}");
    open(server.agent(), "inbound")?;
    drop(talk);
    eventually("it is listed no more", || {
        let dump = client.agent().dump()?["connections"].to_string();
        ensure!(!dump.contains(&ns), "{dump}");
        Ok(())
    })
}

#[test]
fn the_commands_show_what_the_agent_knows() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("cli");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["echo:7000"])?;
    let vip = mesh.vips().0;
    mesh.apply_seen(&format!("svc-{ns}.yaml"), &service(&ns, "echo", "server", &[&vip], &[("tcp", 7, "7000")]), &vip)?;
    let mut talk = client.talk(format!("{vip}:7").parse()?)?;
    talk.echo("hello")?;
    let agent = client.agent();
    for (noun, word) in [
        ("workloads", "server"),
        ("services", &vip),
        ("certificates", "/sa/client"),
        ("captures", "client"),
        ("connections", "client"),
    ] {
        for format in ["table", "wide", "json", "yaml"] {
            let text = agent.culvert_ok(&["get", noun, "-o", format])?;
            ensure!(text.contains(word) && text.contains(&ns), "get {noun} -o {format} lacks {word} or {ns}:\n{text}");
            if format == "json" {
                serde_json::from_str::<serde_json::Value>(&text).with_context(|| format!("get {noun} -o json"))?;
            }
        }
    }
    agent.culvert_ok(&["get", "policies"])?;
    let nonsense = agent.culvert(&["get", "nonsense"])?;
    ensure!(nonsense.status.code() == Some(2), "{:?}", nonsense.status);
    let explained = agent.culvert_ok(&["explain", &format!("{ns}/client"), &format!("{vip}:7")])?;
    ensure!(explained.contains("server") && explained.contains("HBONE"), "{explained}");
    Ok(())
}

#[test]
fn the_log_level_is_changed_while_it_runs() -> Result<()> {
    let mesh = Mesh::start()?;
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let server = mesh.pod(PodSpec::new("app", "server").on(1))?;
    let _app = server.serve(&["who:80"])?;
    let agent = client.agent();
    ensure!(!agent.log_text().contains("\"level\":\"debug\""), "debug lines before anyone asked");
    agent.culvert_ok(&["log", "debug"])?;
    client.call_ok(server.at(80), &["who"])?;
    agent.says(&["\"level\":\"debug\""])?;
    Ok(())
}

#[test]
fn one_line_and_one_count_for_each_connection_on_both_sides() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("count");
    let client = mesh.pod(PodSpec::new(&ns, "client").label("version", "v7"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["sink:7003", "source:7004"])?;
    for _ in 0..3 {
        client.call_ok(server.at(7003), &["send", "100000"])?;
    }
    client.call_ok(server.at(7004), &["receive", "50000"])?;
    let lines = |agent: &tests::agent::Agent, direction: &str| {
        eventually(direction, || {
            let lines: Vec<_> = agent
                .log()?
                .into_iter()
                .filter(|l| l.is_access() && l.get("direction") == direction && l.get("src.namespace") == ns)
                .collect();
            ensure!(lines.len() == 4, "{} lines", lines.len());
            Ok(lines)
        })
    };
    for (agent, direction) in [(client.agent(), "outbound"), (server.agent(), "inbound")] {
        for line in lines(agent, direction)? {
            for field in
                ["src.addr", "src.workload", "src.identity", "dst.addr", "dst.workload", "dst.identity", "duration"]
            {
                ensure!(!line.get(field).is_empty(), "{direction}: no {field} in {}", line.text());
            }
            let (sent, received) = (line.number("bytes_sent"), line.number("bytes_recv"));
            ensure!(sent.max(received) >= 50_000 && sent.min(received) < 100, "{}", line.text());
        }
        let reporter = if direction == "outbound" { "source" } else { "destination" };
        let metrics = agent.metrics()?;
        let labels = [
            ("reporter", reporter),
            ("source_workload", "client"),
            ("source_version", "v7"),
            ("source_workload_namespace", ns.as_str()),
            ("destination_workload", "server"),
            ("connection_security_policy", "mutual_tls"),
            ("response_flags", "-"),
            ("request_protocol", "tcp"),
        ];
        for name in ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"] {
            ensure!(metrics.sum(name, &labels) == 4.0, "{direction} {name}: {}", metrics.sum(name, &labels));
        }
        let bytes = [
            metrics.sum("istio_tcp_sent_bytes_total", &labels),
            metrics.sum("istio_tcp_received_bytes_total", &labels),
        ];
        ensure!(bytes.iter().any(|b| (300_000.0..301_000.0).contains(b)), "{direction}: {bytes:?}");
        ensure!(bytes.iter().any(|b| (50_000.0..51_000.0).contains(b)), "{direction}: {bytes:?}");
        ensure!(metrics.has("istio_build") && metrics.has("process_open_fds"));
    }
    Ok(())
}

#[test]
fn text_lines_have_the_fields_where_kiali_looks_for_them() -> Result<()> {
    let mesh = Mesh::with(MeshOptions { log_format: "text".to_owned(), ..MeshOptions::default() })?;
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let server = mesh.pod(PodSpec::new("app", "server").on(1))?;
    let _app = server.serve(&["who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    let line = client.agent().says(&["access", "connection complete", "outbound"])?;
    let columns: Vec<&str> = line.split('\t').collect();
    ensure!(
        columns.len() >= 5 && columns[1] == "info" && columns[2] == "access" && columns[3] == "connection complete",
        "{line:?}"
    );
    ensure!(
        columns[4].starts_with("src.addr=")
            && columns[4].contains("src.identity=\"spiffe://")
            && columns[4].contains("direction=\"outbound\""),
        "{line:?}"
    );
    Ok(())
}

#[test]
fn check_finds_this_machine_fit() -> Result<()> {
    let mesh = Mesh::prepare(MeshOptions { nodes: 1, ..MeshOptions::default() })?;
    let agent = &mesh.agents[0];
    let directory = mesh.manifests.to_string_lossy().into_owned();
    let text = agent.culvert_ok(&["check", "--manifests", &directory])?;
    ensure!(text.contains('√') && !text.contains('×'), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&agent.culvert_ok(&["check", "--manifests", &directory, "-o", "json"])?)?;
    ensure!(json.to_string().len() > 50, "{json}");
    Ok(())
}
