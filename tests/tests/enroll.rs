//! Workloads are enrolled and released while they run, and the kubelet's probes pass.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::apps::{self, Talk};
use tests::eventually::{always, eventually};
use tests::manifest::{PodSpec, peer_authentication};
use tests::mesh::Mesh;
use tests::wire::Capture;

#[test]
fn enrolling_and_releasing_by_label_cut_no_open_connection() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("live");
    let mut client = mesh.pod(PodSpec::new(&ns, "client").plain())?;
    let mut server = mesh.pod(PodSpec::new(&ns, "server").on(1).plain())?;
    let _app = server.serve(&["echo:7000", "who:80"])?;
    let mut talks = vec![client.talk(server.at(7000))?, client.talk(server.at6(7000))?];

    let capture = Capture::start(&mesh.net, "enrolled")?;
    client.spec.enrolled = true;
    server.spec.enrolled = true;
    for pod in [&client, &server] {
        pod.apply(&pod.spec)?;
        pod.settled()?;
    }
    for talk in &mut talks {
        talk.echo("begun before enrollment")?;
    }
    client.call_ok(server.at(80), &["who"])?;
    client.call_ok(server.at6(80), &["who"])?;
    talks.push(client.talk(server.at(7000))?);
    talks.push(client.talk(server.at6(7000))?);
    for talk in &mut talks {
        talk.echo("said while enrolled")?;
    }
    let packets = capture.stop()?;
    ensure!(packets.opened_to(80) == 0 && packets.opened_to(15008) > 0, "new connections are not captured");
    ensure!(packets.contains(b"begun before enrollment"), "a connection from before has moved");

    let capture = Capture::start(&mesh.net, "released")?;
    client.spec.enrolled = false;
    server.spec.enrolled = false;
    for pod in [&client, &server] {
        pod.apply(&pod.spec)?;
        pod.settled()?;
    }
    for talk in &mut talks {
        talk.echo("said after release")?;
    }
    client.call_ok(server.at(80), &["who"])?;
    client.call_ok(server.at6(80), &["who"])?;
    for talk in &mut talks {
        talk.echo("and once more")?;
    }
    let packets = capture.stop()?;
    ensure!(packets.opened_to(80) == 2, "new connections are still captured");
    Ok(())
}

#[test]
fn a_released_pod_is_left_as_it_was_found_once_its_connections_have_ended() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("clean");
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["echo:7000"])?;
    let mut client = mesh.pod_unseen(PodSpec::new(&ns, "client"))?;
    let state = |what: &str| {
        let mut state = String::new();
        for args in [["rule", "show"], ["-6", "rule"], ["route", "show"], ["-6", "route"]] {
            let mut args: Vec<&str> = args.to_vec();
            if args[1] == "route" || args[0] == "route" {
                args.extend(["show", "table", "all"]);
                args.dedup();
            }
            state += &client_ip(&client.place, &args)?;
        }
        for name in ["net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"] {
            state += &client
                .place
                .inside(|| std::fs::read_to_string(format!("/proc/sys/{name}")))?
                .context(what.to_owned())?;
        }
        state += &client.place.run("ss", &["-Hltn"])?;
        anyhow::Ok(state)
    };
    let before = state("before")?;
    client.apply(&client.spec)?;
    client.settled()?;
    ensure!(state("during")? != before, "enrolling left no mark at all: this test looks in the wrong place");
    let mut talk = client.talk(server.at(7000))?;
    talk.echo("before release")?;
    let spec = PodSpec { enrolled: false, ..client.spec.clone() };
    client.apply(&spec)?;
    let agent = client.agent();
    eventually("released", || {
        let dump = agent.dump()?;
        let text = dump["captures"].to_string();
        ensure!(!text.contains("\"captured\""), "{text}");
        Ok(())
    })?;
    talk.echo("after release")?;
    drop(talk);
    eventually("nothing is left in the pod", || {
        let now = state("after")?;
        ensure!(now == before, "before:\n{before}\nnow:\n{now}");
        Ok(())
    })?;
    client.spec = spec;
    Ok(())
}

