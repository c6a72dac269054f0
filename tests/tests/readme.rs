//! The commands of the documentation work as they are written.

use anyhow::{Context, Result, ensure};
use tests::apps::binary;
use tests::eventually::eventually;
use tests::manifest::{PodSpec, guard, service};
use tests::mesh::Mesh;
use tests::process::Process;
use tests::programs;

#[test]
fn four_commands_put_a_service_behind_a_waypoint() -> Result<()> {
    let mesh = Mesh::start()?;
    let client = mesh.pod(PodSpec::new("guest", "client"))?;
    let server = mesh.pod(PodSpec::new("shop", "orders").on(1))?;
    let _app = server.serve(&["http:8080"])?;
    mesh.apply("orders.yaml", &service("shop", "orders", "orders", &["10.96.0.10"], &[("http", 80, "8080")]))?;
    let gate = mesh.pod_unseen(PodSpec::new("shop", "gate"))?;

    let guide = include_str!("../../docs/waypoint.md");
    let block = guide.split("To put the services of namespace").nth(1).context("the section is gone")?;
    let block = block.split("```sh\n").nth(1).and_then(|rest| rest.split("\n```").next()).context("no commands")?;
    let netns = gate.place.netns.file_name().context("a namespace has a name")?.to_string_lossy().into_owned();
    let block = block
        .replace("/etc/culvert", &mesh.manifests.to_string_lossy())
        .replace("/var/lib/culvert/ca", &mesh.ca_dir.to_string_lossy())
        .replace("exec gate culvert-waypoint", &format!("exec {netns} culvert-waypoint"))
        .replace("culvert-waypoint --gateway", &format!("{} --gateway", binary("culvert-waypoint", "")?.display()))
        .replace("10.244.0.18", &gate.ip4.to_string());
    ensure!(block.matches("<<'END'").count() == 3, "{block}");
    let (prepare, last) = block.split_once("\nip netns exec ").context("the last command starts the waypoint")?;
    let last = format!("ip netns exec {last}");
    // The last one runs until it is told to stop.
    let command = programs::script(format!("{prepare}\nexec {last}"))?;
    let log = mesh.net.run.files().join("readme.log");
    let _waypoint = Process::logging(&gate.place, command, &log)?;

    eventually("the client's call passes the waypoint", || {
        let answer = client.fetch("10.96.0.10:80".parse()?, &[])?;
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(answer.status == 200, "{answer:?}; {log}");
        let cert = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
        ensure!(cert.contains("ns/shop/sa/gate") && cert.contains("ns/guest/sa/client"), "{cert}");
        Ok(())
    })?;
    let past = |expected: u16| {
        eventually(&format!("a call of the pod itself ends with {expected}"), || {
            let past = client.fetch(server.at(8080), &["--timeout", "3000"])?;
            ensure!(past.status == expected, "{past:?}");
            Ok(())
        })
    };
    past(200)?;
    // Nobody gets past the waypoint once something there guards the service.
    mesh.apply("guard.yaml", &guard("shop", "Gateway", "gate"))?;
    past(0)
}
