//! Who may talk to whom: PeerAuthentication and AuthorizationPolicy, enforced at the destination.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::apps::Server;
use tests::eventually::{allow, eventually};
use tests::manifest::{PodSpec, authorization, peer_authentication};
use tests::mesh::{Mesh, Pod};

use crate::{FAR, mesh, options};

/// A client, an intruder and an outsider without identity on one node, and a server.
struct Scene {
    mesh: Arc<Mesh>,
    ns: String,
    client: Pod,
    intruder: Pod,
    plain: Pod,
    server: Pod,
    app: Server,
}

fn scene(stem: &str) -> Result<Scene> {
    scene_in(mesh()?, stem)
}

fn scene_in(mesh: Arc<Mesh>, stem: &str) -> Result<Scene> {
    let ns = mesh.namespace(stem);
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let intruder = mesh.pod(PodSpec::new(&format!("{ns}-other"), "intruder"))?;
    let plain = mesh.pod(PodSpec::new(&ns, "plain").plain())?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(FAR))?;
    let app = server.serve(&["who:80", "who:81", "echo:7000"])?;
    Ok(Scene { mesh, ns, client, intruder, plain, server, app })
}

impl Scene {
    /// Applies a policy and waits until the server's agent has it.
    fn policy(&self, name: &str, yaml: &str) -> Result<()> {
        let generation = format!("{}-{name}", self.ns);
        self.mesh.apply(&format!("policy-{generation}.yaml"), yaml)
    }

    fn withdraw(&self, name: &str) -> Result<()> {
        self.mesh.withdraw(&format!("policy-{}-{name}.yaml", self.ns))
    }

    /// Waits until these callers get through to a port, and these do not; over both families.
    fn may(&self, port: u16, allowed: &[&Pod], denied: &[&Pod]) -> Result<()> {
        eventually(&format!("port {port}: {} may, {} may not", names(allowed), names(denied)), || {
            for target in [self.server.at(port), self.server.at6(port)] {
                for pod in allowed {
                    let outcome = pod.call(target, &["who"])?;
                    ensure!(outcome.ok, "{} cannot reach {target}: {outcome:?}", pod.spec.name);
                }
                for pod in denied {
                    let outcome = pod.call(target, &["who"])?;
                    ensure!(!outcome.ok, "{} can reach {target}", pod.spec.name);
                }
            }
            Ok(())
        })
    }
}

fn names(pods: &[&Pod]) -> String {
    format!("{:?}", pods.iter().map(|p| p.spec.name.as_str()).collect::<Vec<_>>())
}

#[test]
fn strict_refuses_plain_text_and_permissive_and_disable_do_not() -> Result<()> {
    let s = scene("modes")?;
    for mode in ["STRICT", "PERMISSIVE", "STRICT", "DISABLE", "STRICT", "UNSET"] {
        s.policy("mode", &peer_authentication(&s.ns, "mode", "", mode, &[]))?;
        match mode {
            "STRICT" => s.may(80, &[&s.client], &[&s.plain])?,
            _ => s.may(80, &[&s.client, &s.plain], &[])?,
        }
    }
    let line = s.server.agent().access("the refusal", |l| {
        l.get("direction") == "inbound"
            && l.get("src.addr").starts_with(&s.plain.ip4.to_string())
            && !l.get("error").is_empty()
    })?;
    ensure!(line.get("dst.workload") == "server", "{}", line.text());
    Ok(())
}

