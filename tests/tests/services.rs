//! Where a connection goes: services, their ports and endpoints.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tests::eventually::eventually;
use tests::manifest::{PodSpec, service};
use tests::mesh::{Mesh, Pod};

struct Shop {
    mesh: Arc<Mesh>,
    ns: String,
    client: Pod,
    vip: (String, String),
}

fn shop(stem: &str) -> Result<Shop> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace(stem);
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let vip = mesh.vips();
    Ok(Shop { mesh, ns, client, vip })
}

impl Shop {
    fn service(&self, name: &str, app: &str, ports: &[(&str, u16, &str)]) -> Result<()> {
        let yaml = service(&self.ns, name, app, &[&self.vip.0, &self.vip.1], ports);
        self.mesh.apply_seen(&format!("svc-{}-{name}.yaml", self.ns), &yaml, &self.vip.0)
    }

    fn targets(&self, port: u16) -> Result<[std::net::SocketAddr; 2]> {
        Ok([format!("{}:{port}", self.vip.0).parse()?, format!("[{}]:{port}", self.vip.1).parse()?])
    }
}

#[test]
fn a_service_address_leads_to_every_ready_endpoint_on_either_node() -> Result<()> {
    let shop = shop("vip")?;
    let pods: Vec<Pod> = (0..3)
        .map(|i| {
            shop.mesh.pod(PodSpec::new(&shop.ns, &format!("web{i}")).on(i % 2).label("tier", "web").account("web"))
        })
        .collect::<Result<_>>()?;
    let _servers: Vec<_> = pods.iter().map(|p| p.serve(&["who:8080"])).collect::<Result<_>>()?;
    let yaml = service(&shop.ns, "web", "x", &[&shop.vip.0, &shop.vip.1], &[("http", 80, "8080")])
        .replace("app: x", "tier: web");
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &yaml, &shop.vip.0)?;
    let mut answered = BTreeSet::new();
    for _ in 0..12 {
        for target in shop.targets(80)? {
            let outcome = shop.client.call_ok(target, &["who"])?;
            ensure!(outcome.peer == Some(target), "{outcome:?}");
            answered.insert(outcome.text.split(' ').next().unwrap_or_default().to_owned());
        }
    }
    ensure!(answered.len() == 3, "only {answered:?} answered");
    let name = format!("web.{}.svc.cluster.local", shop.ns);
    let line = shop.client.agent().access("the call to the service", |l| l.get("dst.service") == name)?;
    ensure!(
        line.get("dst.identity").ends_with("/sa/web") && line.get("src.identity") == shop.client.identity(),
        "{}",
        line.text()
    );
    Ok(())
}

#[test]
fn named_target_ports_are_resolved_for_each_pod_and_ports_are_kept_apart() -> Result<()> {
    let shop = shop("named")?;
    let one =
        shop.mesh.pod(PodSpec::new(&shop.ns, "one").on(1).label("set", "a").port("web", 8081).port("admin", 9091))?;
    let two = shop.mesh.pod(PodSpec::new(&shop.ns, "two").label("set", "a").port("web", 8082).port("admin", 9092))?;
    let _servers = (one.serve(&["who:8081", "first:9091"])?, two.serve(&["who:8082", "first:9092"])?);
    let ports = [("http", 80, "web"), ("admin", 81, "admin")];
    let yaml = service(&shop.ns, "named", "x", &[&shop.vip.0, &shop.vip.1], &ports).replace("app: x", "set: a");
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &yaml, &shop.vip.0)?;
    let mut answered = BTreeSet::new();
    for _ in 0..8 {
        for target in shop.targets(80)? {
            let text = shop.client.call_ok(target, &["who"])?.text;
            let right = text.starts_with("server=one") && text.contains(":8081")
                || text.starts_with("server=two") && text.contains(":8082");
            ensure!(right, "{text}");
            answered.insert(text.split(' ').next().unwrap_or_default().to_owned());
        }
        for target in shop.targets(81)? {
            let text = shop.client.call_ok(target, &["first"])?.text;
            ensure!(text.starts_with("220 "), "{text}");
        }
    }
    ensure!(answered.len() == 2, "only {answered:?} answered");
    // A port that the service does not have leads nowhere.
    for target in shop.targets(82)? {
        shop.client.call_refused(target, &["who"])?;
    }
    Ok(())
}

#[test]
fn a_headless_service_is_called_by_the_address_of_its_pod() -> Result<()> {
    let shop = shop("headless")?;
    let db = shop.mesh.pod(PodSpec::new(&shop.ns, "db").on(1))?;
    let _server = db.serve(&["who:5432"])?;
    let yaml = service(&shop.ns, "db", "db", &[], &[("sql", 5432, "5432")]);
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &yaml, &format!("db.{}.svc", shop.ns))?;
    for target in [db.at(5432), db.at6(5432)] {
        let outcome = shop.client.call_ok(target, &["who"])?;
        ensure!(outcome.peer == Some(target), "{outcome:?}");
    }
    db.agent()
        .access("the call", |l| l.get("direction") == "inbound" && l.get("src.identity") == shop.client.identity())?;
    Ok(())
}