fn client_ip(place: &tests::process::Place, args: &[&str]) -> Result<String> {
    // Neighbour discovery comes and goes by itself.
    let text = place.run("ip", args)?;
    Ok(text.lines().filter(|l| !l.contains("multicast")).map(|l| format!("{l}\n")).collect())
}

#[test]
fn pods_are_added_and_removed_while_the_agent_runs() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("churn");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    for round in 0..5 {
        let server = mesh.pod(PodSpec::new(&ns, &format!("server{round}")).on(round % 2))?;
        let app = server.serve(&["who:80"])?;
        client.call_ok(server.at(80), &["who"])?;
        let (uid, agent) = (server.uid(), &mesh.agents[round % 2]);
        drop(app);
        drop(server);
        eventually("the pod is forgotten", || {
            let dump = agent.dump()?;
            ensure!(!dump["workloads"].to_string().contains(&uid), "{uid} is still a workload");
            let captures = dump["captures"].to_string();
            ensure!(!captures.contains(&uid), "{uid} is still listed: {captures}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_label_on_the_namespace_enrolls_its_pods_and_none_on_a_pod_opts_out() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("labelled");
    let mut by_namespace = mesh.pod_unseen(PodSpec::new(&ns, "in"))?;
    let mut opted_out = mesh.pod_unseen(PodSpec::new(&ns, "out").plain())?;
    let namespace = |labels: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {ns}\n{labels}");
    let unlabelled = by_namespace.spec.yaml(&by_namespace.node.name, &by_namespace.place.netns, &by_namespace.ips());
    let unlabelled = unlabelled.replace("    istio.io/dataplane-mode: ambient\n", "");
    ensure!(!unlabelled.contains("dataplane-mode"));
    mesh.apply(&format!("pod-{ns}-in.yaml"), &unlabelled)?;
    opted_out.apply(&opted_out.spec)?;
    by_namespace.spec.enrolled = false;
    by_namespace.settled()?;
    opted_out.settled()?;
    mesh.apply(&format!("ns-{ns}.yaml"), &namespace("  labels:\n    istio.io/dataplane-mode: ambient\n"))?;
    by_namespace.spec.enrolled = true;
    by_namespace.settled()?;
    opted_out.spec.enrolled = false;
    opted_out.settled()?;
    mesh.apply(&format!("ns-{ns}.yaml"), &namespace(""))?;
    by_namespace.spec.enrolled = false;
    by_namespace.settled()
}

#[test]
fn under_strict_the_kubelet_gets_through_and_other_host_processes_do_not() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("probes");
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let app = server.serve(&["who:80"])?;
    let node = server.node.clone();
    for target in [server.at(80), server.at6(80)] {
        ensure!(apps::call(&node.place, target, &["who"], &[])?.ok, "plain text must work before STRICT");
    }
    let before = app.accepted();
    let name = format!("strict-{ns}");
    mesh.apply_seen(&format!("pa-{ns}.yaml"), &peer_authentication(&ns, &name, "", "STRICT", &[]), &ns)?;
    eventually("the node's own processes are refused", || {
        for target in [server.at(80), server.at6(80)] {
            let outcome = apps::call(&node.place, target, &["who"], &["--timeout", "3"])?;
            ensure!(!outcome.ok, "a host process reached {target}");
        }
        Ok(())
    })?;
    for _ in 0..20 {
        for target in [server.at(80), server.at6(80)] {
            let probe = apps::call(&node.kubelet(), target, &["who"], &["--timeout", "3"])?;
            ensure!(probe.ok, "a probe was refused: {probe:?}");
            let other = apps::call(&node.place, target, &["who"], &["--timeout", "3"])?;
            ensure!(!other.ok, "a host process reached {target}: {other:?}");
        }
    }
    ensure!(app.accepted() > before);
    Ok(())
}

#[test]
fn under_strict_traffic_that_only_looks_like_the_nodes_is_refused() -> Result<()> {
    let mesh = Mesh::start()?;
    let outsider = mesh.net.outsider("outside")?;
    let ns = mesh.namespace("nat");
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let _app = server.serve(&["who:80"])?;
    let node = server.node.clone();
    // A NodePort with masquerading, as kube-proxy would make it: the pod sees the node's own address.
    let target = format!("{}:80", server.ip4);
    for rule in [
        vec![
            "-t",
            "nat",
            "-A",
            "PREROUTING",
            "-p",
            "tcp",
            "--dport",
            "30080",
            "-j",
            "DNAT",
            "--to-destination",
            &target,
        ],
        vec!["-t", "nat", "-A", "POSTROUTING", "-p", "tcp", "--dport", "80", "-j", "MASQUERADE"],
    ] {
        node.place.run("iptables", &rule)?;
    }
    let through = apps::call(&outsider.place, node.at(30080), &["who"], &[])?;
    ensure!(through.ok && through.text.contains("peer=10.244.0.1:"), "no NodePort to test with: {through:?}");
    mesh.apply(&format!("pa-{ns}.yaml"), &peer_authentication(&ns, "strict", "", "STRICT", &[]))?;
    eventually("STRICT holds", || {
        let outcome = apps::call(&outsider.place, server.at(80), &["who"], &["--timeout", "3"])?;
        ensure!(!outcome.ok, "plain text still gets through");
        Ok(())
    })?;
    for _ in 0..5 {
        let probe = apps::call(&node.kubelet(), server.at(80), &["who"], &["--timeout", "3"])?;
        ensure!(probe.ok, "{probe:?}");
        let nat = apps::call(&outsider.place, node.at(30080), &["who"], &["--timeout", "2"])?;
        ensure!(!nat.ok, "NAT'ed traffic got through: {nat:?}");
    }
    Ok(())
}

#[test]
fn a_namespace_that_is_missing_is_reported_and_captured_once_it_is_there() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("late");
    let pod = mesh.pod_unseen(PodSpec::new(&ns, "late"))?;
    let good = pod.spec.yaml(&pod.node.name, &pod.place.netns, &pod.ips());
    let path = pod.place.netns.display().to_string();
    let absent = format!("{path}-absent");
    mesh.apply(&format!("pod-{ns}-late.yaml"), &good.replace(&path, &absent))?;
    pod.agent().says(&[&absent])?;
    eventually("the failure shows", || {
        let dump = pod.agent().dump()?["captures"].to_string();
        ensure!(dump.contains(&pod.uid()) && dump.contains("failed") && dump.contains(&absent), "{dump}");
        Ok(())
    })?;
    mesh.apply(&format!("pod-{ns}-late.yaml"), &good)?;
    pod.settled()?;
    always(Duration::from_millis(300), "captured", || pod.captured(true))
}

#[test]
fn a_network_namespace_that_vanishes_under_the_agent_harms_nobody() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("vanish");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let stays = mesh.pod(PodSpec::new(&ns, "stays").on(1))?;
    let _app = stays.serve(&["echo:7000"])?;
    let mut talk = Talk::open(&client.place, stays.at(7000), &[])?;
    talk.echo("before")?;
    let goes = mesh.pod(PodSpec::new(&ns, "goes").on(1))?;
    tests::run::remove_cgroup(&goes.place.cgroup);
    tests::run::remove_netns(&goes.place.netns);
    client.call_refused(goes.at(7000), &["who"])?;
    talk.echo("after")?;
    drop(goes);
    talk.echo("long after")?;
    client.call_ok(stays.at(7000), &["echo", "1000"])?;
    Ok(())
}

