//! An agent ends on SIGTERM, even during startup, whatever it waits for.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use tests::agent::Ports;
use tests::eventually::{allow, eventually};
use tests::mesh::{Mesh, MeshOptions};
use tests::process::Process;

/// An agent that is not ready yet, with other arguments than usual.
struct Starting {
    mesh: Arc<Mesh>,
    process: Process,
    log: PathBuf,
}

impl Starting {
    fn new(edit: impl FnOnce(&Mesh, &mut Vec<String>) -> Result<()>) -> Result<Self> {
        let mesh = Mesh::prepare(MeshOptions { nodes: 1, ..MeshOptions::default() })?;
        let agent = &mesh.agents[0];
        let mut arguments = agent.arguments();
        edit(&mesh, &mut arguments)?;
        let mut command = agent.node.agent().command(&agent.options().program)?;
        command.args(arguments).current_dir("/");
        let log = mesh.net.run.files().join("starting.log");
        let process = Process::logging(&agent.node.agent(), command, &log)?;
        Ok(Self { mesh, process, log })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has taken its ports: from then on it waits for what it was given.
    fn waits(&mut self) -> Result<()> {
        let place = self.mesh.nodes[0].place.clone();
        eventually("it has its ports", || {
            ensure!(self.process.ended()?.is_none(), "it has ended: {}", self.said());
            place.inside(|| TcpStream::connect(("127.0.0.1", Ports::default().ready)))??;
            Ok(())
        })?;
        // Longer than the start takes when there is nothing to wait for.
        std::thread::sleep(Duration::from_millis(700));
        ensure!(self.process.ended()?.is_none(), "it has ended: {}", self.said());
        Ok(())
    }

    fn ends(mut self, by: Signal) -> Result<String> {
        self.waits()?;
        let told = Instant::now();
        self.process.signal(by)?;
        let status = eventually("it ends", || self.process.ended()?.context("still runs"))
            .with_context(|| format!("it said:\n{}", self.said()))?;
        let took = told.elapsed();
        ensure!(status.code() == Some(0), "{status}: {}", self.said());
        ensure!(took < allow(Duration::from_secs(3)), "it took {took:?}");
        Ok(self.said())
    }
}

fn replace(arguments: &mut [String], flag: &str, value: &Path) -> Result<()> {
    let at = arguments.iter().position(|one| one == flag).with_context(|| format!("no {flag}"))?;
    arguments[at + 1] = value.to_string_lossy().into_owned();
    Ok(())
}

fn fifo(path: &Path) -> Result<()> {
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| path.display().to_string())
}

#[test]
fn without_its_manifests_it_ends_when_told() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let starting = Starting::new(|mesh, arguments| {
            replace(arguments, "--manifests", &mesh.net.run.files().join("not-there-yet"))
        })?;
        let said = starting.ends(signal)?;
        ensure!(said.contains("draining"), "{said}");
    }
    Ok(())
}

#[test]
fn behind_a_ca_that_somebody_else_makes_it_ends_when_told() -> Result<()> {
    let mut held = None;
    let starting = Starting::new(|mesh, _| {
        let lock = File::create(mesh.ca_dir.join(".lock"))?;
        lock.lock()?;
        held = Some(lock);
        Ok(())
    })?;
    let said = starting.ends(Signal::SIGTERM)?;
    ensure!(said.contains("SIGTERM"), "{said}");
    Ok(())
}

#[test]
fn behind_a_key_that_nobody_writes_it_ends_when_told() -> Result<()> {
    let starting = Starting::new(|mesh, _| {
        fs::write(mesh.ca_dir.join("ca-cert.pem"), "")?;
        fifo(&mesh.ca_dir.join("ca-key.pem"))
    })?;
    let said = starting.ends(Signal::SIGTERM)?;
    ensure!(said.contains("SIGTERM"), "{said}");
    Ok(())
}

#[test]
fn while_capture_waits_for_a_cgroup_it_ends_when_told() -> Result<()> {
    let starting = Starting::new(|mesh, arguments| {
        let group = mesh.net.run.files().join("kubelet");
        fifo(&group)?;
        replace(arguments, "--kubelet-cgroup", &group)
    })?;
    let said = starting.ends(Signal::SIGTERM)?;
    ensure!(said.contains("SIGTERM"), "{said}");
    Ok(())
}

#[test]
fn a_ca_that_cannot_be_read_ends_it_with_the_reason() -> Result<()> {
    let mut starting = Starting::new(|mesh, _| {
        fs::write(mesh.ca_dir.join("ca-cert.pem"), "")?;
        fs::create_dir(mesh.ca_dir.join("ca-key.pem"))?;
        Ok(())
    })?;
    let status = eventually("it ends", || starting.process.ended()?.context("still runs"))?;
    ensure!(status.code() == Some(2), "{status}");
    ensure!(starting.said().contains("ca-key.pem"), "{}", starting.said());
    Ok(())
}

#[test]
fn asked_over_its_admin_server_it_ends_without_its_manifests() -> Result<()> {
    let mut starting = Starting::new(|mesh, arguments| {
        replace(arguments, "--manifests", &mesh.net.run.files().join("not-there-yet"))
    })?;
    starting.waits()?;
    let (status, _) = starting.mesh.agents[0].admin("POST", "/quitquitquit")?;
    ensure!(status == 200, "{status}");
    let status = eventually("it ends", || starting.process.ended()?.context("still runs"))?;
    ensure!(status.code() == Some(0), "{status}: {}", starting.said());
    Ok(())
}
