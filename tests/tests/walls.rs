//! A pod with NET_ADMIN in its own network namespace, or the author of Pod manifests, harms no other pod of the node;
//! what cannot be captured is closed and reported.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use tests::agent::{Agent, Ports};
use tests::eventually::{allow, always, eventually};
use tests::manifest::{PodSpec, peer_authentication};
use tests::mesh::{Mesh, Pod};
use tests::observe::get;

/// The capture state of a workload in the agent's dump.
fn capture(agent: &Agent, uid: &str) -> Result<Value> {
    let dump = agent.dump()?;
    let captures = dump["captures"].as_array().context("no captures in the dump")?;
    captures
        .iter()
        .find(|c| c["workloadUid"] == uid)
        .cloned()
        .with_context(|| format!("{uid} is not listed: {captures:?}"))
}

fn is_ready(agent: &Agent) -> Result<()> {
    get(&agent.node.place, Ports::default().ready, "/healthz/ready").map(drop)
}

/// User and system time of the agent so far.
fn cpu(agent: &Agent) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid()?))?;
    let words: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = words[11].parse::<u64>()? + words[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// `ss` may skip some while it iterates over what it changes.
fn destroy(pod: &Pod, what: &[&str]) -> Result<()> {
    (0..4).try_for_each(|_| pod.place.run("ss", &[&["-K"], what].concat()).map(drop))
}

#[test]
fn destroyed_listeners_are_recreated_and_cost_no_core() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("killed");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let neighbour = mesh.pod(PodSpec::new(&ns, "neighbour").on(1))?;
    let _apps = [server.serve(&["who:80", "echo:7000"])?, neighbour.serve(&["who:80", "echo:7000"])?];
    mesh.apply_seen("strict.yaml", &peer_authentication(&ns, "strict", "", "STRICT", &[]), "strict")?;
    let mut talk = client.talk(neighbour.at(7000))?;
    client.call_ok(server.at(80), &["who"])?;
    let agent = server.agent();
    destroy(&server, &["state", "listening", "src", "127.0.0.1"])?;
    destroy(&server, &["state", "listening", "src", "[::1]"])?;
    agent.says(&["destroyed", "listener"])?;
    for target in [server.at(80), server.at6(80)] {
        eventually("it is served again", || client.call_ok(target, &["who"]).map(drop))?;
    }
    server.captured(true)?;
    ensure!(agent.metrics()?.sum("culvert_listeners_lost_total", &[]) >= 3.0, "they are not counted");
    // Repeatedly: the backoff of the pod grows, and no other pod waits.
    let (began, before) = (Instant::now(), cpu(agent)?);
    let mut closed = false;
    while began.elapsed() < Duration::from_secs(6) {
        destroy(&server, &["state", "listening"])?;
        neighbour_is_served(&client, &neighbour)?;
        let state = capture(agent, &server.uid())?;
        closed |= state["state"] == "closed" && state["error"].to_string().contains("listener");
        let plain = tests::apps::call(&server.node.place, server.at(80), &["who"], &["--timeout", "1"])?;
        ensure!(!plain.ok, "plaintext got into it: {plain:?}");
    }
    ensure!(closed, "nobody said that it is closed");
    talk.echo("nobody else noticed")?;
    let spent = cpu(agent)? - before;
    ensure!(spent < Duration::from_secs(3), "{spent:?} in six seconds");
    is_ready(agent)?;
    eventually("it is served again", || client.call_ok(server.at(80), &["who"]).map(drop))?;
    server.captured(true)
}

fn neighbour_is_served(client: &Pod, neighbour: &Pod) -> Result<()> {
    let outcome = client.call_ok(neighbour.at(80), &["who"])?;
    ensure!(outcome.millis < 1000, "{outcome:?}");
    Ok(())
}

