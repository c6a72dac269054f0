//! Namespaces are walls, where waypoints are concerned: what another namespace writes takes no pod out of the mesh,
//! puts none behind a waypoint and opens none that stands behind one; a waypoint lends nobody its identity; and a port
//! behind one is closed while something guards it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::apps::Server;
use tests::eventually::{allow, always, eventually};
use tests::manifest::{
    GATEWAY_NAME, PodSpec, authorization, guard, peer_authentication, service, service_behind, waypoint,
};
use tests::mesh::{Mesh, Pod};
use tests::pki::{Authority, LeafSpec};
use tests::tunnel::{Tunnel, connect_to};
use tests::waypoint::WaypointPod;

/// `bank` has a vault, which asks for identities; `evil` has a pod in the mesh and one outside of it.
struct Walls {
    mesh: Arc<Mesh>,
    ca: &'static Authority,
    bank: String,
    evil: String,
    vault: Pod,
    insider: Pod,
    outsider: Pod,
    friend: Pod,
    _app: Server,
}

const QUICK: [&str; 2] = ["--timeout", "3000"];

fn walls(stem: &str, mtls: &str) -> Result<Walls> {
    let (mesh, ca) = Mesh::shared_with_ca()?;
    let (bank, evil) = (mesh.namespace(&format!("bank-{stem}")), mesh.namespace(&format!("evil-{stem}")));
    mesh.apply(&format!("strict-{bank}.yaml"), &peer_authentication(&bank, "all", "", mtls, &[]))?;
    let vault = mesh.pod(PodSpec::new(&bank, "vault").on(1))?;
    let friend = mesh.pod(PodSpec::new(&bank, "friend"))?;
    let insider = mesh.pod(PodSpec::new(&evil, "insider"))?;
    let outsider = mesh.pod(PodSpec::new(&evil, "outsider").plain())?;
    let app = vault.serve(&["http:8080", "echo:7000"])?;
    Ok(Walls { mesh, ca, bank, evil, vault, insider, outsider, friend, _app: app })
}

impl Walls {
    fn status(&self, from: &Pod, at: SocketAddr) -> Result<u16> {
        Ok(from.fetch(at, &QUICK)?.status)
    }

    /// Applies what `evil` writes, beside a service whose name shows when every agent has read it.
    fn evil_says(&self, mark: &str, text: &str) -> Result<()> {
        let marked = service(&self.evil, mark, "nobody", &[], &[("x", 1, "1")]) + "---\n" + text;
        self.mesh.apply_seen(&format!("evil-{}.yaml", self.evil), &marked, &format!("{mark}.{}.svc", self.evil))
    }

    /// A service of `evil` with one endpoint, written in a slice; `metadata` are more lines of its labels.
    fn trap(&self, vip: &str, labels: &str, endpoint: &str, ports: &[(&str, u16)]) -> String {
        let evil = &self.evil;
        let of_service: String = ports
            .iter()
            .map(|(name, port)| format!("  - {{name: {name}, port: {port}, targetPort: {port}}}\n"))
            .collect();
        let of_slice: String = ports.iter().map(|(name, port)| format!("- {{name: {name}, port: {port}}}\n")).collect();
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: trap\n  namespace: {evil}\n  labels: {{x: y{labels}}}\n\
             spec:\n  clusterIP: {vip}\n  ports:\n{of_service}---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: trap\n  namespace: {evil}\n  \
             labels: {{kubernetes.io/service-name: trap}}\naddressType: IPv4\nports:\n{of_slice}endpoints:\n- {{{endpoint}}}\n"
        )
    }

    fn gateway_at(&self, address: &str) -> String {
        waypoint(&self.evil, "trap", "service") + &format!("status:\n  addresses:\n  - {{{address}}}\n")
    }

    fn problem(&self, words: &[&str]) -> Result<()> {
        eventually(&format!("a problem says {words:?}"), || {
            let said = self.vault.agent().culvert_ok(&["get", "problems"])?;
            let found = said.lines().any(|line| words.iter().all(|word| line.contains(word)));
            ensure!(found, "{said}");
            Ok(())
        })
    }
}

