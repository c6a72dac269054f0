//! What the machine must offer before any program is loaded.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::report::{Check, Finding};

/// Descriptors an agent wants: a captured connection takes two, a tunnel one.
const OPEN_FILES: u64 = 65_536;

/// The checks of the section "host".
pub(super) fn checks(bpf_root: &Path) -> Vec<Check> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let hard_limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    vec![
        Check::new("host-capabilities", "has the capabilities SYS_ADMIN and NET_ADMIN", capabilities(&status)),
        Check::new("host-btf", "the kernel describes its types (BTF)", btf()),
        Check::new("host-cgroup2", "a cgroup2 hierarchy is mounted", cgroup2(&mounts)),
        Check::new("host-bpffs", format!("{} can hold pinned programs", bpf_root.display()), bpffs(bpf_root)),
        Check::new("host-open-files", format!("may open {OPEN_FILES} files"), open_files(hard_limit)),
    ]
}

/// Judges the line `CapEff` of /proc/self/status. With SYS_ADMIN neither BPF, PERFMON nor NET_RAW is needed.
fn capabilities(status: &str) -> Finding {
    const NEEDED: [(u64, &str); 2] = [(12, "NET_ADMIN"), (21, "SYS_ADMIN")];
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Finding::warning("/proc/self/status does not tell the capabilities", "is /proc mounted?");
    };
    let missing: Vec<_> = NEEDED.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Finding::Fine;
    }
    Finding::wrong(format!("missing: {}", missing.join(", ")), "run as root, or grant them in the securityContext")
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Finding::Fine;
    }
    Finding::wrong("/sys/kernel/btf/vmlinux is missing", "use a kernel built with CONFIG_DEBUG_INFO_BTF")
}

fn cgroup2(mounts: &str) -> Finding {
    // Fields of /proc/self/mounts: device, mount point, type, options.
    if mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        return Finding::Fine;
    }
    Finding::wrong("no file system of type cgroup2 in /proc/self/mounts", "mount -t cgroup2 none /sys/fs/cgroup")
}

fn bpffs(root: &Path) -> Finding {
    let existing: PathBuf = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
    match statfs(&existing) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => Finding::Fine,
        Ok(_) => Finding::wrong(
            format!("{} is not on a bpf file system", existing.display()),
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        Err(error) => Finding::wrong(format!("{}: {error}", existing.display()), ""),
    }
}

fn open_files(hard_limit: u64) -> Finding {
    if hard_limit >= OPEN_FILES {
        return Finding::Fine;
    }
    Finding::warning(format!("the hard limit is {hard_limit}"), "raise it with ulimit -Hn or LimitNOFILE=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_capabilities_are_needed() {
        let status = |bits: u64| format!("Name:\tculvert\nCapPrm:\t0\nCapEff:\t{bits:016x}\nCapBnd:\t0\n");
        assert_eq!(capabilities(&status(1 << 12 | 1 << 21)), Finding::Fine);
        assert_eq!(capabilities(&status(0x1ff_ffff_ffff)), Finding::Fine);
        let missing = |bits| match capabilities(&status(bits)) {
            Finding::Wrong { what, .. } => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(0), "missing: NET_ADMIN, SYS_ADMIN");
        assert_eq!(missing(1 << 12), "missing: SYS_ADMIN");
        assert!(matches!(capabilities(""), Finding::Warning { .. }));
    }

    #[test]
    fn cgroup2_is_found_beside_version_1() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n";
        assert_eq!(cgroup2(hybrid), Finding::Fine);
        let named_like_it = "cgroup2 /cgroup2 tmpfs rw 0 0\n";
        assert!(matches!(cgroup2(named_like_it), Finding::Wrong { .. }));
    }

    #[test]
    fn a_folder_elsewhere_cannot_hold_programs() {
        let folder = tempfile::tempdir().unwrap();
        match bpffs(&folder.path().join("deep/down")) {
            Finding::Wrong { what, .. } => assert!(what.starts_with(&*folder.path().to_string_lossy()), "{what}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn few_descriptors_are_a_warning() {
        assert_eq!(open_files(1 << 20), Finding::Fine);
        assert!(matches!(open_files(1024), Finding::Warning { .. }));
    }
}
