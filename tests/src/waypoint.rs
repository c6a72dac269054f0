//! The real `culvert-waypoint` in a pod of its own: start, query, kill.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::agent::{Memory, memory};
use super::apps::binary;
use super::eventually::eventually;
use super::manifest::{GATEWAY_NAME, PodSpec};
use super::mesh::{Mesh, Pod};
use super::observe::{LogLine, Metrics, get, log_lines};
use super::process::{Place, Process};

/// Options of a waypoint.
#[derive(Clone, Debug)]
pub struct WaypointOptions {
    /// The `culvert-waypoint` to run.
    pub program: PathBuf,
    /// `<namespace>/<name>` of its Gateway.
    pub gateway: String,
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// Directory of the embedded CA.
    pub ca_dir: PathBuf,
    /// Path of the log.
    pub log: PathBuf,
    /// More flags.
    pub flags: Vec<String>,
}

/// A waypoint in a pod. Killed when dropped.
#[derive(Debug)]
pub struct Waypoint {
    place: Place,
    addresses: Vec<IpAddr>,
    options: WaypointOptions,
    process: Mutex<Option<Process>>,
}

impl Waypoint {
    /// Starts it at the pod's addresses and waits until it is ready.
    pub fn start(place: &Place, addresses: Vec<IpAddr>, options: WaypointOptions) -> Result<Self> {
        let waypoint = Self { place: place.clone(), addresses, options, process: Mutex::new(None) };
        waypoint.launch()?;
        Ok(waypoint)
    }

    /// Starts it again after `kill`, and waits until it is ready.
    pub fn launch(&self) -> Result<()> {
        let options = &self.options;
        let mut command = self.place.command(&options.program)?;
        command.args(["--gateway", &options.gateway, "--log-format", "json", "--manifests"]).arg(&options.manifests);
        command.arg("--ca-dir").arg(&options.ca_dir);
        for address in &self.addresses {
            command.args(["--listen", &SocketAddr::new(*address, 15008).to_string()]);
        }
        command.args(&options.flags).env("RUST_BACKTRACE", "1").env_remove("RUST_LOG").current_dir("/");
        let process = Process::logging(&self.place, command, &options.log)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        let ended = eventually(&format!("waypoint {} is ready", options.gateway), || match self.ended()? {
            Some(status) => Ok(Some(status)),
            None => get(&self.place, 15021, "/healthz/ready").map(|_| None),
        });
        match ended.with_context(|| format!("its log ends with:\n{}", self.log_tail()))? {
            None => Ok(()),
            Some(status) => bail!("the waypoint ended ({status}); its log ends with:\n{}", self.log_tail()),
        }
    }

    fn ended(&self) -> Result<Option<std::process::ExitStatus>> {
        match self.process.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(process) => process.ended(),
            None => Ok(None),
        }
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.take().context("the waypoint is not running")?.kill()?;
        Ok(())
    }

    /// The metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&get(&self.place, 15020, "/metrics")?))
    }

    /// One page of its admin server.
    pub fn dump(&self) -> Result<Value> {
        serde_json::from_str(&get(&self.place, 15000, "/config_dump")?).context("parse /config_dump")
    }

    /// Path of the log.
    pub fn log_file(&self) -> &Path {
        &self.options.log
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.options.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Waits for an access log line that matches.
    pub fn access(&self, what: &str, matches: impl Fn(&LogLine) -> bool) -> Result<LogLine> {
        eventually(&format!("access log of the waypoint: {what}"), || {
            let lines: Vec<_> = log_lines(&self.options.log)?.into_iter().filter(LogLine::is_access).collect();
            let found = lines.iter().rev().find(|line| matches(line)).cloned();
            found.with_context(|| format!("the log ends with:\n{}", self.log_tail()))
        })
    }

    /// Memory of the process.
    pub fn memory(&self) -> Result<Memory> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        memory(process.as_ref().context("the waypoint is not running")?.pid())
    }
}

/// A waypoint that is a pod of a mesh.
#[derive(Debug)]
pub struct WaypointPod {
    /// The process. Declared first: it ends before its pod does.
    pub waypoint: Waypoint,
    /// The pod.
    pub pod: Pod,
}

impl WaypointPod {
    /// Adds a pod of a Gateway to the mesh, with the waypoint running in it.
    pub fn start(mesh: &Arc<Mesh>, gateway: &str, spec: PodSpec) -> Result<Self> {
        let spec = spec.plain().label(GATEWAY_NAME, gateway);
        let pod = mesh.pod_unseen(spec)?;
        // The manifest comes first: the waypoint takes its identity from it.
        pod.apply(&pod.spec)?;
        let options = WaypointOptions {
            program: binary("culvert-waypoint", "CULVERT_WAYPOINT_BIN")?,
            gateway: format!("{}/{gateway}", pod.spec.namespace),
            manifests: mesh.manifests.clone(),
            ca_dir: mesh.ca_dir.clone(),
            log: mesh.net.run.files().join(format!("waypoint-{}-{}.log", pod.spec.namespace, pod.spec.name)),
            flags: Vec::new(),
        };
        let waypoint = Waypoint::start(&pod.place, pod.ips().to_vec(), options)?;
        pod.settled()?;
        Ok(Self { waypoint, pod })
    }
}