#[test]
fn nobody_takes_another_namespaces_pod_out_of_the_mesh() -> Result<()> {
    let w = walls("capture", "STRICT")?;
    let (address, at) = (w.vault.ip4.to_string(), w.vault.at(7000));
    let (vip4, _) = w.mesh.vips();
    let (trap_vip, _) = w.mesh.vips();
    let front = service(&w.bank, "front", "vault", &[&vip4], &[("tcp", 7000, "7000")]);
    w.mesh.apply(&format!("front-{}.yaml", w.bank), &front)?;
    let of_gateway = format!(", {GATEWAY_NAME}: trap");
    let hbone = [("hbone", 15008)];
    let slice = |endpoint: &str| {
        waypoint(&w.evil, "trap", "service") + "---\n" + &w.trap(&trap_vip, &of_gateway, endpoint, &hbone)
    };
    let target_ref = format!("addresses: [10.9.9.9], targetRef: {{kind: Pod, name: vault, namespace: {}}}", w.bank);
    for (mark, text, who) in [
        ("by-slice", slice(&format!("addresses: [{address}]")), "EndpointSlice"),
        ("by-name", slice(&target_ref), "EndpointSlice"),
        ("by-address", w.gateway_at(&format!("value: {address}")), "Gateway"),
        ("by-vip", w.gateway_at(&format!("value: {vip4}")), "Gateway"),
        ("by-host", w.gateway_at(&format!("type: Hostname, value: front.{}.svc.cluster.local", w.bank)), "Gateway"),
    ] {
        w.evil_says(mark, &text)?;
        always(
            allow(Duration::from_millis(400)),
            &format!("{mark}: nobody without identity reaches the vault"),
            || {
                let outcome = w.outsider.call(at, &["echo", "10"])?;
                ensure!(!outcome.ok, "{outcome:?}");
                Ok(())
            },
        )?;
        w.vault.captured(true)?;
        w.friend.call_ok(at, &["echo", "10"])?;
        w.problem(&[who, &w.evil, &w.bank, "root namespace"]).with_context(|| mark.to_owned())?;
    }
    Ok(())
}

#[test]
fn an_endpoint_shuts_nobody_out_of_another_namespaces_pod() -> Result<()> {
    let w = walls("shut", "STRICT")?;
    let (vip, _) = w.mesh.vips();
    let endpoint = format!("addresses: [{}]", w.vault.ip4);
    let strict = ", istio.io/use-waypoint: nothere, culvert.dev/waypoint-enforcement: strict";
    w.evil_says("shut", &w.trap(&vip, strict, &endpoint, &[("tcp", 7000), ("http", 8080)]))?;
    w.friend.call_ok(w.vault.at(7000), &["echo", "10"])?;
    ensure!(w.status(&w.friend, w.vault.at(8080))? == 200, "shut out");
    w.problem(&["EndpointSlice", &w.evil, &format!("Pod {}/vault", w.bank), "nothere"])
}