#[test]
fn a_pod_that_is_replaced_under_the_same_name_is_captured_in_its_new_place() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("again");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let first = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let app = first.serve(&["who:80"])?;
    client.call_ok(first.at(80), &["who"])?;
    drop(app);
    // A new namespace and a new address, told by the same file.
    let second = mesh.pod_unseen(PodSpec::new(&ns, "second").on(1))?;
    let _app = second.serve(&["who:80"])?;
    mesh.apply(
        &format!("pod-{ns}-server.yaml"),
        &first.spec.yaml(&second.node.name, &second.place.netns, &second.ips()),
    )?;
    eventually("the new place is captured", || {
        let captures = first.agent().dump()?["captures"].clone();
        let netns = second.place.netns.display().to_string();
        let found = captures
            .as_array()
            .context("no list")?
            .iter()
            .any(|c| c["netns"] == netns.as_str() && c["state"] == "captured");
        ensure!(found, "{captures}");
        Ok(())
    })?;
    eventually("it is called with its identity", || {
        client.call_ok(second.at(80), &["who"])?;
        Ok(())
    })?;
    first.agent().access("the call", |l| {
        l.get("direction") == "inbound"
            && l.get("src.identity") == client.identity()
            && l.get("dst.hbone_addr") == second.at(80).to_string()
    })?;
    Ok(())
}