#[test]
fn destroyed_connections_end_and_the_next_ones_are_carried() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("cut");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let other = mesh.pod(PodSpec::new(&ns, "other"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:80", "echo:7000"])?;
    for target in [&client, &server] {
        let mut kept = other.talk(server.at(7000))?;
        let mut talks = vec![client.talk(server.at(7000))?, client.talk(server.at6(7000))?];
        for talk in &mut talks {
            talk.echo("before")?;
        }
        let before = cpu(target.agent())?;
        // Everything that is open: tunnels, and what they carry.
        destroy(target, &["state", "established"])?;
        for talk in &mut talks {
            talk.ended(Duration::from_secs(5)).context("it outlived its sockets")?;
        }
        for to in [server.at(80), server.at6(80)] {
            eventually("the next one is carried", || client.call_ok(to, &["who"]).map(drop))?;
        }
        if std::ptr::eq(target, &client) {
            kept.echo("another pod of the node noticed nothing")?;
        }
        std::thread::sleep(Duration::from_secs(1));
        let spent = cpu(target.agent())? - before;
        ensure!(spent < Duration::from_secs(1), "{spent:?}");
    }
    Ok(())
}

#[test]
fn a_path_that_is_no_namespace_stops_nobody() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("paths");
    let directory = mesh.net.run.files();
    let fifo = directory.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    std::os::unix::fs::symlink("/proc/1/ns/net", directory.join("host"))?;
    std::os::unix::fs::symlink(&mesh.nodes[0].place.netns, directory.join("node"))?;
    let agent = &mesh.agents[0];
    let paths = [
        fifo,
        directory.join("host"),
        directory.join("node"),
        directory.clone(),
        "/dev/zero".into(),
        "/dev/tty".into(),
    ];
    for (i, path) in paths.iter().enumerate() {
        let spec = PodSpec::new(&ns, &format!("bad{i}"));
        let yaml = spec.yaml(&agent.node.name, path, &[std::net::IpAddr::from([10, 244, 0, 200 + i as u8])]);
        mesh.apply(&format!("bad{i}.yaml"), &yaml)?;
    }
    for i in 0..paths.len() {
        let uid = format!("Kubernetes//Pod/{ns}/bad{i}");
        eventually("it is told of", || {
            let found = capture(agent, &uid)?;
            ensure!(found["state"] == "failed" && found["error"].to_string().contains("namespace"), "{found}");
            Ok(())
        })?;
    }
    let started = Instant::now();
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    ensure!(started.elapsed() < allow(Duration::from_secs(3)), "{:?}", started.elapsed());
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    always(Duration::from_secs(2), "the reconciler goes on", || {
        is_ready(agent)?;
        let age = agent.metrics()?.sum("culvert_reconcile_age_seconds", &[]);
        ensure!(age <= 2.0, "{age}");
        Ok(())
    })?;
    let failed = agent.metrics()?.sum("culvert_captures_failed", &[("reason", "namespace")]);
    ensure!(failed == paths.len() as f64, "{failed}");
    Ok(())
}

/// A file system that never answers, like one whose server is gone. Gone when dropped.
struct Hung {
    at: PathBuf,
    _server: File,
}

impl Hung {
    fn new(at: PathBuf) -> Result<Self> {
        let server =
            OpenOptions::new().read(true).write(true).open("/dev/fuse").context("/dev/fuse (kernel with FUSE)")?;
        std::fs::create_dir(&at)?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("hung"), &at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).context("mount")?;
        Ok(Self { at, _server: server })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Whoever waits for it is answered when the server is closed.
        let _gone = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_file_system_that_does_not_answer_holds_up_nobody() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("good");
    let hung = Hung::new(mesh.net.run.files().join("hung"))?;
    let agent = &mesh.agents[0];
    for i in 0..40_u8 {
        let spec = PodSpec::new("bad", &format!("hung{i}"));
        let address = std::net::IpAddr::from([10, 244, 0, 100 + i]);
        let yaml = spec.yaml(&agent.node.name, &hung.at.join(format!("pod{i}")), &[address]);
        mesh.apply(&format!("hung{i}.yaml"), &yaml)?;
    }
    eventually("they are known", || capture(agent, "Kubernetes//Pod/bad/hung39").map(drop))?;
    let started = Instant::now();
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    ensure!(started.elapsed() < allow(Duration::from_secs(2)), "{:?}", started.elapsed());
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:80"])?;
    eventually("they are told of", || {
        let found = capture(agent, "Kubernetes//Pod/bad/hung0")?;
        ensure!(found["state"] == "pending" && found["error"].to_string().contains("takes longer"), "{found}");
        let late = agent.metrics()?.sum("culvert_captures_failed", &[("reason", "late")]);
        ensure!(late > 0.0, "not counted");
        Ok(())
    })?;
    always(Duration::from_secs(4), "the others go on", || {
        is_ready(agent)?;
        client.call_ok(server.at(80), &["who"])?;
        let age = agent.metrics()?.sum("culvert_reconcile_age_seconds", &[]);
        ensure!(age <= 3.0, "{age}");
        Ok(())
    })?;
    let threads = std::fs::read_dir(format!("/proc/{}/task", agent.pid()?))?.count();
    ensure!(threads < 60, "{threads} threads");
    agent.terminate()?;
    let (code, took) = agent.wait_end()?;
    ensure!(code == Some(0) && took < allow(Duration::from_secs(6)), "{code:?} after {took:?}");
    // One that begins while some do not answer is ready all the same.
    let took = agent.restart()?;
    ensure!(took < allow(Duration::from_secs(12)), "{took:?}");
    client.captured(true)?;
    client.call_ok(server.at(80), &["who"])?;
    drop(hung);
    Ok(())
}

