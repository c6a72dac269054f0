//! Identity: the embedded CA, a user's own CA, and the renewal of certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::eventually::eventually;
use tests::manifest::PodSpec;
use tests::mesh::{Mesh, MeshOptions, private_directory};
use tests::pki::Authority;
use tests::programs;
use tests::tunnel::Tunnel;

fn works(mesh: &std::sync::Arc<Mesh>) -> Result<()> {
    let ns = mesh.namespace("id");
    let client = mesh.pod(PodSpec::new(&ns, "client").account("shopper"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1).account("till"))?;
    let _app = server.serve(&["who:80"])?;
    for target in [server.at(80), server.at6(80)] {
        client.call_ok(target, &["who"])?;
    }
    for (agent, direction) in [(client.agent(), "outbound"), (server.agent(), "inbound")] {
        let line = agent.access(direction, |l| l.get("direction") == direction && l.get("src.namespace") == ns)?;
        ensure!(line.get("src.identity") == format!("spiffe://cluster.local/ns/{ns}/sa/shopper"), "{}", line.text());
        ensure!(line.get("dst.identity") == format!("spiffe://cluster.local/ns/{ns}/sa/till"), "{}", line.text());
        ensure!(line.get("src.workload") == "client" && line.get("dst.workload") == "server", "{}", line.text());
    }
    Ok(())
}

#[test]
fn agents_that_start_at_once_on_an_empty_directory_trust_each_other() -> Result<()> {
    for _ in 0..3 {
        let mesh = Mesh::with(MeshOptions { nodes: 3, ..MeshOptions::default() })?;
        let mode = |path: &std::path::Path| Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
        ensure!(mode(&mesh.ca_dir)? & 0o077 == 0, "others can read the directory");
        let mut keys = 0;
        for entry in fs::read_dir(&mesh.ca_dir)? {
            let path = entry?.path();
            if fs::read_to_string(&path).unwrap_or_default().contains("PRIVATE KEY") {
                keys += 1;
                ensure!(mode(&path)? == 0o600, "{} has mode {:o}", path.display(), mode(&path)?);
            }
        }
        ensure!(keys == 1, "{keys} keys in the directory");
        works(&mesh)?;
    }
    Ok(())
}

#[test]
fn the_embedded_root_is_p256_and_lasts_ten_years_and_leaves_a_day() -> Result<()> {
    let mesh = Mesh::start()?;
    let root = openssl(&["x509", "-in", &mesh.ca_dir.join("root-cert.pem").to_string_lossy(), "-noout", "-text"])
        .or_else(|_| {
            openssl(&["x509", "-in", &mesh.ca_dir.join("ca-cert.pem").to_string_lossy(), "-noout", "-text"])
        })?;
    ensure!(root.contains("prime256v1") && root.contains("CA:TRUE"), "{root}");
    let ns = mesh.namespace("root");
    let server = mesh.pod(PodSpec::new(&ns, "server"))?;
    let certificate = &certificates(&mesh, &server.identity())?;
    let times = |field: &str| certificate["certChain"][0][field].as_str().map(str::to_owned).context("no such field");
    let (from, to) = (times("validFrom")?, times("expirationTime")?);
    let seconds = |text: &str| -> Result<i64> {
        Ok(programs::command("date")?
            .args(["-u", "-d", text, "+%s"])
            .output()
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().parse())??)
    };
    let life = seconds(&to)? - seconds(&from)?;
    ensure!((86_000..87_500).contains(&life), "a leaf lives {life} s");
    let end = openssl(&["x509", "-in", &mesh.ca_dir.join("ca-cert.pem").to_string_lossy(), "-noout", "-enddate"])?;
    let years = (seconds(end.trim().trim_start_matches("notAfter="))? - seconds("now")?) / (365 * 86_400);
    ensure!((9..=10).contains(&years), "the root lives {years} years");
    Ok(())
}

fn certificates(mesh: &Mesh, identity: &str) -> Result<serde_json::Value> {
    eventually(&format!("a certificate of {identity}"), || {
        let dump = mesh.agents[0].dump()?;
        let list = dump["certificates"].as_array().context("no certificates in the dump")?;
        let found = list.iter().find(|c| c["identity"] == identity).context("not there")?;
        ensure!(found["state"] == "Available", "{found}");
        Ok(found.clone())
    })
}

