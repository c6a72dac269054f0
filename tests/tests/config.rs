//! Manifests that change, break and are repaired while the agents run.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::eventually::{allow, always, eventually};
use tests::manifest::{PodSpec, authorization, service};
use tests::mesh::{Mesh, MeshOptions};

#[test]
fn a_change_takes_effect_within_a_fraction_of_a_second() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("hot");
    let mut times = Vec::new();
    for i in 0..5 {
        let name = format!("svc{i}");
        let (vip, _) = mesh.vips();
        let started = Instant::now();
        mesh.apply_seen(
            &format!("svc-{ns}.yaml"),
            &service(&ns, &name, "x", &[&vip], &[("p", 80, "80")]),
            &format!("{name}.{ns}"),
        )?;
        times.push(started.elapsed());
    }
    times.sort();
    ensure!(times[2] < allow(Duration::from_millis(700)), "{times:?}");
    mesh.on_every_agent("only the last is known", |agent| {
        let text = agent.dump()?["services"].to_string();
        ensure!(!text.contains(&format!("svc3.{ns}")) && text.contains(&format!("svc4.{ns}")), "{text}");
        Ok(())
    })
}

#[test]
fn a_broken_file_keeps_its_last_good_state_and_the_rest_keeps_working() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("broken");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:8080"])?;
    let vip = mesh.vips().0;
    let good = service(&ns, "web", "server", &[&vip], &[("http", 80, "8080")]);
    mesh.apply_seen("web.yaml", &good, &vip)?;
    let target = format!("{vip}:80").parse()?;
    client.call_ok(target, &["who"])?;
    let cases = [
        ("broken YAML", good.replace("spec:", "spec: [")),
        ("a wrong type", good.replace("port: 80", "port: eighty")),
        ("an unknown enum value", good.replace("spec:\n", "spec:\n  internalTrafficPolicy: Sometimes\n")),
        ("not YAML at all", "\u{0}\u{1}\u{2} %%%".to_owned()),
    ];
    for (name, bad) in cases {
        mesh.apply("web.yaml", &bad)?;
        eventually(&format!("{name} shows in the dump"), || {
            let problems = problems(&mesh, "web.yaml")?;
            let error = problems.iter().find(|p| p["severity"] == "error").context("no error")?;
            ensure!(error["line"].as_u64().is_some_and(|line| line > 0), "{error}");
            Ok(())
        })?;
        mesh.agents[0].says(&["web.yaml"])?;
        client.call_ok(target, &["who"]).with_context(|| name.to_owned())?;
        // Other files still take effect meanwhile.
        let other = mesh.vips().0;
        mesh.apply_seen("other.yaml", &service(&ns, "other", "server", &[&other], &[("http", 80, "8080")]), &other)?;
        client.call_ok(format!("{other}:80").parse()?, &["who"])?;
        mesh.withdraw("other.yaml")?;
        let check = mesh.agents[0].culvert(&["check", "--manifests", &mesh.manifests.to_string_lossy()])?;
        let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
        ensure!(said.contains("web.yaml") && check.status.code() == Some(1), "{name}: {:?} {said}", check.status);
        mesh.apply("web.yaml", &good)?;
        eventually("healed", || {
            let problems = problems(&mesh, "web.yaml")?;
            ensure!(!problems.iter().any(|p| p["severity"] == "error"), "the error still shows: {problems:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// What the first agent says is wrong with a file.
fn problems(mesh: &Mesh, file: &str) -> Result<Vec<serde_json::Value>> {
    let dump = mesh.agents[0].dump()?;
    let all = dump["manifests"]["problems"].as_array().context("no problems in the dump")?;
    Ok(all.iter().filter(|p| p["file"].as_str().is_some_and(|f| f.ends_with(file))).cloned().collect())
}

#[test]
fn objects_that_are_wrong_are_named_and_the_others_of_the_file_work() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("wrong");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:8080"])?;
    let vip = mesh.vips().0;
    let no_ip = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: no-ip\n  namespace: NS\nspec:\n  nodeName: east\n"
        .replace("NS", &ns);
    let unknown = "apiVersion: example.dev/v1\nkind: Mystery\nmetadata:\n  name: riddle\n";
    let twice = service(&ns, "twice", "server", &[&mesh.vips().0], &[("http", 80, "8080")]);
    let overlap = service(&ns, "overlap", "server", &[&vip], &[("http", 80, "8080")]);
    let web = service(&ns, "web", "server", &[&vip], &[("http", 80, "8080")]);
    let text = [web.as_str(), &no_ip, unknown, &twice, &twice, &overlap].join("---\n");
    mesh.apply_seen("many.yaml", &text, &format!("web.{ns}"))?;
    client.call_ok(format!("{vip}:80").parse()?, &["who"])?;
    for words in [["many.yaml", "no-ip"], ["many.yaml", "Mystery"], ["many.yaml", "twice"], [vip.as_str(), "overlap"]] {
        mesh.agents[0].says(&words)?;
    }
    Ok(())
}

#[test]
fn a_config_map_swap_and_nested_directories_are_followed() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("swap");
    let root = mesh.manifests.join(&ns);
    let publish = |version: &str, name: &str, vip: &str| -> Result<()> {
        let data = root.join(format!("..{version}"));
        fs::create_dir_all(&data)?;
        fs::write(data.join("svc.yaml"), service(&ns, name, "x", &[vip], &[("p", 80, "80")]))?;
        let (new, link) = (root.join("..data_tmp"), root.join("..data"));
        std::os::unix::fs::symlink(format!("..{version}"), &new)?;
        fs::rename(new, link)?;
        if !root.join("svc.yaml").exists() {
            std::os::unix::fs::symlink("..data/svc.yaml", root.join("svc.yaml"))?;
        }
        Ok(())
    };
    let known = |name: &str| {
        let full = format!("{name}.{ns}");
        mesh.on_every_agent(&full, |agent| {
            let text = agent.dump()?["services"].to_string();
            ensure!(text.contains(&full), "{full} is not known");
            Ok(())
        })
    };
    publish("v1", "one", &mesh.vips().0)?;
    known("one")?;
    publish("v2", "two", &mesh.vips().0)?;
    known("two")?;
    mesh.on_every_agent("the old one is gone", |agent| {
        let text = agent.dump()?["services"].to_string();
        ensure!(!text.contains(&format!("one.{ns}")), "still there");
        Ok(())
    })?;
    fs::remove_dir_all(&root)?;
    mesh.on_every_agent("all are gone", |agent| {
        let text = agent.dump()?["services"].to_string();
        ensure!(!text.contains(&format!("two.{ns}")), "still there");
        Ok(())
    })
}

#[test]
fn json_lists_and_what_kubectl_prints_are_read() -> Result<()> {
    let mesh = Mesh::shared()?;
    let ns = mesh.namespace("list");
    let vips = [mesh.vips().0, mesh.vips().0];
    let item = |name: &str, vip: &str| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": ns, "uid": "4f2c", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "kubectl", "operation": "Update"}]},
            "spec": {"clusterIP": vip, "clusterIPs": [vip], "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "selector": {"app": "x"},
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
            "status": {"loadBalancer": {}},
        })
    };
    let list =
        serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [item("a", &vips[0]), item("b", &vips[1])]});
    mesh.apply_seen(&format!("list-{ns}.json"), &list.to_string(), &format!("b.{ns}"))?;
    mesh.on_every_agent("both", |agent| {
        let text = agent.dump()?["services"].to_string();
        ensure!(vips.iter().all(|v| text.contains(v.as_str())), "{text}");
        Ok(())
    })
}

