//! The outside programs that tests, benches, the demo and xtask start, each with the package that has it, and the one
//! door through which any program is started.
//!
//! The harness and the test programs include this file too, so what `cargo xtask` installs is what may be started.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::Origin::{Benches, Machine, Tests};

/// Who has a program, and so whether `cargo xtask` installs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A Debian package, installed for tests, demo and benches.
    Tests(&'static str),
    /// A Debian package, installed for benches only.
    Benches(&'static str),
    /// What a machine has, or is told to get, before `cargo xtask` can do anything for it.
    Machine(&'static str),
}

/// Every outside program by name.
pub const PROGRAMS: &[(&str, Origin)] = &[
    ("apt-cache", Machine("apt")),
    ("apt-get", Machine("apt")),
    ("bpftool", Tests("bpftool")),
    ("cargo", Machine("cargo")),
    ("cat", Tests("coreutils")),
    ("cc", Machine("gcc")),
    ("chmod", Tests("coreutils")),
    ("curl", Tests("curl")),
    ("date", Tests("coreutils")),
    ("env", Tests("coreutils")),
    ("find", Tests("findutils")),
    ("go", Machine("golang")),
    ("h2load", Tests("nghttp2-client")),
    ("ip", Tests("iproute2")),
    ("ip6tables-save", Tests("iptables")),
    ("iptables", Tests("iptables")),
    ("iptables-restore", Benches("iptables")),
    ("iptables-save", Tests("iptables")),
    ("kill", Tests("procps")),
    ("mkdir", Tests("coreutils")),
    ("nsenter", Tests("util-linux")),
    ("openssl", Tests("openssl")),
    ("pip3", Tests("python3-pip")),
    ("python3", Tests("python3")),
    ("rmdir", Tests("coreutils")),
    ("rustc", Machine("rustc")),
    ("rustup", Machine("rustup")),
    ("setpriv", Benches("util-linux")),
    ("sh", Tests("dash")),
    ("sha256sum", Tests("coreutils")),
    ("sort", Tests("coreutils")),
    ("ss", Tests("iproute2")),
    ("sudo", Machine("sudo")),
    ("sysctl", Tests("procps")),
    ("taskset", Benches("util-linux")),
    ("tc", Tests("iproute2")),
    ("tcpdump", Tests("tcpdump")),
    ("timeout", Tests("coreutils")),
    ("wrk", Tests("wrk")),
];

/// Directories of the distribution: a path into one of them names an outside program as much as a bare name does.
const SYSTEM: [&str; 4] = ["/bin", "/sbin", "/usr", "/opt"];

/// Checks that a program may be started: it is declared in [`PROGRAMS`], or it is a path to something that we have
/// built or fetched ourselves.
///
/// # Errors
/// Of kind `Unsupported`, naming the program and where to declare it.
pub fn admit(program: &OsStr) -> io::Result<()> {
    let path = Path::new(program);
    let is_ours = path.components().count() > 1 && !SYSTEM.iter().any(|directory| path.starts_with(directory));
    let name = path.file_name().unwrap_or_default();
    if is_ours || PROGRAMS.iter().any(|(declared, _)| *declared == name) {
        return Ok(());
    }
    let (name, file) = (name.display(), file!());
    let text = format!("program `{name}` must be declared, with its Debian package, in {file} before it is started");
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

/// A command for a program that [`admit`] admits. Nothing else in the workspace makes one.
///
/// # Errors
/// Those of [`admit`].
pub fn command(program: impl AsRef<OsStr>) -> io::Result<Command> {
    admit(program.as_ref())?;
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    Ok(Command::new(program))
}

/// A command that `timeout` ends after some seconds, for a program that [`admit`] admits.
///
/// # Errors
/// Those of [`admit`].
pub fn within(seconds: u32, program: impl AsRef<OsStr>) -> io::Result<Command> {
    admit(program.as_ref())?;
    let mut ended = command("timeout")?;
    ended.arg(seconds.to_string()).arg(program);
    Ok(ended)
}

/// A shell script that stops at its first error. It finds the declared programs and no others, whatever else the
/// machine has.
///
/// # Errors
/// When the directory with the declared programs cannot be made beside the running program.
pub fn script(text: impl AsRef<OsStr>) -> io::Result<Command> {
    let mut shell = command("sh")?;
    shell.arg("-ec").arg(text).env("PATH", declared()?);
    Ok(shell)
}

/// The program's path, looked for in `PATH` and in the directories that only root has there.
pub fn find(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_executable =
        |file: &PathBuf| file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|directory| directory.join(program)).find(is_executable)
}

/// A directory with a link to each declared program that is installed. Processes of one checkout share it.
fn declared() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.with_file_name("declared-programs");
    std::fs::create_dir_all(&directory)?;
    for (name, _) in PROGRAMS {
        if let Some(file) = find(name)
            && let Err(error) = symlink(file, directory.join(name))
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
    }
    for entry in std::fs::read_dir(&directory)? {
        let entry = entry?;
        if admit(&entry.file_name()).is_err() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_declared_is_not_started() {
        for program in ["nft", "iperf3", "/usr/sbin/nft", "/bin/nft"] {
            let error = command(program).unwrap_err().to_string();
            assert!(error.contains("`") && error.contains("must be declared"), "{program}: {error}");
            assert!(error.contains("xtask/src/programs.rs"), "{error}");
        }
        assert!(within(1, "nft").is_err());
        for program in ["ip", "/usr/bin/cargo", "/work/target/debug/culvert", "target/debug/culvert", "./culvert"] {
            assert!(command(program).is_ok(), "{program}");
        }
    }

    #[test]
    fn a_script_finds_declared_programs_only() {
        let run = |text: &str| script(text).unwrap().output().unwrap();
        assert!(run("mkdir --version").status.success());
        // A program of every machine that is not in the table.
        assert!(find("true").is_some() && find("cksum").is_some());
        let refused = run("cksum /dev/null");
        assert!(!refused.status.success(), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("not found"), "{refused:?}");
        // A wrapper is no way around it.
        assert!(!run("timeout 5 cksum /dev/null").status.success());
    }

    #[test]
    fn the_table_is_in_order_and_names_each_program_once() {
        assert!(PROGRAMS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