#[test]
fn another_endpoint_is_tried_when_connecting_fails() -> Result<()> {
    let shop = shop("retry")?;
    // One pod does not listen, one is gone from its node though the manifest has it, one answers.
    let silent = shop.mesh.pod(PodSpec::new(&shop.ns, "silent").on(1).label("set", "r"))?;
    let working = shop.mesh.pod(PodSpec::new(&shop.ns, "working").on(1).label("set", "r"))?;
    let plain = shop.mesh.pod(PodSpec::new(&shop.ns, "plain").on(1).label("set", "r").plain())?;
    let _server = working.serve(&["who:8080"])?;
    let yaml = service(&shop.ns, "retry", "x", &[&shop.vip.0, &shop.vip.1], &[("http", 80, "8080")])
        .replace("app: x", "set: r");
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &yaml, &shop.vip.0)?;
    for _ in 0..10 {
        for target in shop.targets(80)? {
            let outcome = shop.client.call_ok(target, &["who"])?;
            ensure!(outcome.text.starts_with("server=working"), "{outcome:?}");
        }
    }
    drop((silent, plain));
    Ok(())
}

#[test]
fn a_service_without_endpoints_is_refused_at_once_with_a_reason() -> Result<()> {
    let shop = shop("empty")?;
    shop.service("empty", "nobody", &[("http", 80, "8080")])?;
    for target in shop.targets(80)? {
        let outcome = shop.client.call_refused(target, &["who"])?;
        ensure!(outcome.millis < 5000, "took {} ms", outcome.millis);
    }
    let line =
        shop.client.agent().access("the refusal", |l| !l.get("error").is_empty() && l.text().contains(&shop.ns))?;
    ensure!(
        line.get("error").contains("no healthy upstream") || line.get("error").contains("endpoint"),
        "{}",
        line.text()
    );
    Ok(())
}

#[test]
fn pods_that_are_not_ready_get_no_traffic() -> Result<()> {
    let shop = shop("ready")?;
    let up = shop.mesh.pod(PodSpec::new(&shop.ns, "up").on(1).label("set", "y"))?;
    let down = shop.mesh.pod(PodSpec::new(&shop.ns, "down").on(1).label("set", "y"))?;
    let _servers = (up.serve(&["who:8080"])?, down.serve(&["who:8080"])?);
    let manifest = down.spec.yaml(&down.node.name, &down.place.netns, &down.ips());
    let manifest = format!("{manifest}  conditions:\n  - type: Ready\n    status: \"False\"\n");
    shop.mesh.apply(&format!("pod-{}-down.yaml", shop.ns), &manifest)?;
    let yaml = service(&shop.ns, "ready", "x", &[&shop.vip.0, &shop.vip.1], &[("http", 80, "8080")])
        .replace("app: x", "set: y");
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &yaml, &shop.vip.0)?;
    shop.mesh.on_every_agent("down is unhealthy", |agent| {
        let dump = agent.dump()?;
        let workloads = dump["workloads"].as_array().context("no workloads")?;
        let found = workloads.iter().find(|w| w["uid"] == down.uid().as_str()).context("unknown")?;
        ensure!(found.to_string().to_uppercase().contains("UNHEALTHY"), "{found}");
        Ok(())
    })?;
    for _ in 0..8 {
        for target in shop.targets(80)? {
            let outcome = shop.client.call_ok(target, &["who"])?;
            ensure!(outcome.text.starts_with("server=up"), "{outcome:?}");
        }
    }
    Ok(())
}

#[test]
fn a_service_that_names_a_waypoint_is_refused_with_a_reason() -> Result<()> {
    let shop = shop("waypoint")?;
    let server = shop.mesh.pod(PodSpec::new(&shop.ns, "server").on(1))?;
    let app = server.serve(&["who:8080"])?;
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: wp\n  namespace: {ns}\n  labels:\n    \
         istio.io/waypoint-for: service\nspec:\n  gatewayClassName: culvert-waypoint\n  listeners:\n  - name: mesh\n    port: 15008\n    \
         protocol: HBONE\nstatus:\n  addresses:\n  - type: IPAddress\n    value: 10.96.255.254\n",
        ns = shop.ns
    );
    shop.mesh.apply(&format!("gw-{}.yaml", shop.ns), &gateway)?;
    let yaml = service(&shop.ns, "guarded", "server", &[&shop.vip.0, &shop.vip.1], &[("http", 80, "8080")]).replace(
        &format!("  namespace: {}\n", shop.ns),
        &format!("  namespace: {}\n  labels:\n    istio.io/use-waypoint: wp\n", shop.ns),
    );
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &yaml, &shop.vip.0)?;
    for target in shop.targets(80)? {
        shop.client.call_refused(target, &["who"])?;
    }
    ensure!(app.accepted() == 0, "the application was reached");
    let line = shop.client.agent().access("the refusal", |l| l.get("error").contains("waypoint"))?;
    ensure!(line.get("src.workload") == "client", "{}", line.text());
    Ok(())
}