#[test]
fn a_pod_with_the_address_of_another_is_named_and_the_first_keeps_it() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("twin");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    let twin = PodSpec::new(&ns, "twin").plain();
    mesh.apply("twin.yaml", &twin.yaml("east", &client.place.netns, &server.ips()))?;
    mesh.agents[0].says(&[&server.ip4.to_string(), "twin"])?;
    let outcome = client.call_ok(server.at(80), &["who"])?;
    ensure!(outcome.text.starts_with("server=server"), "{outcome:?}");
    mesh.agents[1].access("still as the server", |l| {
        l.get("dst.workload") == "server" && l.get("src.identity") == client.identity()
    })?;
    Ok(())
}

#[test]
fn usage_errors_end_with_two_and_name_the_flag() -> Result<()> {
    let mesh = Mesh::prepare(MeshOptions { nodes: 1, ..MeshOptions::default() })?;
    let agent = &mesh.agents[0];
    for (args, word) in [
        (vec!["agent", "--no-such-flag"], "no-such-flag"),
        (vec!["agent", "--node", "east", "--fail", "sometimes"], "fail"),
        (vec!["agent", "--node", "east", "--admin", "nonsense"], "admin"),
        (vec!["fly"], "fly"),
    ] {
        let output = agent.culvert(&args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains(word), "{args:?}: {:?} {said}", output.status);
        ensure!(output.stdout.is_empty());
    }
    Ok(())
}

#[test]
fn a_policy_that_cannot_be_read_never_opens_what_was_closed() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("safe");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let app = server.serve(&["who:80"])?;
    let good = authorization(
        &ns,
        "closed",
        "server",
        "ALLOW",
        "  - from:\n    - source:\n        principals: [\"cluster.local/ns/x/sa/y\"]",
    );
    mesh.apply("policy.yaml", &good)?;
    eventually("closed", || {
        ensure!(!client.call(server.at(80), &["who"])?.ok, "open");
        Ok(())
    })?;
    let accepted = app.accepted();
    mesh.apply("policy.yaml", &good.replace("action: ALLOW", "action: [ALLOW"))?;
    mesh.agents[1].says(&["policy.yaml"])?;
    for _ in 0..5 {
        client.call_refused(server.at(80), &["who"])?;
    }
    ensure!(app.accepted() == accepted);
    Ok(())
}

#[test]
fn an_agent_that_logs_little_runs_until_it_is_told_to_stop() -> Result<()> {
    let flags = vec!["--log".to_owned(), "error".to_owned()];
    let mesh = Mesh::with(MeshOptions { nodes: 1, flags, ..MeshOptions::default() })?;
    always(Duration::from_millis(500), "the agent runs", || {
        ensure!(mesh.agents[0].is_running(), "it ended");
        Ok(())
    })?;
    mesh.agents[0].terminate()?;
    let (code, _) = mesh.agents[0].wait_end()?;
    ensure!(code == Some(0), "it ended with {code:?}");
    Ok(())
}
