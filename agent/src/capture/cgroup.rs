//! cgroup2: the mount point, the group of the pods, and a group of the agent's own.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use tracing::{info, warn};

use super::error::CaptureError;

/// Private mount point, used when cgroup2 is not mounted. No controllers are needed.
const PRIVATE_MOUNT: &str = "/run/culvert/cgroup2";
/// Names of the kubelet's group of all pods, by cgroup driver; kind nests it.
const KUBEPODS: [&str; 5] = [
    "kubepods.slice",
    "kubepods",
    "kubelet.slice/kubelet-kubepods.slice",
    "kubelet/kubepods",
    "system.slice/kubepods.slice",
];

/// The cgroup2 hierarchy as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// Whether there is no cgroup v1 hierarchy, so that containers have their own groups in this one.
    pub(super) pure: bool,
}

impl Hierarchy {
    /// Finds the cgroup2 mount; `None` if there is none.
    pub(super) fn find() -> Result<Option<Self>, CaptureError> {
        let path = "/proc/self/mountinfo";
        Ok(parse_mounts(&fs::read_to_string(path).map_err(CaptureError::file(path))?))
    }

    /// Like `find`; mounts it privately if nobody has.
    pub(super) fn find_or_mount() -> Result<Self, CaptureError> {
        if let Some(found) = Self::find()? {
            return Ok(found);
        }
        let root = PathBuf::from(PRIVATE_MOUNT);
        fs::create_dir_all(&root).map_err(CaptureError::file(&root))?;
        mount(Some("cgroup2"), &root, Some("cgroup2"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| CaptureError::Cgroup(format!("mounting cgroup2 at {PRIVATE_MOUNT}: {errno}")))?;
        info!(path = PRIVATE_MOUNT, "mounted cgroup2");
        Ok(Self { root, pure: false })
    }

    /// The group to which the programs of pods are attached. On a pure hierarchy that is the group of all pods, below
    /// whatever others attach to the root; elsewhere containers may be in any group.
    pub(super) fn pods(&self) -> PathBuf {
        if self.pure {
            let found = KUBEPODS.iter().map(|name| self.root.join(name)).find(|path| path.is_dir());
            if let Some(path) = found {
                return path;
            }
        }
        self.root.clone()
    }

    /// The group of this process.
    pub(super) fn current(&self) -> Result<PathBuf, CaptureError> {
        let path = "/proc/self/cgroup";
        let text = fs::read_to_string(path).map_err(CaptureError::file(path))?;
        let group = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let group = group.ok_or_else(|| CaptureError::Cgroup("this process is in no cgroup2".into()))?;
        Ok(self.root.join(group))
    }

    /// Moves this process to a cgroup of its own, if necessary, and returns it.
    pub(super) fn join_own(&self, wanted: Option<&Path>, node: &str) -> Result<PathBuf, CaptureError> {
        if let Some(path) = wanted {
            join(path).map_err(CaptureError::file(path))?;
            return Ok(path.to_owned());
        }
        let current = self.current()?;
        let name = group_name(node);
        if current.file_name().is_some_and(|last| last == name.as_str()) {
            return Ok(current);
        }
        let own = current.join(name);
        match join(&own) {
            Ok(()) => Ok(own),
            // Cgroups may be read-only in a container; the container has a group of its own then.
            Err(error) if is_alone(&current) => {
                warn!(%error, group = %current.display(), "no cgroup of its own could be made; using the present one");
                Ok(current)
            }
            Err(source) => Err(CaptureError::File { path: own, source }),
        }
    }
}

/// The name of the agent's group; stable across restarts, so that both agents know each other's.
pub(super) fn group_name(node: &str) -> String {
    let safe = node.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' });
    format!("culvert-{}", safe.collect::<String>())
}

/// The id of a cgroup in eBPF programs: its inode.
pub(super) fn id(path: &Path) -> Result<u64, CaptureError> {
    Ok(fs::metadata(path).map_err(CaptureError::file(path))?.ino())
}

/// Opens a cgroup to attach programs to it.
pub(super) fn open(path: &Path) -> Result<File, CaptureError> {
    File::open(path).map_err(CaptureError::file(path))
}

fn join(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        fs::create_dir(path)?;
    }
    fs::write(path.join("cgroup.procs"), std::process::id().to_string())
}

/// Whether no other process is in the group.
fn is_alone(group: &Path) -> bool {
    let Ok(processes) = fs::read_to_string(group.join("cgroup.procs")) else { return false };
    let own = std::process::id().to_string();
    processes.lines().all(|line| line == own)
}

/// Reads `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn parse_mounts(text: &str) -> Option<Hierarchy> {
    let mounts: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            Some((mount.split(' ').nth(4)?, filesystem.split(' ').next()?))
        })
        .collect();
    let pure = !mounts.iter().any(|(_, filesystem)| *filesystem == "cgroup");
    let (root, _) = mounts.iter().find(|(_, filesystem)| *filesystem == "cgroup2")?;
    Some(Hierarchy { root: root.into(), pure })
}

#[cfg(test)]
mod tests {
    use super::{Hierarchy, group_name, parse_mounts};

    const PURE: &str = "24 1 0:22 / / rw shared:1 - ext4 /dev/vda rw\n\
                        30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "30 24 0:26 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n\
                          31 24 0:27 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n";

    #[test]
    fn a_machine_with_cgroup2_alone_is_pure() {
        assert_eq!(parse_mounts(PURE), Some(Hierarchy { root: "/sys/fs/cgroup".into(), pure: true }));
    }

    #[test]
    fn a_machine_with_both_is_not_pure() {
        assert_eq!(parse_mounts(HYBRID), Some(Hierarchy { root: "/sys/fs/cgroup/unified".into(), pure: false }));
    }

    #[test]
    fn a_machine_without_cgroup2_has_none() {
        assert_eq!(parse_mounts("24 1 0:22 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn group_names_are_safe() {
        assert_eq!(group_name("node-1.example/x"), "culvert-node-1-example-x");
    }
}