#[test]
fn an_endpoint_opens_no_port_behind_another_namespaces_waypoint() -> Result<()> {
    let w = walls("open", "STRICT")?;
    let (bank, evil) = (&w.bank, &w.evil);
    // The vault stands behind a waypoint of its own, for its service and for itself.
    w.mesh.apply(&format!("gateway-{bank}.yaml"), &waypoint(bank, "wp", "all"))?;
    w.mesh.apply(&format!("guard-{bank}.yaml"), &guard(bank, "Gateway", "wp"))?;
    let (vip, _) = w.mesh.vips();
    let front = service_behind("wp", bank, "front", "vault", &[&vip], &[("http", 80, "8080")]);
    let namespace = format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {bank}\n  labels:\n    istio.io/use-waypoint: wp\n"
    );
    w.mesh.apply(&format!("front-{bank}.yaml"), &(front + &namespace))?;
    let gate = WaypointPod::start(&w.mesh, "wp", PodSpec::new(bank, "wp-1").account("wp"))?;
    let vip = SocketAddr::new(vip.parse()?, 80);
    eventually("the friend reaches the vault through its waypoint", || {
        ensure!(w.status(&w.friend, vip)? == 200, "{}", gate.waypoint.log_tail());
        Ok(())
    })?;
    let (trap_vip, _) = w.mesh.vips();
    let endpoint = format!("addresses: [{}]", w.vault.ip4);
    let ports = [("http", 8080)];
    let trap = SocketAddr::new(trap_vip.parse()?, 8080);
    // Past it, by a service that names no waypoint.
    w.evil_says("past", &w.trap(&trap_vip, ", istio.io/use-waypoint: none", &endpoint, &ports))?;
    always(allow(Duration::from_millis(400)), "nobody gets past the waypoint", || {
        for at in [trap, w.vault.at(8080)] {
            ensure!(w.status(&w.outsider, at)? == 0, "without identity, {at}");
        }
        ensure!(w.status(&w.insider, trap)? == 0, "with one");
        Ok(())
    })?;
    w.problem(&["EndpointSlice", evil, &format!("Pod {bank}/vault"), &format!("behind waypoint {bank}/wp")])?;
    // Through the attacker's own waypoint.
    let own = w.trap(&trap_vip, ", istio.io/use-waypoint: own", &endpoint, &ports);
    w.evil_says("through", &(waypoint(evil, "own", "service") + "---\n" + &own))?;
    let theirs = WaypointPod::start(&w.mesh, "own", PodSpec::new(evil, "own-1").account("own"))?;
    eventually("the attacker's waypoint answers, and not for the vault", || {
        let status = w.status(&w.insider, trap)?;
        ensure!(status != 0 && status != 200, "{status}; {}", theirs.waypoint.log_tail());
        Ok(())
    })?;
    always(allow(Duration::from_millis(400)), "nor through another", || {
        let status = w.status(&w.insider, trap)?;
        ensure!(status != 200, "the attacker's waypoint reached the vault");
        Ok(())
    })?;
    let identity = format!("spiffe://cluster.local/ns/{evil}/sa/own");
    w.vault.agent().access("the attacker's waypoint is refused", |l| {
        l.get("src.identity") == identity && l.get("error").contains("bypassed_waypoint")
    })?;
    Ok(())
}

/// What a CONNECT to the vault is answered, of a peer that names a client.
fn named(w: &Walls, peer: &str, client: Option<&str>) -> Result<Option<u16>> {
    let leaf = w.ca.leaf(&LeafSpec::of(peer))?;
    let mut tunnel = Tunnel::open(&w.friend.node.place, w.vault.at(15008), &leaf)?;
    let mut head = connect_to(&w.vault.at(7000).to_string())?;
    if let Some(client) = client {
        head.headers_mut().insert("x-mesh-source", client.parse()?);
    }
    Ok(tunnel.request(head, b"")?.status)
}

#[test]
fn to_name_a_client_gives_nobody_more_than_it_has() -> Result<()> {
    let w = walls("named", "STRICT")?;
    let rules = format!("  - from:\n    - source:\n        namespaces: [\"{}\"]\n", w.bank);
    let policy = authorization(&w.bank, "only-bank-here", "vault", "ALLOW", &rules);
    w.mesh.apply_seen(&format!("policy-{}.yaml", w.bank), &policy, "only-bank-here")?;
    let gate = format!("spiffe://cluster.local/ns/{}/sa/gate", w.bank);
    let (friend, insider) = (w.friend.identity(), w.insider.identity());
    for (peer, client, expected) in [
        (&gate, None, 200),
        (&gate, Some(friend.as_str()), 200),
        (&gate, Some(insider.as_str()), 401),
        (&insider, Some(friend.as_str()), 401),
        (&insider, None, 401),
        (&gate, Some("nobody"), 400),
        (&gate, Some(""), 400),
    ] {
        let status = named(&w, peer, client)?;
        ensure!(status == Some(expected), "{peer} for {client:?}: {status:?}");
    }
    let agent = w.vault.agent();
    let line = agent.access("the client that was named is refused", |l| {
        l.get("src.identity") == gate && l.get("error").contains(&insider)
    })?;
    ensure!(line.get("error").contains("none allowed") && line.get("src.via").is_empty(), "{}", line.text());
    agent.access("the peer itself is refused", |l| {
        l.get("src.identity") == insider && l.get("error").contains("the peer itself")
    })?;
    for refused in ["client", "peer"] {
        let counted = agent.metrics()?.sum("culvert_named_client_refusals_total", &[("refused", refused)]);
        ensure!(counted >= 1.0, "{refused}: {counted}");
    }
    Ok(())
}