#[test]
fn whoever_names_the_namespace_of_another_gets_nothing_and_takes_nothing() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("victim");
    let client = mesh.pod(PodSpec::new(&ns, "client").on(1))?;
    let victim = mesh.pod(PodSpec::new(&ns, "victim"))?;
    let _app = victim.serve(&["who:80"])?;
    mesh.apply_seen("strict.yaml", &peer_authentication(&ns, "strict", "", "STRICT", &[]), "strict")?;
    let agent = victim.agent();
    let held = || -> Result<()> {
        let found = capture(agent, &victim.uid())?;
        ensure!(found["state"] == "captured", "{found}");
        let outcome = client.call_ok(victim.at(80), &["who"])?;
        ensure!(outcome.ok, "{outcome:?}");
        let plain = tests::apps::call(&victim.node.place, victim.at(80), &["who"], &["--timeout", "1"])?;
        ensure!(!plain.ok, "plaintext got in: {plain:?}");
        Ok(())
    };
    let before = capture(agent, &victim.uid())?["id"].clone();
    // Sorts before the victim, and its namespace too.
    for (i, address) in ["127.0.0.1", "0.0.0.0", "169.254.0.1", "10.244.0.250", "::1"].iter().enumerate() {
        let spec = PodSpec::new("aaa", &format!("thief{i}"));
        let yaml = spec.yaml(&agent.node.name, &victim.place.netns, &[address.parse()?]);
        mesh.apply(&format!("aaa-thief{i}.yaml"), &yaml)?;
    }
    always(Duration::from_secs(2), "the victim is its own", held)?;
    for i in 0..5 {
        let captures = agent.dump()?["captures"].clone();
        let uid = format!("Kubernetes//Pod/aaa/thief{i}");
        let taken = captures.as_array().is_some_and(|all| {
            all.iter().any(|c| c["workloadUid"] == uid.as_str() && (c["state"] == "captured" || c["state"] == "closed"))
        });
        ensure!(!taken, "{captures}");
    }
    // Also after a restart, when nobody has it yet.
    agent.kill()?;
    agent.restart()?;
    eventually("the victim is captured again", held)?;
    for i in 0..5 {
        mesh.withdraw(&format!("aaa-thief{i}.yaml"))?;
    }
    always(Duration::from_secs(2), "the victim is still captured", held)?;
    ensure!(capture(agent, &victim.uid())?["id"] == before);
    Ok(())
}

#[test]
fn a_pod_that_cannot_be_enrolled_is_closed_and_says_why() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("closed");
    let client = mesh.pod(PodSpec::new(&ns, "client").on(1))?;
    let pod = mesh.pod_unseen(PodSpec::new(&ns, "pod"))?;
    let _app = pod.serve(&["who:80"])?;
    mesh.apply_seen("strict.yaml", &peer_authentication(&ns, "strict", "", "STRICT", &[]), "strict")?;
    let mut ips = pod.ips().to_vec();
    ips.push("10.244.0.240".parse()?);
    mesh.apply(&format!("pod-{ns}-pod.yaml"), &pod.spec.yaml(&pod.node.name, &pod.place.netns, &ips))?;
    let agent = pod.agent();
    eventually("it is told of", || {
        let found = capture(agent, &pod.uid())?;
        ensure!(found["state"] == "closed" && found["error"].to_string().contains("10.244.0.240"), "{found}");
        ensure!(agent.metrics()?.sum("culvert_captures_closed", &[("reason", "address")]) == 1.0, "not counted");
        Ok(())
    })?;
    let table = agent.culvert_ok(&["get", "captures"])?;
    ensure!(table.contains("Closed") && table.contains("10.244.0.240"), "{table}");
    agent.says(&["closed until then", "10.244.0.240"])?;
    always(Duration::from_secs(2), "nothing gets in or out", || {
        for target in [pod.at(80), pod.at6(80)] {
            let plain = tests::apps::call(&pod.node.place, target, &["who"], &["--timeout", "1"])?;
            ensure!(!plain.ok, "plaintext got in: {plain:?}");
        }
        pod.call_refused(client.node.at(15021), &["who"])?;
        client.call_refused(pod.at(80), &["who"])?;
        Ok(())
    })?;
    is_ready(agent)?;
    // The address comes.
    pod.place.run("ip", &["addr", "add", "10.244.0.240/32", "dev", "eth0"])?;
    pod.captured(true)?;
    client.call_ok(pod.at(80), &["who"])?;
    eventually("it is counted no more", || {
        let closed = agent.metrics()?.sum("culvert_captures_closed", &[]);
        ensure!(closed == 0.0, "{closed}");
        Ok(())
    })
}

