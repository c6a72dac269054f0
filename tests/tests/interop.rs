//! HBONE with Envoy at the other end, in both roles.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tests::apps::{self, Talk};
use tests::envoy::{Envoy, hbone_client, hbone_server};
use tests::manifest::{PodSpec, authorization, service};
use tests::mesh::{Mesh, MeshOptions};
use tests::pki::Authority;

fn mesh_with_ca() -> Result<(Arc<Mesh>, Authority)> {
    let ca = Authority::new("Test")?;
    Ok((Mesh::with(MeshOptions { ca_files: ca.files(), ..MeshOptions::default() })?, ca))
}

#[test]
fn envoy_as_a_client_reaches_our_workload() -> Result<()> {
    let (mesh, ca) = mesh_with_ca()?;
    let server = mesh.pod(PodSpec::new("app", "server"))?;
    let _app = server.serve(&["echo:7000", "sink:7003", "half:7001"])?;
    let outsider = mesh.net.outsider("envoy")?;
    let leaf = ca.identity("elsewhere", "envoy")?;
    let directory = mesh.net.run.files();
    let mut running = Vec::new();
    for (i, (port, hbone, target)) in [
        (9000, server.at(15008), server.at(7000)),
        (9003, server.at6(15008), server.at6(7003)),
        (9001, server.at(15008), server.at(7001)),
        (9999, server.at(15008), SocketAddr::from(([10, 9, 9, 9], 80))),
    ]
    .into_iter()
    .enumerate()
    {
        let config = hbone_client(&ca, &leaf, &server.identity(), port, hbone, &target.to_string());
        running.push(Envoy::start(&outsider.place, &directory, &format!("client{i}"), &config)?);
    }
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    for (port, exchange) in [(9000, ["echo", "3000000"]), (9003, ["send", "3000000"]), (9001, ["half", "300000"])] {
        let outcome = apps::call(&outsider.place, local(port), &exchange, &[])?;
        ensure!(outcome.ok, "{exchange:?}: {outcome:?}");
    }
    let mut talk = Talk::open(&outsider.place, local(9000), &[])?;
    talk.echo("a word to and fro")?;
    let line = server
        .agent()
        .access("who called", |l| l.get("src.identity") == "spiffe://cluster.local/ns/elsewhere/sa/envoy")?;
    ensure!(line.get("dst.workload") == "server" && line.get("direction") == "inbound", "{}", line.text());
    let wrong = apps::call(&outsider.place, local(9999), &["who"], &["--timeout", "5"])?;
    ensure!(!wrong.ok, "a foreign authority was served: {wrong:?}");
    // Policy knows Envoy by its certificate; its open tunnel does not help it.
    let rule = "  - from:\n    - source:\n        namespaces: [\"elsewhere\"]";
    mesh.apply("deny.yaml", &authorization("app", "no-elsewhere", "server", "DENY", rule))?;
    talk.ended(std::time::Duration::from_secs(5)).context("the open connection is not closed")?;
    let denied = apps::call(&outsider.place, local(9000), &["echo", "10"], &["--timeout", "5"])?;
    ensure!(!denied.ok, "{denied:?}");
    server.agent().access("the refusal", |l| l.get("error").contains("app/no-elsewhere"))?;
    Ok(())
}

#[test]
fn our_workload_reaches_envoy_as_a_server() -> Result<()> {
    let ca = Authority::new("Test")?;
    let mesh = Mesh::prepare(MeshOptions { ca_files: ca.files(), ..MeshOptions::default() })?;
    // The second node has no agent of ours: Envoy ends the tunnels in the pod itself.
    mesh.agents[0].launch()?;
    mesh.agents[0].wait_ready()?;
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let foreign = mesh.pod(PodSpec::new("app", "foreign").on(1))?;
    let app = foreign.serve(&["echo:7000"])?;
    let leaf = ca.identity("app", "foreign")?;
    let authorities = [foreign.at(7000).to_string(), foreign.at6(7000).to_string()];
    let config = hbone_server(&ca, &leaf, &client.identity(), &authorities, ([127, 0, 0, 1], 7000).into());
    let _envoy = Envoy::start(&foreign.place, &mesh.net.run.files(), "server", &config)?;
    let vip = mesh.vips().0;
    mesh.apply_seen("svc.yaml", &service("app", "foreign", "foreign", &[&vip], &[("tcp", 7, "7000")]), &vip)?;
    for target in [foreign.at(7000), foreign.at6(7000), format!("{vip}:7").parse()?] {
        for size in ["0", "1", "65537", "3000000"] {
            client.call_ok(target, &["echo", size])?;
        }
        let mut talk = client.talk(target)?;
        talk.echo("a word to and fro")?;
    }
    ensure!(app.accepted() >= 15, "{}", app.accepted());
    let line = client.agent().access("the call", |l| l.get("dst.identity") == foreign.identity())?;
    ensure!(line.get("src.identity") == client.identity() && line.get("direction") == "outbound", "{}", line.text());
    // What Envoy answers with 404 is a refusal here.
    let refused = client.call_refused(foreign.at(7001), &["who"])?;
    ensure!(refused.millis < 5000, "{refused:?}");
    client.agent().access("the refusal", |l| l.get("error").contains("404"))?;
    Ok(())
}

#[test]
fn envoy_with_the_wrong_name_is_not_talked_to() -> Result<()> {
    let ca = Authority::new("Test")?;
    let mesh = Mesh::prepare(MeshOptions { ca_files: ca.files(), ..MeshOptions::default() })?;
    mesh.agents[0].launch()?;
    mesh.agents[0].wait_ready()?;
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let foreign = mesh.pod(PodSpec::new("app", "foreign").on(1))?;
    let app = foreign.serve(&["echo:7000"])?;
    let authorities = [foreign.at(7000).to_string()];
    let leaf = ca.identity("app", "impostor")?;
    let config = hbone_server(&ca, &leaf, &client.identity(), &authorities, ([127, 0, 0, 1], 7000).into());
    let _envoy = Envoy::start(&foreign.place, &mesh.net.run.files(), "impostor", &config)?;
    client.call_refused(foreign.at(7000), &["echo", "10"])?;
    ensure!(app.accepted() == 0, "the impostor was trusted");
    client
        .agent()
        .access("the refusal", |l| l.get("error").contains("identit") || l.get("error").contains("certificate"))?;
    Ok(())
}
