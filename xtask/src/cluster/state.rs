//! What a running cluster leaves in its directory for later commands, `down` first of all.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::layout::{Machine, STATE, machines};

/// A cluster that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// How many nodes it has.
    pub(crate) nodes: u8,
    /// Where its programs and images lie.
    pub(crate) programs: PathBuf,
    /// Its cgroup in every hierarchy.
    pub(crate) cgroups: Vec<PathBuf>,
}

impl State {
    /// The cluster on this machine, if one was begun.
    pub(crate) fn load() -> Result<Option<Self>> {
        match fs::read_to_string(file()) {
            Ok(text) => Self::parse(&text).map(Some).with_context(|| format!("reading {}", file().display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file().display())),
        }
    }

    /// The cluster on this machine.
    ///
    /// # Errors
    /// When there is none, saying how to get one.
    pub(crate) fn required() -> Result<Self> {
        Self::load()?.context("there is no cluster; `cargo xtask cluster up` makes one")
    }

    /// Writes it into the cluster's directory, whole or not at all.
    pub(crate) fn save(&self) -> Result<()> {
        let new = file().with_extension("new");
        fs::write(&new, self.text()).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, file()).with_context(|| format!("writing {}", file().display()))
    }

    fn text(&self) -> String {
        json!({"nodes": self.nodes, "programs": self.programs, "cgroups": self.cgroups}).to_string()
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let nodes = value["nodes"].as_u64().and_then(|nodes| u8::try_from(nodes).ok()).context("no nodes")?;
        let programs = PathBuf::from(value["programs"].as_str().context("no programs")?);
        let cgroups = value["cgroups"].as_array().context("no cgroups")?;
        let cgroups = cgroups.iter().filter_map(|path| Some(PathBuf::from(path.as_str()?))).collect();
        Ok(Self { nodes, programs, cgroups })
    }

    /// One of its programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join("bin").join(name)
    }

    /// Whether it was brought up to its end and all its machines still run.
    pub(crate) fn is_whole(&self) -> bool {
        ready().exists() && machines(self.nodes).into_iter().all(|machine| pid(machine).is_some())
    }
}

/// The file that says that the cluster was brought up to its end.
pub(crate) fn ready() -> PathBuf {
    Path::new(STATE).join("ready")
}

/// The administrator's kubeconfig.
pub(crate) fn kubeconfig() -> PathBuf {
    Path::new(STATE).join("kubeconfig")
}

/// A machine's first process, by its id outside of the machine, while it runs.
pub(crate) fn pid(machine: Machine) -> Option<u32> {
    let text = fs::read_to_string(machine.directory().join("pid")).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    // The number may be another process's by now; its start time is not.
    (start_time(pid)? == started).then_some(pid)
}

/// Notes a machine's first process.
pub(crate) fn save_pid(machine: Machine, pid: u32) -> Result<()> {
    let Some(started) = start_time(pid) else {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        bail!("the machine's first process {pid} ended at once, or cannot be seen: {stat:?}");
    };
    let file = machine.directory().join("pid");
    fs::write(&file, format!("{pid} {started}\n")).with_context(|| format!("writing {}", file.display()))
}

/// Field 22 of `/proc/PID/stat`: when the process was started, in clock ticks since boot.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?;
    (state != "Z").then(|| started.to_owned())
}

fn file() -> PathBuf {
    Path::new(STATE).join("cluster.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let state = State {
            nodes: 3,
            programs: PathBuf::from("/a \"b\""),
            cgroups: vec![PathBuf::from("/c"), PathBuf::from("/d")],
        };
        assert_eq!(State::parse(&state.text()).unwrap(), state);
        assert!(State::parse("{}").is_err() && State::parse("").is_err());
    }

    #[test]
    fn a_process_that_ended_has_no_start_time() {
        let own = start_time(std::process::id()).unwrap();
        assert!(own.parse::<u64>().unwrap() > 0);
        assert_eq!(start_time(u32::MAX), None);
    }
}