#[test]
fn a_port_may_differ_and_a_workload_beats_its_namespace() -> Result<()> {
    let s = scene("levels")?;
    s.policy("ns", &peer_authentication(&s.ns, "ns", "", "STRICT", &[]))?;
    s.may(80, &[&s.client], &[&s.plain])?;
    s.policy("one", &peer_authentication(&s.ns, "one", "server", "PERMISSIVE", &[]))?;
    s.may(80, &[&s.client, &s.plain], &[])?;
    s.policy("one", &peer_authentication(&s.ns, "one", "server", "PERMISSIVE", &[(81, "STRICT")]))?;
    s.may(81, &[&s.client], &[&s.plain])?;
    s.may(80, &[&s.client, &s.plain], &[])?;
    s.policy("one", &peer_authentication(&s.ns, "one", "server", "STRICT", &[(81, "PERMISSIVE")]))?;
    s.may(80, &[&s.client], &[&s.plain])?;
    s.may(81, &[&s.client, &s.plain], &[])?;
    s.withdraw("one")?;
    s.may(81, &[&s.client], &[&s.plain])
}

#[test]
fn the_root_namespace_speaks_for_all_until_a_namespace_differs() -> Result<()> {
    let s = scene_in(Mesh::with(options())?, "root")?;
    for root in ["istio-system", "culvert-system"] {
        s.policy("root", &peer_authentication(root, "default", "", "STRICT", &[]))?;
        s.may(80, &[&s.client], &[&s.plain])?;
        s.policy("ns", &peer_authentication(&s.ns, "ns", "", "PERMISSIVE", &[]))?;
        s.may(80, &[&s.client, &s.plain], &[])?;
        s.withdraw("ns")?;
        s.may(80, &[&s.client], &[&s.plain])?;
        s.withdraw("root")?;
        s.may(80, &[&s.client, &s.plain], &[])?;
    }
    // An authorization in the root namespace reaches every workload too.
    s.policy(
        "global",
        &authorization(
            "istio-system",
            "no-strangers",
            "",
            "DENY",
            &rule_from(&format!("namespaces: [\"{}-other\"]", s.ns)),
        ),
    )?;
    s.may(80, &[&s.client, &s.plain], &[&s.intruder])
}

pub(crate) fn rule_from(source: &str) -> String {
    format!("  - from:\n    - source:\n        {source}")
}

fn rule_to(operation: &str) -> String {
    format!("  - to:\n    - operation:\n        {operation}")
}

#[test]
fn every_field_of_the_source_is_judged() -> Result<()> {
    let s = scene("fields")?;
    let (client, other) = (s.client.identity(), s.intruder.identity());
    let (client, other) =
        (client.trim_start_matches("spiffe://").to_owned(), other.trim_start_matches("spiffe://").to_owned());
    let ns = &s.ns;
    // What an ALLOW with this source lets through besides nobody: (source, client, intruder, plain).
    let cases = [
        (format!("principals: [\"{client}\"]"), [true, false, false]),
        (format!("principals: [\"cluster.local/ns/{ns}/*\"]"), [true, false, false]),
        ("principals: [\"*/sa/intruder\"]".to_owned(), [false, true, false]),
        ("principals: [\"*\"]".to_owned(), [true, true, false]),
        (format!("notPrincipals: [\"{other}\"]"), [true, false, true]),
        (format!("namespaces: [\"{ns}\"]"), [true, false, false]),
        (format!("namespaces: [\"{ns}*\"]"), [true, true, false]),
        (format!("notNamespaces: [\"{ns}-other\"]"), [true, false, true]),
        (format!("serviceAccounts: [\"{ns}/client\"]"), [true, false, false]),
        (format!("notServiceAccounts: [\"{ns}/client\"]"), [false, true, true]),
        (format!("ipBlocks: [\"{}\", \"{}/128\"]", s.client.ip4, s.client.ip6), [true, false, false]),
        (format!("notIpBlocks: [\"{}/32\", \"{}\"]", s.plain.ip4, s.plain.ip6), [true, true, false]),
        ("ipBlocks: [\"10.244.0.0/16\", \"fd00:244::/32\"]".to_owned(), [true, true, true]),
    ];
    for (source, verdicts) in cases {
        for (action, name) in [("ALLOW", "field"), ("DENY", "field")] {
            s.policy(name, &authorization(ns, name, "server", action, &rule_from(&source)))?;
            let split = |wanted: bool| -> Vec<&Pod> {
                [&s.client, &s.intruder, &s.plain]
                    .into_iter()
                    .zip(verdicts)
                    .filter(|(_, v)| *v == wanted)
                    .map(|(p, _)| p)
                    .collect()
            };
            let (matching, rest) = (split(true), split(false));
            match action {
                "ALLOW" => s.may(80, &matching, &rest),
                _ => s.may(80, &rest, &matching),
            }
            .with_context(|| format!("{action} {source}"))?;
        }
    }
    Ok(())
}