#[test]
fn a_waypoint_lends_its_identity_to_nobody_not_even_to_what_is_open() -> Result<()> {
    let w = walls("lend", "STRICT")?;
    let shop = w.mesh.namespace("shop");
    // `shop` puts the vault behind its own waypoint, by a slice, and lets `evil` use the service.
    let (vip, _) = w.mesh.vips();
    let front =
        w.trap(&vip, ", istio.io/use-waypoint: gate", &format!("addresses: [{}]", w.vault.ip4), &[("tcp", 7000)]);
    let front = front.replace(&w.evil, &shop);
    w.mesh.apply(&format!("front-{shop}.yaml"), &(waypoint(&shop, "gate", "service") + "---\n" + &front))?;
    let gate = WaypointPod::start(&w.mesh, "gate", PodSpec::new(&shop, "gate-1").account("gate"))?;
    let customer = w.mesh.pod(PodSpec::new(&shop, "customer"))?;
    let at = SocketAddr::new(vip.parse()?, 7000);
    let talk = |from: &Pod| {
        eventually(&format!("{} reaches the vault through the gate", from.spec.name), || {
            let mut talk = from.talk(at)?;
            talk.echo("hello").with_context(|| gate.waypoint.log_tail())?;
            Ok(talk)
        })
    };
    let (mut by_shop, mut by_evil) = (talk(&customer)?, talk(&w.insider)?);
    let rules = format!("  - from:\n    - source:\n        namespaces: [\"{shop}\"]\n");
    let policy = authorization(&w.bank, "only-shop-here", "vault", "ALLOW", &rules);
    w.mesh.apply_seen(&format!("policy-{}.yaml", w.bank), &policy, "only-shop-here")?;
    by_evil.ended(allow(Duration::from_secs(5))).context("what evil has open ends")?;
    by_shop.echo("still")?;
    talk(&customer)?;
    w.insider.call_refused(at, &["echo", "10"])?;
    let gate_identity = format!("spiffe://cluster.local/ns/{shop}/sa/gate");
    w.vault.agent().access("the client is refused, not the gate", |l| {
        l.get("src.identity") == gate_identity && l.get("error").contains(&w.insider.identity())
    })?;
    Ok(())
}