#[test]
fn endpoints_from_a_slice_are_used_when_there_is_one() -> Result<()> {
    let shop = shop("slice")?;
    let chosen = shop.mesh.pod(PodSpec::new(&shop.ns, "chosen").on(1).label("set", "s"))?;
    let other = shop.mesh.pod(PodSpec::new(&shop.ns, "other").on(1).label("set", "s"))?;
    let _servers = (chosen.serve(&["who:8080"])?, other.serve(&["who:8080"])?);
    let slice = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: sliced-1\n  namespace: {ns}\n  labels:\n    \
         kubernetes.io/service-name: sliced\naddressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n- addresses:\n  \
         - {ip}\n  conditions:\n    ready: true\n  targetRef:\n    kind: Pod\n    name: chosen\n    namespace: {ns}\n",
        ns = shop.ns,
        ip = chosen.ip4
    );
    shop.mesh.apply(&format!("slice-{}.yaml", shop.ns), &slice)?;
    let yaml = service(&shop.ns, "sliced", "x", &[&shop.vip.0], &[("http", 80, "8080")]).replace("app: x", "set: s");
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &yaml, &shop.vip.0)?;
    for _ in 0..8 {
        let outcome = shop.client.call_ok(shop.targets(80)?[0], &["who"])?;
        ensure!(outcome.text.starts_with("server=chosen"), "{outcome:?}");
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result<()> {
    let shop = shop("hairpin")?;
    let _app = shop.client.serve(&["who:8080"])?;
    shop.service("own", "client", &[("http", 80, "8080")])?;
    for target in shop.targets(80)? {
        let outcome = shop.client.call_ok(target, &["who"])?;
        ensure!(outcome.peer == Some(target) && outcome.text.contains("server=client"), "{outcome:?}");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_goes_away_takes_no_open_connection_of_others_with_it() -> Result<()> {
    let shop = shop("leave")?;
    let stays = shop.mesh.pod(PodSpec::new(&shop.ns, "stays").on(1).label("set", "l"))?;
    let goes = shop.mesh.pod(PodSpec::new(&shop.ns, "goes").on(1).label("set", "l"))?;
    let (_stays, app) = (stays.serve(&["echo:7000"])?, goes.serve(&["echo:7000"])?);
    let yaml =
        service(&shop.ns, "leave", "x", &[&shop.vip.0, &shop.vip.1], &[("tcp", 7, "7000")]).replace("app: x", "set: l");
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &yaml, &shop.vip.0)?;
    let mut talks = Vec::new();
    for _ in 0..6 {
        for target in shop.targets(7)? {
            let mut talk = shop.client.talk(target)?;
            talk.echo("hello")?;
            talks.push(talk);
        }
    }
    let on_the_one = app.accepted();
    ensure!(on_the_one > 0 && on_the_one < talks.len(), "{on_the_one} of {} went to one", talks.len());
    // Out of the service, but alive: its connections go on too.
    goes.apply(&PodSpec { labels: Vec::new(), ..goes.spec.clone() })?;
    eventually("it gets no more", || {
        let before = app.accepted();
        for target in shop.targets(7)? {
            for _ in 0..3 {
                shop.client.call_ok(target, &["echo", "10"])?;
            }
        }
        ensure!(app.accepted() == before, "it still gets connections");
        Ok(())
    })?;
    for talk in &mut talks {
        talk.echo("still here")?;
    }
    Ok(())
}

#[test]
fn endpoints_that_are_being_deleted_and_still_serve_are_used_where_nothing_is_ready() -> Result<()> {
    let shop = shop("ends")?;
    let ending = shop.mesh.pod(PodSpec::new(&shop.ns, "ending").on(1))?;
    let fresh = shop.mesh.pod(PodSpec::new(&shop.ns, "fresh").on(1))?;
    let _servers = (ending.serve(&["who:8080"])?, fresh.serve(&["who:8080"])?);
    let target = shop.targets(80)?[0];
    let terminating = "conditions: {ready: false, serving: true, terminating: true}";
    let slice = |others: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: kept-1, namespace: {}, \
             labels: {{kubernetes.io/service-name: kept}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
             endpoints: [{{addresses: [{}], {terminating}, targetRef: {{kind: Pod, name: ending}}}}{others}]\n",
            shop.ns, ending.ip4
        )
    };
    let yaml = service(&shop.ns, "kept", "nobody", &[&shop.vip.0], &[("http", 80, "8080")]);
    shop.mesh.apply_seen(&format!("svc-{}.yaml", shop.ns), &(yaml.clone() + &slice("")), &shop.vip.0)?;
    let answers = |name: &str| -> Result<()> {
        let outcome = shop.client.call(target, &["who"])?;
        ensure!(outcome.ok && outcome.text.split(' ').next().is_some_and(|who| who.contains(name)), "{outcome:?}");
        Ok(())
    };
    eventually("the one that ends is called", || answers("ending"))?;
    let ready = format!(", {{addresses: [{}], targetRef: {{kind: Pod, name: fresh}}}}", fresh.ip4);
    shop.mesh.apply(&format!("svc-{}.yaml", shop.ns), &(yaml + &slice(&ready)))?;
    eventually("the ready one is called", || answers("fresh"))?;
    for _ in 0..10 {
        answers("fresh")?;
    }
    Ok(())
}