#[test]
fn ports_are_those_of_the_workload() -> Result<()> {
    let s = scene("toports")?;
    s.policy("ports", &authorization(&s.ns, "ports", "server", "ALLOW", &rule_to("ports: [\"80\"]")))?;
    s.may(81, &[], &[&s.client, &s.plain])?;
    s.may(80, &[&s.client, &s.plain], &[])?;
    s.policy("ports", &authorization(&s.ns, "ports", "server", "DENY", &rule_to("notPorts: [\"80\"]")))?;
    s.may(81, &[], &[&s.client, &s.plain])?;
    s.may(80, &[&s.client, &s.plain], &[])?;
    let when = "  - when:\n    - key: destination.port\n      values: [\"81\"]\n    - key: source.namespace\n      notValues: [\"nowhere\"]";
    s.policy("ports", &authorization(&s.ns, "ports", "server", "ALLOW", when))?;
    s.may(80, &[], &[&s.client])?;
    s.may(81, &[&s.client], &[])
}

#[test]
fn deny_beats_allow_and_the_refusal_names_the_policy_in_log_and_metric() -> Result<()> {
    let s = scene("deny")?;
    s.policy("all", &authorization(&s.ns, "everyone", "server", "ALLOW", "  - {}"))?;
    s.policy(
        "not",
        &authorization(
            &s.ns,
            "no-intruders",
            "server",
            "DENY",
            &rule_from(&format!("namespaces: [\"{}-other\"]", s.ns)),
        ),
    )?;
    s.may(80, &[&s.client, &s.plain], &[&s.intruder])?;
    let name = format!("{}/no-intruders", s.ns);
    let line = s.server.agent().access("the refusal", |l| l.get("error").contains(&name))?;
    ensure!(
        line.get("src.identity") == s.intruder.identity() && line.get("dst.identity") == s.server.identity(),
        "{}",
        line.text()
    );
    ensure!(line.get("error").contains("explicitly denied by"), "{}", line.text());
    let line = s.intruder.agent().access("the other side", |l| {
        l.get("direction") == "outbound"
            && l.get("src.identity") == s.intruder.identity()
            && l.get("error").contains("401")
    })?;
    ensure!(line.get("dst.workload") == "server", "{}", line.text());
    let metrics = s.server.agent().metrics()?;
    let labels = [
        ("reporter", "destination"),
        ("response_flags", "DENY"),
        ("source_workload", "intruder"),
        ("destination_workload_namespace", s.ns.as_str()),
    ];
    ensure!(metrics.sum("istio_tcp_connections_failed_total", &labels) >= 1.0, "the refusal is not counted");
    Ok(())
}

#[test]
fn an_allow_without_rules_lets_nobody_in() -> Result<()> {
    let s = scene("nobody")?;
    s.policy("none", &authorization(&s.ns, "none", "", "ALLOW", ""))?;
    s.may(80, &[], &[&s.client, &s.intruder, &s.plain])?;
    let line = s.server.agent().access("the refusal", |l| {
        l.get("direction") == "inbound" && l.get("src.identity") == s.client.identity() && !l.get("error").is_empty()
    })?;
    ensure!(line.get("error").contains("allow policies exist, but none allowed"), "{}", line.text());
    s.withdraw("none")?;
    s.may(80, &[&s.client, &s.intruder, &s.plain], &[])
}