#[test]
fn a_directory_that_others_can_read_is_refused() -> Result<()> {
    let mesh = Mesh::prepare(MeshOptions { nodes: 1, ..MeshOptions::default() })?;
    fs::set_permissions(&mesh.ca_dir, fs::Permissions::from_mode(0o755))?;
    let agent = &mesh.agents[0];
    agent.launch()?;
    let (code, _) = agent.wait_end()?;
    ensure!(code == Some(2) || code == Some(1), "exit code {code:?}");
    let log = agent.log_text();
    ensure!(log.contains(&mesh.ca_dir.display().to_string()), "the directory is not named:\n{log}");
    Ok(())
}

#[test]
fn a_users_own_ca_of_either_kind_with_an_intermediate_is_used() -> Result<()> {
    for kind in ["ec", "rsa"] {
        let mesh = Mesh::prepare(MeshOptions::default())?;
        let directory = mesh.net.run.files().join(format!("openssl-{kind}"));
        private_directory(&directory)?;
        make_cacerts(&directory, kind).with_context(|| kind.to_owned())?;
        for name in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"] {
            tests::mesh::write_private(&mesh.ca_dir.join(name), &fs::read_to_string(directory.join(name))?)?;
        }
        for agent in &mesh.agents {
            agent.launch()?;
        }
        for agent in &mesh.agents {
            agent.wait_ready()?;
        }
        works(&mesh).with_context(|| kind.to_owned())?;
        // The root file is as it was: nothing of our own was put in its place.
        ensure!(fs::read(directory.join("root-cert.pem"))? == fs::read(mesh.ca_dir.join("root-cert.pem"))?);
    }
    Ok(())
}

/// Makes the four files of a `cacerts` secret with openssl: a root, and an intermediate that signs.
fn make_cacerts(directory: &std::path::Path, kind: &str) -> Result<()> {
    let file = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let key: &[&str] = match kind {
        "ec" => &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"],
        _ => &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"],
    };
    for name in ["root-key.pem", "ca-key.pem"] {
        openssl(&[key, &[&file(name)]].concat())?;
    }
    let ca = "basicConstraints=critical,CA:TRUE";
    let usage = "keyUsage=critical,keyCertSign,cRLSign";
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &file("root-key.pem"),
        "-subj",
        "/O=Root",
        "-days",
        "30",
        "-addext",
        usage,
        "-out",
        &file("root-cert.pem"),
    ])?;
    openssl(&["req", "-new", "-key", &file("ca-key.pem"), "-subj", "/O=Middle", "-out", &file("ca.csr")])?;
    fs::write(
        directory.join("ext"),
        format!("{ca}\n{usage}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"),
    )?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        &file("ca.csr"),
        "-CA",
        &file("root-cert.pem"),
        "-CAkey",
        &file("root-key.pem"),
        "-CAcreateserial",
        "-days",
        "30",
        "-extfile",
        &file("ext"),
        "-out",
        &file("ca-cert.pem"),
    ])?;
    let chain =
        fs::read_to_string(directory.join("ca-cert.pem"))? + &fs::read_to_string(directory.join("root-cert.pem"))?;
    fs::write(directory.join("cert-chain.pem"), chain)?;
    Ok(())
}