#[test]
fn a_closed_pod_that_leaves_the_mesh_is_as_it_was() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("leaves");
    let mut pod = mesh.pod_unseen(PodSpec::new(&ns, "pod"))?;
    let _app = pod.serve(&["who:80"])?;
    let mut ips = pod.ips().to_vec();
    ips.push("10.244.0.241".parse()?);
    let file = format!("pod-{ns}-pod.yaml");
    let yaml = |spec: &PodSpec| spec.yaml(&pod.node.name, &pod.place.netns, &ips);
    mesh.apply(&file, &yaml(&pod.spec))?;
    eventually("it is closed", || {
        let found = capture(pod.agent(), &pod.uid())?;
        ensure!(found["state"] == "closed", "{found}");
        Ok(())
    })?;
    let spec = PodSpec { enrolled: false, ..pod.spec.clone() };
    mesh.apply(&file, &yaml(&spec))?;
    eventually("it is open", || {
        let plain = tests::apps::call(&pod.node.place, pod.at(80), &["who"], &["--timeout", "1"])?;
        ensure!(plain.ok, "{plain:?}");
        Ok(())
    })?;
    pod.spec.enrolled = false;
    Ok(())
}

#[test]
fn seventeen_thousand_addresses_of_one_pod_leave_the_next_one_its_strict_policy() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("many");
    let bad = mesh.pod(PodSpec::new(&ns, "bad"))?;
    mesh.apply_seen("strict.yaml", &peer_authentication(&ns, "strict", "", "STRICT", &[]), "strict")?;
    let lines: String = (0..17_000).map(|n| format!("addr add 10.99.{}.{}/32 dev lo\n", n / 256, n % 256)).collect();
    let batch = mesh.net.run.files().join("addresses");
    std::fs::write(&batch, lines)?;
    bad.place.run("ip", &["-batch", &batch.to_string_lossy()])?;
    let good = mesh.pod(PodSpec::new(&ns, "good"))?;
    let client = mesh.pod(PodSpec::new(&ns, "client").on(1))?;
    let _app = good.serve(&["who:80"])?;
    for target in [good.at(80), good.at6(80)] {
        client.call_ok(target, &["who"])?;
        let plain = tests::apps::call(&good.node.place, target, &["who"], &["--timeout", "1"])?;
        ensure!(!plain.ok, "plaintext got in: {plain:?}");
    }
    eventually("it is told of", || {
        let found = capture(bad.agent(), &bad.uid())?;
        ensure!(found["error"].to_string().contains("over its quota"), "{found}");
        Ok(())
    })
}

#[test]
fn a_pod_that_is_renamed_in_its_namespace_is_captured_under_its_new_name() -> Result<()> {
    let mesh = Mesh::start()?;
    let ns = mesh.namespace("renamed");
    let client = mesh.pod(PodSpec::new(&ns, "client").on(1))?;
    let pod = mesh.pod(PodSpec::new(&ns, "before"))?;
    let _app = pod.serve(&["who:80", "echo:7000"])?;
    let mut talk = client.talk(pod.at(7000))?;
    talk.echo("to the old name")?;
    let spec = PodSpec { name: "after".to_owned(), ..pod.spec.clone() };
    mesh.apply(&format!("pod-{ns}-before.yaml"), &spec.yaml(&pod.node.name, &pod.place.netns, &pod.ips()))?;
    eventually("the new name has it", || {
        let found = capture(pod.agent(), &format!("Kubernetes//Pod/{ns}/after"))?;
        ensure!(found["state"] == "captured", "{found}");
        Ok(())
    })?;
    client.call_ok(pod.at(80), &["who"])?;
    talk.echo("still")?;
    Ok(())
}
