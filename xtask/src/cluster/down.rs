//! From anything to nothing: ends every process of a cluster and removes all that it left, however far it had come.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::layout::{LINK, STATE};
use super::state::State;
use super::{cgroups, network};

/// How long processes may take to end. A cgroup that is frozen from outside takes as long as it is frozen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Removes whatever there is of a cluster; nothing is not an error.
pub(crate) fn remove() -> Result<()> {
    // A cluster that was begun has its cgroups noted before it has anything else. Without the note, look where one
    // would be made now.
    let noted = State::load().ok().flatten().map(|state| state.cgroups);
    let known = match noted {
        Some(cgroups) => cgroups,
        None => cgroups::hierarchies()?.iter().map(cgroups::Hierarchy::cluster).collect(),
    };
    let existing: Vec<PathBuf> = known.into_iter().filter(|cgroup| cgroup.exists()).collect();
    cgroups::remove(&existing, PATIENCE)?;
    network::disconnect()?;
    match fs::remove_dir_all(STATE) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| format!("removing {STATE}")),
        _ => Ok(()),
    }
}

/// Whether anything of a cluster is there.
pub(crate) fn is_anything_left() -> Result<bool> {
    Ok(!leftovers()?.is_empty())
}

/// Checks that nothing of a cluster is there.
///
/// # Errors
/// Naming everything that is.
pub(crate) fn verify() -> Result<()> {
    let left = leftovers()?;
    if left.is_empty() { Ok(()) } else { bail!("left behind: {}", left.join(", ")) }
}

/// What there is of a cluster: directory, link, mounts, cgroups, processes.
fn leftovers() -> Result<Vec<String>> {
    let mut left = Vec::new();
    if Path::new(STATE).exists() {
        left.push(format!("directory {STATE}"));
    }
    if fs::exists(format!("/sys/class/net/{LINK}"))? {
        left.push(format!("network link {LINK}"));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    left.extend(mounts.lines().filter(|line| line.contains(STATE)).map(|line| format!("mount `{line}`")));
    for hierarchy in cgroups::hierarchies()? {
        let cgroup = hierarchy.cluster();
        if cgroup.exists() {
            left.push(format!("cgroup {} with processes {:?}", cgroup.display(), cgroups::processes(&cgroup)));
        }
    }
    // A process in a cgroup that was removed, or in a root that was.
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Ok(mounts) = fs::read_to_string(entry.path().join("mountinfo")) else { continue };
        if mounts.contains(&format!("upperdir={STATE}/")) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            left.push(format!("process {} ({})", entry.file_name().display(), command.trim()));
        }
    }
    Ok(left)
}
