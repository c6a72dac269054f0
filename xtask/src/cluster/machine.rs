//! A machine's first process: it makes the machine, starts its programs, and starts them again when they end.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::setsid;

use super::layout::{Machine, PROGRAMS};
use super::services::{self, Service};
use super::state::{State, save_pid};
use super::{cgroups, mounts};
use crate::programs::command;

/// What the starter writes to a machine's first process when the machine's network is there.
pub(crate) const GO: &str = "go\n";
/// How long a program is left alone before it is started again.
const PAUSE: Duration = Duration::from_secs(1);
/// Where a machine's programs find others.
pub(crate) const PATH: &str = "/cluster/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a machine: leaves this machine's namespaces and cgroups, and hands standard input to the new first process.
pub(crate) fn enter(machine: Machine) -> Result<()> {
    let state = State::required()?;
    cgroups::join(&state.cgroups, &machine.name())?;
    setsid().context("leaving the terminal")?;
    let namespaces = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces).context("making the namespaces")?;
    // The namespace of process ids holds for children only: the first child becomes its process 1.
    let mut first = command(std::env::current_exe()?)?;
    first.args(["cluster", "machine", "--inside", &machine.name()]);
    let first = first.spawn().context("starting the machine's first process")?;
    save_pid(machine, first.id())
}

/// The first process of a machine. It never returns unless the machine cannot be made.
pub(crate) fn inside(machine: Machine) -> Result<()> {
    let state = State::required()?;
    // Only here: a new root is one for every process of the mount namespace, and the starter still needs the old one.
    unshare(CloneFlags::CLONE_NEWNS).context("making the mount namespace")?;
    mounts::enter(machine, &state.programs)?;
    // Both belong to the namespaces that this process is in, whatever their paths say.
    for (setting, value) in [("kernel/hostname", machine.name().as_str()), ("net/ipv4/ip_forward", "1")] {
        let file = Path::new("/proc/sys").join(setting);
        fs::write(&file, value).with_context(|| format!("writing {}", file.display()))?;
    }
    let mut word = String::new();
    io::stdin().read_to_string(&mut word).context("waiting for the network")?;
    if word != GO {
        bail!("the cluster's start was given up");
    }
    let mut running = Vec::new();
    for service in services::of(machine) {
        running.push((start(&service)?, service));
    }
    loop {
        let (pid, how) = match wait().context("waiting for programs")? {
            WaitStatus::Exited(pid, code) => (pid, format!("exit code {code}")),
            WaitStatus::Signaled(pid, signal, _) => (pid, signal.to_string()),
            _ => continue,
        };
        // Whatever else ends here was left behind by others, and is a first process's to reap.
        let Some((id, service)) = running.iter_mut().find(|(id, _)| i32::try_from(*id) == Ok(pid.as_raw())) else {
            continue;
        };
        eprintln!("{} ended: {how}; starting it again", service.name);
        sleep(PAUSE);
        *id = start(service)?;
    }
}

fn start(service: &Service) -> Result<u32> {
    let log = log(Path::new("/var/log"), service.name)?;
    let mut program = command(service.program())?;
    program.args(&service.arguments).env_clear().env("PATH", PATH).env("HOME", "/root").current_dir("/");
    program.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = program.spawn().with_context(|| format!("starting {PROGRAMS}/bin/{}", service.name))?;
    Ok(child.id())
}

/// The log of a program, open at its end.
pub(crate) fn log(directory: &Path, program: &str) -> Result<File> {
    let file: PathBuf = directory.join(format!("{program}.log"));
    File::options().create(true).append(true).open(&file).with_context(|| format!("opening {}", file.display()))
}
