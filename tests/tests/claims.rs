//! No manifest of one namespace takes traffic of another.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tests::apps::Server;
use tests::eventually::eventually;
use tests::manifest::{PodSpec, peer_authentication, service};
use tests::mesh::{Mesh, Pod};
use tests::wire::Capture;

const OLD: &str = "metadata:\n  creationTimestamp: \"1999-01-01T00:00:00Z\"\n";

/// A STRICT pod of one namespace, a client of another, and an attacker in a third.
struct Town {
    mesh: Arc<Mesh>,
    bank: String,
    evil: String,
    client: Pod,
    till: Pod,
    thief: Pod,
    vip: String,
    _servers: [Server; 2],
}

fn town() -> Result<Town> {
    let mesh = Mesh::start()?;
    let (bank, evil, shop) = (mesh.namespace("bank"), mesh.namespace("evil"), mesh.namespace("shop"));
    let client = mesh.pod(PodSpec::new(&shop, "client"))?;
    let till = mesh.pod(PodSpec::new(&bank, "till").on(1))?;
    let thief = mesh.pod(PodSpec::new(&evil, "thief"))?;
    let servers = [till.serve(&["who:80"])?, thief.serve(&["who:80"])?];
    let vip = mesh.vips().0;
    mesh.apply("m-strict.yaml", &peer_authentication(&bank, "strict", "till", "STRICT", &[]))?;
    mesh.apply_seen("m-till.yaml", &service(&bank, "till", "till", &[&vip], &[("tcp", 80, "80")]), &vip)?;
    let town = Town { mesh, bank, evil, client, till, thief, vip, _servers: servers };
    town.stands()?;
    Ok(town)
}

impl Town {
    /// Whoever calls the till by its address or by its service reaches the till, and nobody else.
    fn stands(&self) -> Result<()> {
        for caller in [&self.client, &self.thief] {
            for target in [self.till.at(80), self.till.at6(80), format!("{}:80", self.vip).parse()?] {
                let outcome = eventually(&format!("{target} answers"), || caller.call_ok(target, &["who"]))?;
                ensure!(outcome.text.starts_with("server=till "), "{target} is answered by {:?}", outcome.text);
            }
        }
        Ok(())
    }

    fn entry(&self, name: &str, spec: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: {name}\n  namespace: {}\n\
             spec: {{hosts: [{name}.example], ports: [{{number: 80, name: tcp}}], {spec}}}\n",
            self.evil
        )
    }

    fn fake_pod(&self, name: &str, node: &str, netns: &str) -> String {
        let spec = PodSpec::new(&self.evil, name);
        let addresses = [self.till.at(80).ip(), self.till.at6(80).ip()];
        spec.yaml(node, Path::new(netns), &addresses).replacen("metadata:\n", OLD, 1)
    }

    /// The attacker's manifests by name, and the object that the reported problem has to name.
    fn attacks(&self) -> Vec<(&'static str, String, String)> {
        let till = self.till.at(80).ip();
        let IpAddr::V4(v4) = till else { return Vec::new() };
        let [a, b, c, _] = v4.octets();
        let endpoint = format!("resolution: STATIC, endpoints: [{{address: {}}}]", self.thief.at(80).ip());
        let pod = format!("Pod {}/till", self.bank);
        let any_pod = || "Pod ".to_owned();
        let old = |text: String| text.replacen("metadata:\n", OLD, 1);
        let claim = |name: &str, vip: &str| old(service(&self.evil, name, "thief", &[vip], &[("tcp", 80, "80")]));
        vec![
            ("a-address", self.entry("a-address", &format!("addresses: [{till}], {endpoint}")), pod.clone()),
            ("a-range", self.entry("a-range", &format!("addresses: [{a}.{b}.{c}.0/24], {endpoint}")), any_pod()),
            ("a-none", self.entry("a-none", &format!("addresses: [{till}], resolution: NONE")), pod.clone()),
            ("a-everything", self.entry("a-everything", "addresses: [0.0.0.0/0, '::/0'], resolution: NONE"), any_pod()),
            ("a-cluster-ip", claim("a-cluster-ip", &till.to_string()), pod.clone()),
            ("a-vip", claim("a-vip", &self.vip), format!("Service {}/till", self.bank)),
            ("a-pod", self.fake_pod("a-pod", "elsewhere", "/run/netns/nowhere"), pod.clone()),
            ("a-near-pod", self.fake_pod("a-near-pod", "east", "/run/netns/nowhere"), pod),
        ]
    }

    fn problems(&self) -> Result<String> {
        self.mesh.agents[0].culvert_ok(&["get", "problems"])
    }
}

#[test]
fn nothing_that_another_namespace_writes_takes_the_traffic_of_a_strict_pod() -> Result<()> {
    let town = town()?;
    let capture = Capture::start(&town.mesh.net, "walls")?;
    for (name, text, named) in town.attacks() {
        let file = format!("a-{name}.yaml");
        town.mesh.apply_seen(&file, &text, name)?;
        eventually(&format!("{name} is a problem that names {named}"), || {
            let problems = town.problems()?;
            let line = problems.lines().find(|line| line.contains(&format!("/{name}")) && line.contains(&named));
            ensure!(line.is_some(), "{problems}");
            Ok(())
        })?;
        town.stands()?;
    }
    let packets = capture.stop()?;
    ensure!(packets.opened_to(80) == 0, "a plain connection was opened: {:?}", packets.openings());
    ensure!(!packets.contains(b"server=till"), "an answer crossed the wire in clear text");
    // The tunnel may be older than the capture.
    let tunnelled = packets.segments.iter().any(|s| s.destination.port() == 15008 && !s.payload.is_empty());
    ensure!(tunnelled, "nothing was seen of the tunnel: {:?}", packets.openings());
    Ok(())
}

#[test]
fn an_agent_that_starts_between_two_claims_refuses_until_one_of_them_is_gone() -> Result<()> {
    let town = town()?;
    let (name, text) = ("a-pod", town.fake_pod("a-pod", "elsewhere", "/run/netns/nowhere"));
    town.mesh.apply_seen("a-pod.yaml", &text, name)?;
    town.stands()?;
    let capture = Capture::start(&town.mesh.net, "disputed")?;
    // The agent of the till's node sees the till's address in the till's namespace; that of the client's sees nothing.
    town.mesh.agents[1].kill()?;
    town.mesh.agents[1].restart()?;
    town.till.settled()?;
    town.stands()?;
    town.mesh.agents[0].kill()?;
    town.mesh.agents[0].restart()?;
    for target in [town.till.at(80), town.till.at6(80)] {
        town.client.call_refused(target, &["who"])?;
    }
    town.mesh.agents[0].says(&[
        "disputed_address",
        &format!("Pod {}/till", town.bank),
        &format!("Pod {}/a-pod", town.evil),
    ])?;
    town.mesh.withdraw("a-pod.yaml")?;
    town.stands()?;
    let packets = capture.stop()?;
    ensure!(packets.opened_to(80) == 0, "a plain connection was opened: {:?}", packets.openings());
    Ok(())
}
