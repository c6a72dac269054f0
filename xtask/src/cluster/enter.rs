//! Commands inside a machine, and kubectl.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::layout::Machine;
use super::state::{State, kubeconfig, pid};
use crate::programs::{admit, command};

/// How often a condition is looked at again.
const PACE: Duration = Duration::from_millis(100);

/// A command that runs inside a machine: in all its namespaces, as a program that was started there.
pub(crate) fn inside(machine: Machine, program: impl AsRef<OsStr>) -> Result<Command> {
    admit(program.as_ref())?;
    let mut entered =
        entering(machine, &["--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd"])?;
    entered.arg(program);
    Ok(entered)
}

/// A command that runs in a machine's network namespace only.
pub(crate) fn in_network(machine: Machine, program: impl AsRef<OsStr>) -> Result<Command> {
    admit(program.as_ref())?;
    let mut entered = entering(machine, &["--net"])?;
    entered.arg(program);
    Ok(entered)
}

fn entering(machine: Machine, namespaces: &[&str]) -> Result<Command> {
    let pid = pid(machine).with_context(|| format!("machine {} does not run", machine.name()))?;
    let mut nsenter = command("nsenter")?;
    nsenter.arg(format!("--target={pid}")).args(namespaces).arg("--");
    Ok(nsenter)
}

/// kubectl as the cluster's administrator.
pub(crate) fn kubectl(state: &State, arguments: &[&str]) -> Result<Command> {
    let mut kubectl = command(state.program("kubectl"))?;
    kubectl.env("KUBECONFIG", kubeconfig()).args(arguments);
    Ok(kubectl)
}

/// Hands a file to `kubectl apply`.
pub(crate) fn apply(state: &State, manifest: &str, name: &str) -> Result<()> {
    let directory = Path::new(super::layout::STATE).join("manifests");
    std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let file = directory.join(name);
    std::fs::write(&file, manifest).with_context(|| format!("writing {}", file.display()))?;
    let file = file.display().to_string();
    quiet(&mut kubectl(state, &["apply", "--filename", &file])?).map(|_| ())
}

/// What a command prints. Its errors are part of ours.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().display().to_string();
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        bail!("`{program} {}` failed ({}): {}{}", arguments.join(" "), output.status, said.trim(), printed.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Tries until it succeeds.
///
/// # Errors
/// The last one, when `patience` has run out.
pub(crate) fn until<T>(what: &str, patience: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        match attempt() {
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("not within {} s: {what}", patience.as_secs())));
            }
            Err(_) => sleep(PACE),
            done => return done,
        }
    }
}