fn openssl(args: &[&str]) -> Result<String> {
    let output = programs::command("openssl")?.args(args).output().context("start openssl")?;
    ensure!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn certificates_are_renewed_before_they_expire_and_nobody_notices() -> Result<()> {
    let ca = Authority::new("Test")?;
    let options = MeshOptions {
        flags: vec!["--cert-ttl".to_owned(), "10s".to_owned()],
        ca_files: ca.files(),
        ..MeshOptions::default()
    };
    let mesh = Mesh::with(options)?;
    let ns = mesh.namespace("renew");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let _app = server.serve(&["who:80", "echo:7000"])?;
    let mut talk = client.talk(server.at(7000))?;
    let mut load = client.load(server.at(80), 1)?;
    let leaf = ca.identity(&ns, "client")?;
    let first = Tunnel::open(&client.node.place, server.at(15008), &leaf)?.server_leaf;
    eventually("another leaf is shown", || {
        let now = Tunnel::open(&client.node.place, server.at(15008), &leaf)?.server_leaf;
        ensure!(now != first, "the same leaf");
        Ok(())
    })?;
    // Past the end of the first.
    std::thread::sleep(Duration::from_secs(8));
    client.call_ok(server.at(80), &["who"])?;
    talk.echo("the connection outlives the certificate it began with")?;
    let count = load.count()?;
    ensure!(count.ok > 0 && count.errors.is_empty(), "{count:?}");
    Ok(())
}

#[test]
fn the_destination_must_be_who_the_manifest_says_it_is() -> Result<()> {
    let ca = Authority::new("Test")?;
    let mesh = Mesh::with(MeshOptions { ca_files: ca.files(), ..MeshOptions::default() })?;
    let ns = mesh.namespace("swap");
    let client = mesh.pod(PodSpec::new(&ns, "client"))?;
    let server = mesh.pod(PodSpec::new(&ns, "server").on(1))?;
    let app = server.serve(&["who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    let accepted = app.accepted();
    // The agents are told different things about the same pod: the server's own still believes in the old account.
    mesh.agents[1].kill()?;
    let old = mesh.net.run.files().join("old-manifests");
    fs::create_dir_all(&old)?;
    for entry in fs::read_dir(&mesh.manifests)?.flatten() {
        fs::copy(entry.path(), old.join(entry.file_name()))?;
    }
    let spec = PodSpec { service_account: "someone-else".to_owned(), ..server.spec.clone() };
    server.apply(&spec)?;
    let options = tests::agent::AgentOptions { manifests: old, ..mesh.agents[1].options().clone() };
    let _stubborn = tests::agent::Agent::start(&mesh.nodes[1], options, mesh.net.run.files().join("old-manifests"))?;
    eventually("the client's agent expects the new account", || {
        let text = client.agent().dump()?["workloads"].to_string();
        ensure!(text.contains("someone-else"), "{text}");
        Ok(())
    })?;
    client.call_refused(server.at(80), &["who"])?;
    ensure!(app.accepted() == accepted, "the application was reached");
    client.agent().access("the refusal", |l| {
        let error = l.get("error");
        l.get("direction") == "outbound" && (error.contains("identity") || error.contains("certificate"))
    })?;
    Ok(())
}

#[test]
fn the_trust_domain_is_part_of_every_identity_and_a_foreign_one_is_refused() -> Result<()> {
    let ca = Authority::new("Test")?;
    let flags = vec!["--trust-domain".to_owned(), "mesh.example".to_owned()];
    let mesh = Mesh::prepare(MeshOptions { ca_files: ca.files(), flags, ..MeshOptions::default() })?;
    for agent in &mesh.agents {
        agent.launch()?;
    }
    for agent in &mesh.agents {
        agent.wait_ready()?;
    }
    let client = mesh.pod(PodSpec::new("app", "client"))?;
    let server = mesh.pod(PodSpec::new("app", "server").on(1))?;
    let app = server.serve(&["who:80"])?;
    client.call_ok(server.at(80), &["who"])?;
    let line = server.agent().access("the call", |l| l.get("direction") == "inbound")?;
    ensure!(line.get("src.identity") == "spiffe://mesh.example/ns/app/sa/client", "{}", line.text());
    // The same root, another trust domain: an agent of another mesh.
    mesh.agents[0].kill()?;
    let options = tests::agent::AgentOptions { flags: Vec::new(), ..mesh.agents[0].options().clone() };
    let directory = mesh.net.run.files().join("other");
    fs::create_dir_all(&directory)?;
    let foreign = tests::agent::Agent::start(&mesh.nodes[0], options, directory)?;
    eventually("the client is captured again", || {
        let captures = foreign.dump()?["captures"].to_string();
        ensure!(captures.contains("\"captured\""), "{captures}");
        Ok(())
    })?;
    let accepted = app.accepted();
    client.call_refused(server.at(80), &["who"])?;
    ensure!(app.accepted() == accepted, "the application was reached");
    Ok(())
}
