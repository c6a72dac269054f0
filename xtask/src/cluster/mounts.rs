//! A machine's file system: an overlay of this machine's root, and directories of its own where programs keep things.
//!
//! What a machine writes anywhere else lands in the overlay's upper directory, so nothing of this machine is changed.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::cgroups::{Hierarchy, hierarchies};
use super::layout::{ETC, Machine, PROGRAMS, STATE};

/// Directories that cannot lie on an overlay (containerd's own overlays, the kubelet's volumes) or are to be read from
/// outside (logs).
const OWN: [&str; 4] = ["var/lib/containerd", "var/lib/kubelet", "var/lib/etcd", "var/log"];
/// The CNI plugins that a node begins with.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "ptp"];
/// Settings of the one kernel that a kubelet writes unless they are what it wants. It is shown these.
const SHOWN: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Makes the file system of a machine in this mount namespace and moves into it. `programs` is mounted at `/cluster`.
pub(crate) fn enter(machine: Machine, programs: &Path) -> Result<()> {
    let none = MsFlags::empty();
    let directory = machine.directory();
    let root = directory.join("root");
    remount("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    let [upper, work] = ["upper", "work"].map(|name| directory.join(name));
    for made in [&root, &upper, &work] {
        fs::create_dir_all(made).with_context(|| format!("making {}", made.display()))?;
    }
    let layers = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    attach("overlay", &root, none, &layers)?;
    attach("proc", &root.join("proc"), none, "")?;
    attach("sysfs", &root.join("sys"), none, "")?;
    attach("bpf", &root.join("sys/fs/bpf"), none, "")?;
    attach("tmpfs", &root.join("run"), none, "mode=755")?;
    attach("tmpfs", &root.join("tmp"), none, "mode=1777")?;
    attach("tmpfs", &root.join(STATE.trim_start_matches('/')), MsFlags::MS_RDONLY, "mode=755")?;
    bind(Path::new("/dev"), &root.join("dev"), MsFlags::MS_REC)?;
    for own in OWN {
        let source = directory.join(own.rsplit('/').next().unwrap_or(own));
        fs::create_dir_all(&source).with_context(|| format!("making {}", source.display()))?;
        bind(&source, &root.join(own), none)?;
    }
    bind(&directory.join("etc"), &root.join(ETC.trim_start_matches('/')), none)?;
    bind(programs, &root.join(PROGRAMS.trim_start_matches('/')), none)?;
    cgroups(&root)?;
    show_settings(&directory, &root)?;
    files(machine, &root)?;
    chdir(&root)?;
    // The old root is laid over the new one, and then taken away.
    pivot_root(".", ".").context("changing the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leaving the old root")?;
    chdir("/")?;
    // As a real machine has it: what the kubelet mounts is seen by pods that ask for it.
    remount("/", MsFlags::MS_REC | MsFlags::MS_SHARED)
}

/// Mounts every cgroup hierarchy anew, so that the machine's cgroup is the root of what is seen.
fn cgroups(root: &Path) -> Result<()> {
    let tree = root.join("sys/fs/cgroup");
    attach("tmpfs", &tree, MsFlags::empty(), "mode=755")?;
    for Hierarchy { mount, options, .. } in hierarchies()? {
        let kind = if options.is_empty() { "cgroup2" } else { "cgroup" };
        attach(kind, &root.join(mount.strip_prefix("/").unwrap_or(&mount)), MsFlags::empty(), &options)?;
        let name = mount.file_name().unwrap_or_default();
        for controller in options.split(',').filter(|one| options.contains(',') && *one != name) {
            if !controller.contains('=') && controller != "none" {
                symlink(name, tree.join(controller))?;
            }
        }
    }
    Ok(())
}

fn show_settings(directory: &Path, root: &Path) -> Result<()> {
    let shown = directory.join("sysctl");
    for (setting, value) in SHOWN {
        let file = shown.join(setting.replace('/', "."));
        write(&file, &format!("{value}\n"))?;
        bind(&file, &root.join("proc/sys").join(setting), MsFlags::empty())?;
    }
    Ok(())
}

/// The files in which a machine differs from its host from the start.
fn files(machine: Machine, root: &Path) -> Result<()> {
    let (name, etc) = (machine.name(), root.join("etc"));
    write(&etc.join("hostname"), &format!("{name}\n"))?;
    write(&etc.join("hosts"), &format!("127.0.0.1 localhost\n::1 localhost\n{} {name}\n", machine.address()))?;
    // No names but the cluster's own are known anywhere.
    write(&etc.join("resolv.conf"), "")?;
    if machine == Machine::Control {
        return Ok(());
    }
    // A CNI that this machine may have is not the node's.
    for of_cni in [root.join("opt/cni/bin"), etc.join("cni/net.d")] {
        match fs::remove_dir_all(&of_cni) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&of_cni).with_context(|| format!("making {}", of_cni.display()))?,
        }
    }
    for plugin in PLUGINS {
        symlink(Path::new(PROGRAMS).join("bin").join(plugin), root.join("opt/cni/bin").join(plugin))?;
    }
    symlink(Path::new(ETC).join("cni.conflist"), etc.join("cni/net.d/10-culvert-cluster.conflist"))?;
    Ok(())
}

/// Writes a file in place of whatever is there: a link of the host's may point anywhere.
fn write(file: &Path, text: &str) -> Result<()> {
    let make = || {
        fs::create_dir_all(file.parent().unwrap_or(file))?;
        match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::File::create_new(file)?.write_all(text.as_bytes())
    };
    make().with_context(|| format!("writing {}", file.display()))
}

fn remount(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).with_context(|| format!("changing mount {target}"))
}

fn attach(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
    let options = (!options.is_empty()).then_some(options);
    mount(Some(kind), target, Some(kind), flags, options)
        .with_context(|| format!("mounting {kind} at {} with {}", target.display(), options.unwrap_or("no options")))
}

fn bind(source: &Path, target: &Path, flags: MsFlags) -> Result<()> {
    if source.is_dir() {
        fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
    }
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>)
        .with_context(|| format!("binding {} to {}", source.display(), target.display()))
}
