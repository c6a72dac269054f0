//! The cluster's subtree in every cgroup hierarchy of the machine.
//!
//! It lies below the cgroup of whoever starts the cluster, so that limits set on them hold for it too. Each machine has
//! a cgroup in it, which a cgroup namespace makes the root of all that the machine's programs see.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::layout::CGROUP;

/// One hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// What to mount it again with: `cpu,cpuacct`, `none,name=systemd`; empty for version 2.
    pub(crate) options: String,
    /// Our own cgroup in it, relative to the mount.
    own: PathBuf,
}

impl Hierarchy {
    /// Whether it is the one of version 2.
    pub(crate) fn is_unified(&self) -> bool {
        self.options.is_empty()
    }

    /// The cluster's cgroup in it.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.mount.join(&self.own).join(CGROUP)
    }
}

/// The hierarchies of this machine, as this process sees them.
///
/// # Errors
/// When the machine has not the tree that the cluster was made for: controllers of version 1 beside version 2.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let own = fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
    let found = parse(&mounts, &own);
    let has = |controller: &str| found.iter().any(|one| one.options.split(',').any(|option| option == controller));
    for controller in ["cpu", "cpuacct", "cpuset", "memory", "pids"] {
        if !has(controller) {
            bail!(
                "the cgroup controller {controller} is not mounted as version 1; the cluster is made for machines with \
                 controllers of version 1 beside a hierarchy of version 2, and has not been tried on others"
            );
        }
    }
    if !found.iter().any(Hierarchy::is_unified) {
        bail!("no cgroup hierarchy of version 2 is mounted; the cluster is stopped through it");
    }
    Ok(found)
}

fn parse(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let mount = mounts.lines().find_map(|mount| {
            let mut words = mount.split(' ').skip(1);
            let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
            let is_it = if controllers.is_empty() {
                kind == "cgroup2"
            } else {
                kind == "cgroup" && controllers.split(',').all(|one| options.split(',').any(|option| option == one))
            };
            is_it.then(|| PathBuf::from(place))
        });
        if let Some(mount) = mount {
            let named = controllers.starts_with("name=");
            let options = if named { format!("none,{controllers}") } else { controllers.to_owned() };
            found.push(Hierarchy { mount, options, own: PathBuf::from(path.trim_start_matches('/')) });
        }
    }
    found
}

/// Makes a cgroup for each of these machines, below the cluster's own, and returns the cluster's own cgroups.
pub(crate) fn make(machines: &[String]) -> Result<Vec<PathBuf>> {
    let mut clusters = Vec::new();
    for hierarchy in hierarchies()? {
        let cluster = hierarchy.cluster();
        for directory in std::iter::once(cluster.clone()).chain(machines.iter().map(|name| cluster.join(name))) {
            fs::create_dir(&directory).with_context(|| format!("making cgroup {}", directory.display()))?;
            // Nothing can run in a cpuset that names no CPU and no memory, and a new one names none.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = directory.with_file_name(file);
                if parent.exists() && !hierarchy.is_unified() {
                    fs::write(directory.join(file), fs::read_to_string(parent)?)
                        .with_context(|| format!("filling {file} of {}", directory.display()))?;
                }
            }
        }
        clusters.push(cluster);
    }
    Ok(clusters)
}

/// Moves this process into a machine's cgroups, below those of the cluster.
pub(crate) fn join(clusters: &[PathBuf], machine: &str) -> Result<()> {
    for cluster in clusters {
        let procs = cluster.join(machine).join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("joining {}", procs.display()))?;
    }
    Ok(())
}

/// The ids of all processes in and below a cgroup.
pub(crate) fn processes(cgroup: &Path) -> Vec<u32> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut ids: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    ids.extend(children(cgroup).iter().flat_map(|child| processes(child)));
    ids
}

/// Kills every process in these cgroups and removes them, deepest first.
///
/// # Errors
/// When processes are left after `patience`, or a cgroup cannot be removed.
pub(crate) fn remove(clusters: &[PathBuf], patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        for cluster in clusters {
            // Only the hierarchy of version 2 has this file; what is in the others is in it too.
            let kill = cluster.join("cgroup.kill");
            if kill.exists() {
                fs::write(&kill, "1").with_context(|| format!("writing {}", kill.display()))?;
            }
            thaw(cluster);
        }
        let left: Vec<u32> = clusters.iter().flat_map(|cluster| processes(cluster)).collect();
        if left.is_empty() {
            break;
        }
        if Instant::now() > end {
            bail!("processes {left:?} do not end");
        }
        sleep(Duration::from_millis(20));
    }
    for cluster in clusters {
        while let Err(error) = remove_tree(cluster) {
            // A cgroup is busy for a moment after its last process has ended.
            if Instant::now() > end {
                return Err(error);
            }
            sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// A process that the freezer of version 1 holds does not take its death before it is let go.
fn thaw(cgroup: &Path) {
    let state = cgroup.join("freezer.state");
    if fs::read_to_string(&state).is_ok_and(|state| state.trim() != "THAWED") {
        // A cgroup that vanished meanwhile needs no thawing.
        let _ = fs::write(&state, "THAWED");
    }
    children(cgroup).iter().for_each(|child| thaw(child));
}

fn remove_tree(cgroup: &Path) -> Result<()> {
    for child in children(cgroup) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing cgroup {}", cgroup.display()))
        }
        _ => Ok(()),
    }
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchies_are_found_with_our_place_in_them() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let own = "9:name=systemd:/a\n3:cpuset:/\n2:cpu,cpuacct:/b/c\n5:hugetlb:/\n0::/bg\n";
        let found = parse(mounts, own);
        let shown: Vec<_> =
            found.iter().map(|one| (one.options.as_str(), one.cluster().display().to_string())).collect();
        assert_eq!(
            shown,
            [
                ("none,name=systemd", "/sys/fs/cgroup/systemd/a/culvert-cluster".to_owned()),
                ("cpuset", "/sys/fs/cgroup/cpuset/culvert-cluster".to_owned()),
                ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/b/c/culvert-cluster".to_owned()),
                ("", "/sys/fs/cgroup/unified/bg/culvert-cluster".to_owned()),
            ]
        );
        assert!(found[3].is_unified() && !found[1].is_unified());
    }
}