#[test]
fn a_port_behind_a_waypoint_is_closed_while_something_guards_it() -> Result<()> {
    let w = walls("guard", "PERMISSIVE")?;
    let bank = &w.bank;
    w.mesh.apply(&format!("gateway-{bank}.yaml"), &waypoint(bank, "wp", "service"))?;
    let (vip, _) = w.mesh.vips();
    let front = service_behind("wp", bank, "front", "vault", &[&vip], &[("http", 80, "8080"), ("tcp", 7000, "7000")]);
    let file = format!("front-{bank}.yaml");
    w.mesh.apply(&file, &front)?;
    let gate = WaypointPod::start(&w.mesh, "wp", PodSpec::new(bank, "wp-1").account("wp"))?;
    let vip = SocketAddr::new(vip.parse()?, 80);
    let through = || {
        eventually("the friend reaches the vault through its waypoint", || {
            ensure!(w.status(&w.friend, vip)? == 200, "{}", gate.waypoint.log_tail());
            Ok(())
        })
    };
    let past = |open: bool, why: &str| {
        eventually(&format!("past the waypoint the vault is open: {open} ({why})"), || {
            for from in [&w.friend, &w.outsider] {
                let status = w.status(from, w.vault.at(8080))?;
                ensure!((status == 200) == open, "{}: {status}", from.spec.name);
            }
            Ok(())
        })
    };
    through()?;
    past(true, "nothing guards it")?;
    let explained = || -> Result<String> {
        let source = format!("{bank}/friend");
        let said = w.vault.agent().culvert(&["explain", &source, &w.vault.at(8080).to_string()])?;
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    };
    let said = explained()?;
    ensure!(said.contains(&format!("is open past waypoint {bank}/wp: nothing guards it there")), "{said}");
    let guards = format!("guard-{bank}.yaml");
    let tokens = guard(bank, "Gateway", "wp")
        .replace("AuthorizationPolicy", "RequestAuthentication")
        .replace("rules:\n  - {}\n", "jwtRules: []\n");
    let limit = format!(
        "apiVersion: culvert.dev/v1alpha1\nkind: MeshPolicy\nmetadata:\n  name: limit\n  namespace: {bank}\nspec:\n  \
         targetRefs:\n  - {{group: \"\", kind: Service, name: front}}\n  rateLimit:\n    requestsPerSecond: 1000\n"
    );
    for (what, text) in [
        ("AuthorizationPolicy", guard(bank, "Service", "front")),
        ("RequestAuthentication", tokens),
        ("MeshPolicy", limit),
    ] {
        let (mut tunnelled, mut plain) = (w.friend.talk(w.vault.at(7000))?, w.outsider.talk(w.vault.at(7000))?);
        tunnelled.echo("before")?;
        plain.echo("before")?;
        w.mesh.apply(&guards, &text)?;
        for talk in [&mut tunnelled, &mut plain] {
            talk.ended(allow(Duration::from_secs(5))).with_context(|| format!("open when a {what} came"))?;
        }
        past(false, what)?;
        through()?;
        let said = explained()?;
        ensure!(said.contains(&format!("takes only what came through waypoint {bank}/wp: {what} {bank}/")), "{said}");
        w.mesh.withdraw(&guards)?;
        past(true, "the guard is gone")?;
    }
    // The words.
    let label = |word: &str| {
        let labels = format!("    istio.io/use-waypoint: wp\n    culvert.dev/waypoint-enforcement: \"{word}\"\n");
        front.replace("    istio.io/use-waypoint: wp\n", &labels)
    };
    w.mesh.apply(&file, &label("strict"))?;
    past(false, "strict")?;
    w.mesh.apply(&guards, &guard(bank, "Gateway", "wp"))?;
    w.mesh.apply(&file, &label("off"))?;
    past(true, "off")?;
    through()
}

#[test]
fn a_headless_service_behind_a_waypoint_works_until_something_guards_it_and_then_it_is_told() -> Result<()> {
    let w = walls("headless", "STRICT")?;
    let bank = &w.bank;
    w.mesh.apply(&format!("gateway-{bank}.yaml"), &waypoint(bank, "wp", "service"))?;
    let headless = service_behind("wp", bank, "db", "vault", &[], &[("tcp", 7000, "7000")]);
    w.mesh.apply_seen(&format!("db-{bank}.yaml"), &headless, &format!("db.{bank}.svc"))?;
    w.friend.call_ok(w.vault.at(7000), &["echo", "10"])?;
    w.mesh.apply(&format!("guard-{bank}.yaml"), &guard(bank, "Service", "db"))?;
    eventually("the pod is closed", || w.friend.call_refused(w.vault.at(7000), &["echo", "10"]).map(drop))?;
    w.problem(&[
        &format!("Service {bank}/db"),
        &format!("AuthorizationPolicy {bank}/guard"),
        "clusterIP",
        "culvert.dev/waypoint-enforcement: off",
    ])
}