#[test]
fn a_pod_that_changes_its_account_speaks_as_the_new_one() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("account");
    let client = mesh.pod(PodSpec::new(&ns, "client").account("before"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    client.apply(&PodSpec { service_account: "after".to_owned(), ..client.spec.clone() })?;
    eventually("it speaks as the new account", || {
        client.call_ok(server.at(80), &["who"])?;
        let last = server
            .agent()
            .log()?
            .into_iter()
            .rev()
            .find(|l| l.is_access() && l.get("src.namespace") == ns)
            .context("no line")?;
        ensure!(last.get("src.identity").ends_with("/sa/after"), "{}", last.text());
        Ok(())
    })
}

#[test]
fn a_pod_in_the_hosts_network_is_never_captured() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("host");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let node = &mesh.nodes[1];
    let spec = PodSpec::new(&ns, "hosted").on(1);
    let yaml = spec.yaml(&node.name, &node.place.netns, &node.ips()).replace("spec:\n", "spec:\n  hostNetwork: true\n");
    mesh.apply_seen(&format!("pod-{ns}-hosted.yaml"), &yaml, "hosted")?;
    let _app = apps::Server::start(&node.place, "hosted", &["who:8088"])?;
    for target in [node.at(8088), node.at6(8088)] {
        let outcome = client.call_ok(target, &["who"])?;
        ensure!(outcome.text.contains("server=hosted"), "{outcome:?}");
    }
    let captures = mesh.agents[1].dump()?["captures"].to_string();
    ensure!(!captures.contains("hosted"), "{captures}");
    mesh.withdraw(&format!("pod-{ns}-hosted.yaml"))
}

#[test]
fn forty_pods_of_a_node_are_captured_at_once() -> Result<()> {
    let mesh = Mesh::start()?;
    let pods: Vec<_> =
        (0..40).map(|i| mesh.pod_unseen(PodSpec::new("many", &format!("pod{i}")))).collect::<Result<_>>()?;
    let all: String = pods.iter().map(|p| p.spec.yaml(&p.node.name, &p.place.netns, &p.ips()) + "---\n").collect();
    let started = std::time::Instant::now();
    mesh.apply("many.yaml", &all)?;
    eventually("all are captured", || {
        let dump = mesh.agents[0].dump()?;
        let count = dump["captures"].as_array().context("no list")?.iter().filter(|c| c["state"] == "captured").count();
        ensure!(count == 40, "{count}");
        Ok(())
    })?;
    let took = started.elapsed();
    ensure!(took < tests::eventually::allow(Duration::from_secs(5)), "{took:?}");
    let _app = pods[0].serve(&["who:80"])?;
    pods[39].call_ok(pods[0].at(80), &["who"])?;
    let memory = mesh.agents[0].memory()?;
    ensure!(memory.private_kib < 60_000, "{memory:?}");
    Ok(())
}
