//! The cluster's programs, built from Go modules by the ordinary go command and kept between runs.
//!
//! The go.mod of each part, below `tests/cluster`, pins it. One directory in the cache belongs to one set of pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::archive::sha256;
use super::enter::quiet;
use crate::programs::{command, find};
use crate::setup::install;
use crate::shell::{cache, step, workspace};

/// A Go module with the programs that are built from it.
#[derive(Debug)]
struct Part {
    /// Its directory in `tests/cluster`.
    name: &'static str,
    /// The module that is pinned there.
    module: &'static str,
    /// Each program's name, and its package below the module; `.` for one that lies in `tests/cluster` itself.
    programs: &'static [(&'static str, &'static str)],
    /// Build tags.
    tags: &'static str,
    /// Whether there is C in it.
    has_c: bool,
    /// Variables that get the version, with the `v` before it or without.
    stamps: &'static [(&'static str, Stamp)],
}

/// How a program writes its version.
#[derive(Clone, Copy, Debug)]
enum Stamp {
    /// `v1.2.3`
    Tag,
    /// `1.2.3`
    Number,
    /// `1`
    Major,
    /// `2`
    Minor,
    /// This text.
    Text(&'static str),
}

const PARTS: &[Part] = &[
    Part {
        name: "etcd",
        module: "go.etcd.io/etcd/server/v3",
        programs: &[("etcd", "")],
        tags: "",
        has_c: false,
        stamps: &[],
    },
    Part {
        name: "containerd",
        module: "github.com/containerd/containerd/v2",
        programs: &[
            ("containerd", "/cmd/containerd"),
            ("ctr", "/cmd/ctr"),
            ("containerd-shim-runc-v2", "/cmd/containerd-shim-runc-v2"),
        ],
        // What this cluster has no use for: other snapshotters, plugins in WebAssembly, traces, manual pages.
        tags: "no_btrfs,no_devmapper,no_zfs,nri_no_wasm,no_tracing,urfave_cli_no_docs",
        has_c: false,
        stamps: &[("github.com/containerd/containerd/v2/version.Version", Stamp::Tag)],
    },
    Part {
        name: "runc",
        module: "github.com/opencontainers/runc",
        programs: &[("runc", "")],
        // Every pod's first container is confined by seccomp, whatever the pod asks for.
        tags: "seccomp",
        has_c: true,
        stamps: &[("main.version", Stamp::Number)],
    },
    Part {
        name: "cni",
        module: "github.com/containernetworking/plugins",
        programs: &[
            ("bridge", "/plugins/main/bridge"),
            ("ptp", "/plugins/main/ptp"),
            ("loopback", "/plugins/main/loopback"),
            ("host-local", "/plugins/ipam/host-local"),
        ],
        tags: "",
        has_c: false,
        stamps: &[("github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion", Stamp::Tag)],
    },
    Part {
        name: "workload",
        module: "google.golang.org/grpc",
        programs: &[("workload", ".")],
        tags: "",
        has_c: false,
        stamps: &[],
    },
    Part {
        name: "coredns",
        module: "github.com/coredns/coredns",
        programs: &[("coredns", ".")],
        tags: "",
        has_c: false,
        stamps: &[],
    },
    Part {
        name: "kubernetes",
        module: "k8s.io/kubernetes",
        programs: &[
            ("kube-apiserver", "/cmd/kube-apiserver"),
            ("kube-controller-manager", "/cmd/kube-controller-manager"),
            ("kube-scheduler", "/cmd/kube-scheduler"),
            ("kubelet", "/cmd/kubelet"),
            ("kube-proxy", "/cmd/kube-proxy"),
            ("kubectl", "/cmd/kubectl"),
        ],
        tags: "",
        has_c: false,
        stamps: &[
            ("k8s.io/component-base/version.gitVersion", Stamp::Tag),
            ("k8s.io/component-base/version.gitMajor", Stamp::Major),
            ("k8s.io/component-base/version.gitMinor", Stamp::Minor),
            ("k8s.io/component-base/version.gitTreeState", Stamp::Text("clean")),
            ("k8s.io/client-go/pkg/version.gitVersion", Stamp::Tag),
            ("k8s.io/client-go/pkg/version.gitMajor", Stamp::Major),
            ("k8s.io/client-go/pkg/version.gitMinor", Stamp::Minor),
            ("k8s.io/client-go/pkg/version.gitTreeState", Stamp::Text("clean")),
        ],
    },
    Part {
        name: "helm",
        module: "helm.sh/helm/v4",
        programs: &[("helm", "/cmd/helm")],
        tags: "",
        has_c: false,
        stamps: &[("helm.sh/helm/v4/internal/version.version", Stamp::Tag)],
    },
];

/// The directory with all programs in `bin`; what is not there yet is built.
///
/// # Errors
/// When Go, a C compiler or a module cannot be had: the message names it.
pub(crate) fn programs() -> Result<PathBuf> {
    let directory = directory()?;
    let bin = directory.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("making {}", bin.display()))?;
    for part in PARTS {
        for (program, package) in part.programs {
            let file = bin.join(program);
            if !file.exists() {
                build(part, program, package, &file)?;
            }
        }
    }
    let pause = bin.join("pause");
    if !pause.exists() {
        build_pause(&pause)?;
    }
    Ok(directory)
}

/// The version that a part is pinned to.
pub(crate) fn version(part: &str) -> Result<String> {
    let part = PARTS.iter().find(|known| known.name == part).with_context(|| format!("there is no part {part}"))?;
    pinned(&read(&source(part).join("go.mod"))?, part.module)
}