#[test]
fn a_dry_run_is_logged_and_not_enforced() -> Result<()> {
    let s = scene("dry")?;
    let yaml = authorization(&s.ns, "someday", "server", "DENY", &rule_from("principals: [\"*\"]"))
        .replace("spec:\n", "  annotations:\n    istio.io/dry-run: \"true\"\nspec:\n");
    s.policy("dry", &yaml)?;
    let name = format!("{}/someday", s.ns);
    eventually("the dry run shows", || {
        s.client.call_ok(s.server.at(80), &["who"])?;
        ensure!(s.server.agent().log_text().lines().any(|l| l.contains(&name)), "no line names {name}");
        Ok(())
    })?;
    s.may(80, &[&s.client, &s.plain], &[])
}

#[test]
fn rules_that_only_a_waypoint_can_judge_fail_safe() -> Result<()> {
    let s = scene("l7")?;
    // An ALLOW with a path is dropped, so nothing is allowed; a DENY keeps what is left of it and denies more.
    s.policy("l7", &authorization(&s.ns, "l7", "server", "ALLOW", &rule_to("paths: [\"/\"]")))?;
    s.may(80, &[], &[&s.client, &s.plain])?;
    let mixed = "  - from:\n    - source:\n        serviceAccounts: [\"NS/client\"]\n    to:\n    - operation:\n        methods: [\"POST\"]";
    s.policy("l7", &authorization(&s.ns, "l7", "server", "DENY", &mixed.replace("NS", &s.ns)))?;
    s.may(80, &[&s.intruder, &s.plain], &[&s.client])
}

#[test]
fn a_policy_change_closes_what_it_forbids_within_a_second_and_leaves_the_rest() -> Result<()> {
    let s = scene("change")?;
    let mut stay = [s.client.talk(s.server.at(7000))?, s.client.talk(s.server.at6(7000))?];
    let mut go = [s.intruder.talk(s.server.at(7000))?, s.intruder.talk(s.server.at6(7000))?];
    let mut plain = [s.plain.talk(s.server.at(7000))?, s.plain.talk(s.server.at6(7000))?];
    for talk in stay.iter_mut().chain(&mut go).chain(&mut plain) {
        talk.echo("open")?;
    }
    let changed = Instant::now();
    s.policy(
        "change",
        &authorization(
            &s.ns,
            "only-client",
            "server",
            "DENY",
            &rule_from(&format!("namespaces: [\"{}-other\"]", s.ns)),
        ),
    )?;
    for talk in &mut go {
        talk.ended(Duration::from_secs(10)).context("a forbidden connection stays open")?;
    }
    let took = changed.elapsed();
    ensure!(took <= allow(Duration::from_secs(1)), "it took {took:?}");
    for talk in stay.iter_mut().chain(&mut plain) {
        talk.echo("still open")?;
    }
    let name = format!("{}/only-client", s.ns);
    s.server.agent().access("the closing", |l| l.get("error").contains("policy change") && l.text().contains(&s.ns))?;
    // Plain text that the kernel let straight through is closed as well.
    let changed = Instant::now();
    s.policy("strict", &peer_authentication(&s.ns, "strict", "", "STRICT", &[]))?;
    for talk in &mut plain {
        talk.ended(Duration::from_secs(10)).context("forbidden plain text stays open")?;
    }
    let took = changed.elapsed();
    ensure!(took <= allow(Duration::from_secs(1)), "it took {took:?}");
    for talk in &mut stay {
        talk.echo("open to the end")?;
    }
    ensure!(s.app.accepted() == 6, "{name}: a connection was opened anew");
    Ok(())
}

#[test]
fn the_hbone_port_is_no_way_around_a_policy_for_a_port() -> Result<()> {
    let s = scene("around")?;
    s.policy("around", &authorization(&s.ns, "around", "server", "DENY", &rule_to("ports: [\"80\"]")))?;
    s.may(80, &[], &[&s.client, &s.plain])?;
    // Nor can an enrolled application dial the tunnel port itself.
    for target in [s.server.at(15008), s.server.at6(15008)] {
        s.client.call_refused(target, &["who"])?;
    }
    Ok(())
}
