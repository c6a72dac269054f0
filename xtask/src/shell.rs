//! Runs other programs, printing each one first; the only file that knows about root and sudo.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::programs::{admit, command};

/// The root of the checkout.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies one level below the workspace")
}

/// Where downloads and tools are kept between runs: `~/.cache/culvert`, or below `XDG_CACHE_HOME`.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let dir = base.join("culvert");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// Prints the next step on stderr. Standard output is for results.
pub(crate) fn step(text: impl AsRef<str>) {
    eprintln!("\x1b[1m==>\x1b[0m {}", text.as_ref());
}

/// The cargo that started us, at the top of the checkout.
pub(crate) fn cargo() -> Command {
    let named = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(named).expect("cargo is declared, under whatever path");
    command.current_dir(workspace());
    command
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A command that runs as root: directly when we are, else through sudo with the environment variables named in `keep`.
pub(crate) fn as_root(program: impl AsRef<OsStr>, keep: &[&str]) -> Result<Command> {
    if is_root() {
        return Ok(command(program)?);
    }
    admit(program.as_ref())?;
    let mut sudo = command("sudo")?;
    sudo.args(keep.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?))));
    sudo.arg(program);
    Ok(sudo)
}

/// Runs a command to its end. The error names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    eprintln!("    $ {line}");
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed on standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("starting `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed something other than UTF-8"))
}

/// Replaces this process by the command, so that Ctrl-C and the exit code are its own.
pub(crate) fn become_command(command: &mut Command) -> anyhow::Error {
    let line = shown(command);
    eprintln!("    $ {line}");
    anyhow::Error::new(command.exec()).context(format!("starting `{line}`"))
}

/// A command as it would be typed; arguments with spaces are quoted.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        if word.contains([' ', '"', '$']) { format!("'{word}'") } else { word.into_owned() }
    });
    let line = quoted.collect::<Vec<_>>().join(" ");
    line.replace(&format!("{}/", workspace().display()), "")
}