/// Where the programs of today's pins lie: named after all that they are built from.
fn directory() -> Result<PathBuf> {
    let mut pins = format!("{PARTS:?}\n");
    for part in PARTS {
        for file in ["go.mod", "go.sum", "main.go"].map(|file| source(part).join(file)) {
            if file.exists() {
                pins += &read(&file)?;
            }
        }
    }
    let digest = sha256(pins.as_bytes())?;
    Ok(cache()?.join(format!("cluster-{}", &digest[..16])))
}

fn build(part: &Part, program: &str, package: &str, file: &Path) -> Result<()> {
    let version = version(part.name)?;
    step(format!("building {program} ({} {version})", part.module));
    let new = file.with_extension("new");
    let mut go = go(part)?;
    go.args(["build", "-mod=readonly", "-trimpath", "-tags", part.tags, "-ldflags", &flags(part, &version)?]);
    go.arg("-o").arg(&new).arg(if package == "." { ".".to_owned() } else { format!("{}{package}", part.module) });
    quiet(&mut go).with_context(|| format!("{program} cannot be built from module {} {version}", part.module))?;
    fs::rename(&new, file).with_context(|| format!("moving {program} to {}", file.display()))
}

/// The program that holds a pod's namespaces, from Kubernetes' own source.
fn build_pause(file: &Path) -> Result<()> {
    let part = PARTS.iter().find(|part| part.name == "kubernetes").context("no part kubernetes")?;
    let version = version(part.name)?;
    step(format!("building pause ({} {version})", part.module));
    let mut list = go(part)?;
    let module = quiet(list.args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", part.module]))?;
    let new = file.with_extension("new");
    let source = Path::new(&module).join("build/pause/linux/pause.c");
    c_compiler()?;
    let mut compiler = command("cc")?;
    compiler.args(["-Os", "-static", "-s", "-Wall"]).arg(format!("-DVERSION={version}"));
    quiet(compiler.arg("-o").arg(&new).arg(&source))?;
    fs::rename(&new, file).with_context(|| format!("moving pause to {}", file.display()))
}

fn go(part: &Part) -> Result<Command> {
    if find("go").is_none() {
        bail!(
            "`go` is missing: the cluster's programs are built from Go modules. Install Go 1.26 or newer, from go.dev or \
             your distribution"
        );
    }
    if part.has_c {
        c_compiler()?;
        if !Path::new("/usr/include/seccomp.h").exists() || find("pkg-config").is_none() {
            install(&["libseccomp-dev", "pkg-config"])?;
        }
    }
    let mut go = command("go")?;
    go.current_dir(source(part)).env("GOWORK", "off").env("CGO_ENABLED", if part.has_c { "1" } else { "0" });
    Ok(go)
}

fn c_compiler() -> Result<()> {
    if find("cc").is_none() {
        bail!("`cc` is missing: runc and pause are built with a C compiler; install gcc and libc6-dev");
    }
    Ok(())
}

/// Flags for the linker: no debug information, and the version where the program looks for it.
fn flags(part: &Part, version: &str) -> Result<String> {
    let number = version.strip_prefix('v').with_context(|| format!("version {version} does not begin with v"))?;
    let mut levels = number.split('.');
    let (major, minor) = (levels.next().unwrap_or_default(), levels.next().unwrap_or_default());
    let stamps = part.stamps.iter().map(|(variable, stamp)| {
        let value = match stamp {
            Stamp::Tag => version,
            Stamp::Number => number,
            Stamp::Major => major,
            Stamp::Minor => minor,
            Stamp::Text(text) => text,
        };
        format!(" -X {variable}={value}")
    });
    Ok(format!("-s -w{}", stamps.collect::<String>()))
}

/// The version that a go.mod requires of a module.
fn pinned(go_mod: &str, module: &str) -> Result<String> {
    let lines = go_mod.lines().map(|line| line.trim().trim_start_matches("require "));
    let mut versions = lines.filter_map(|line| line.strip_prefix(module)?.strip_prefix(" v"));
    let version = versions.next().with_context(|| format!("go.mod does not require {module}"))?;
    Ok(format!("v{}", version.split(' ').next().unwrap_or_default()))
}

fn source(part: &Part) -> PathBuf {
    workspace().join("tests/cluster").join(part.name)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_pins_its_module() {
        for part in PARTS {
            assert!(version(part.name).unwrap().starts_with('v'), "{}", part.name);
        }
    }

    #[test]
    fn a_pin_is_read_in_each_form_that_go_writes() {
        assert_eq!(pinned("require a.b/c v1.2.3\n", "a.b/c").unwrap(), "v1.2.3");
        assert_eq!(pinned("require (\n\ta.b/c/d v2.0.0\n\ta.b/c v1.2.3 // indirect\n)\n", "a.b/c").unwrap(), "v1.2.3");
        assert!(pinned("replace a.b/c => a.b/c v1\n", "a.b/c").is_err());
    }

    #[test]
    fn kubernetes_is_pinned_whole_to_one_version() {
        let text = read(&workspace().join("tests/cluster/kubernetes/go.mod")).unwrap();
        let staging = version("kubernetes").unwrap().replacen("v1.", "v0.", 1);
        let replaced: Vec<&str> = text.lines().filter(|line| line.contains("=>")).collect();
        assert_eq!(replaced.len(), 33);
        assert!(replaced.iter().all(|line| line.ends_with(&format!(" {staging}"))), "{replaced:?}");
    }

    #[test]
    fn a_program_is_told_its_version() {
        let part = PARTS.iter().find(|part| part.name == "kubernetes").unwrap();
        let flags = flags(part, "v1.37.2").unwrap();
        for stamp in ["version.gitVersion=v1.37.2 ", "version.gitMajor=1 ", "version.gitMinor=37 "] {
            assert_eq!(flags.matches(stamp).count(), 2, "{stamp} in {flags}");
        }
    }
}
