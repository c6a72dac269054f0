//! `cargo xtask build-ebpf`: builds `agent-ebpf` from source, with BTF, into `target/bpf/culvert.bpf.o`, which the
//! agent's build script embeds.
//!
//! Two toolchains will do. On Debian and Ubuntu: the distribution's own rustc with its library sources and LLVM 22.
//! Elsewhere: one nightly of rustup's with `rust-src`. Both need bpf-linker, which is installed into
//! `~/.cache/culvert/tools`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::fingerprint::fingerprint;
use crate::programs::{command, find};
use crate::setup::install;
use crate::shell::{cache, run as run_command, step, workspace};

/// The version of bpf-linker that goes with LLVM 22.
const BPF_LINKER: &str = "0.13.0";
/// Debian's packages for the first toolchain.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];
/// Where `llvm-22-dev` puts LLVM.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
/// The second toolchain: a nightly with LLVM 22, which every bpf-linker from 0.13 on can read.
const NIGHTLY: &str = "nightly-2026-05-20";
/// How it is installed.
const INSTALL_NIGHTLY: [&str; 7] = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"];

/// Flags of `build-ebpf`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build even if the object is up to date.
    #[arg(long)]
    force: bool,
    /// Which Rust builds it.
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    toolchain: Choice,
}

/// Which Rust builds the object.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    /// A complete one; the distribution's if neither is and it can be installed.
    Auto,
    /// /usr/bin/rustc with its library sources.
    System,
    /// rustup's nightly of one day, with rust-src.
    Nightly,
}

/// `cargo xtask build-ebpf`: prints where the object is.
pub(crate) fn run(args: &Args) -> Result<()> {
    let object = build(args.toolchain, args.force)?;
    writeln!(io::stdout(), "{}", object.display())?;
    Ok(())
}

/// Makes sure that the object exists and is up to date; for the commands that go on to build the agent.
pub(crate) fn ensure_object() -> Result<PathBuf> {
    build(Choice::Auto, false)
}

fn build(choice: Choice, force: bool) -> Result<PathBuf> {
    let directory = workspace().join("agent-ebpf");
    let place = workspace().join("target/bpf");
    let (object, stamp) = (place.join("culvert.bpf.o"), place.join("culvert.bpf.sources"));
    let wanted = fingerprint(&directory).context("reading the sources of agent-ebpf")?;
    if !force && object.exists() && fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        step(format!("the eBPF object is up to date (sources {wanted})"));
        return Ok(object);
    }
    let rust = Rust::choose(choice)?;
    let linker = bpf_linker(&rust)?;
    step(format!("building the eBPF object with {} and {}", rust.title(), linker.display()));
    let built = compile(&directory, &rust, &linker)?;
    fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
    // The stamp is written last: an interrupted build leaves an object that is not embedded.
    let _ = fs::remove_file(&stamp);
    fs::copy(&built, &object).with_context(|| format!("copying {}", built.display()))?;
    fs::write(&stamp, &wanted).with_context(|| format!("writing {}", stamp.display()))?;
    step(format!("the eBPF object has {} bytes (sources {wanted})", fs::metadata(&object)?.len()));
    Ok(object)
}

/// A Rust that can build `core` for the eBPF target.
enum Rust {
    System,
    Nightly,
}

impl Rust {
    fn choose(choice: Choice) -> Result<Self> {
        match choice {
            Choice::System => Self::system(),
            Choice::Nightly => Self::nightly(),
            Choice::Auto if system_is_complete() => Ok(Self::System),
            Choice::Auto if nightly_is_complete() => Ok(Self::Nightly),
            Choice::Auto if apt_has_packages() => Self::system(),
            Choice::Auto => Self::nightly(),
        }
    }

    fn system() -> Result<Self> {
        if !system_is_complete() {
            install(&DEBIAN_PACKAGES)?;
        }
        ensure!(system_is_complete(), "/usr/bin/rustc lacks its library sources or {DEBIAN_LLVM}");
        Ok(Self::System)
    }

    fn nightly() -> Result<Self> {
        if !nightly_is_complete() {
            let how = format!(
                "no Rust that can build for eBPF. On Debian or Ubuntu run:\n    sudo apt-get install {}\nelsewhere:\n    rustup {}",
                DEBIAN_PACKAGES.join(" "),
                INSTALL_NIGHTLY.join(" ")
            );
            ensure!(find("rustup").is_some(), how);
            run_command(command("rustup")?.args(INSTALL_NIGHTLY)).context(how)?;
        }
        ensure!(nightly_is_complete(), "{NIGHTLY} lacks rust-src");
        Ok(Self::Nightly)
    }

    fn title(&self) -> &'static str {
        match self {
            Self::System => "/usr/bin/rustc",
            Self::Nightly => NIGHTLY,
        }
    }

    fn cargo(&self) -> Result<Command> {
        let mut cargo = command(match self {
            Self::System => "/usr/bin/cargo",
            Self::Nightly => "rustup",
        })?;
        // Variables that the cargo running xtask has set for its children would mislead this one.
        for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            cargo.env_remove(name);
        }
        match self {
            Self::System => cargo.env("RUSTC", "/usr/bin/rustc"),
            Self::Nightly => cargo.args(["run", NIGHTLY, "cargo"]),
        };
        Ok(cargo)
    }
}

fn system_is_complete() -> bool {
    command("/usr/bin/rustc").is_ok_and(|mut rustc| has_sources(rustc.env_remove("RUSTUP_TOOLCHAIN")))
        && Path::new("/usr/bin/cargo").exists()
        && Path::new(DEBIAN_LLVM).exists()
}

fn nightly_is_complete() -> bool {
    command("rustup").is_ok_and(|mut rustup| has_sources(rustup.args(["run", NIGHTLY, "rustc"])))
}

/// Whether the sources of `core` lie where this compiler looks for them.
fn has_sources(rustc: &mut Command) -> bool {
    let Ok(sysroot) = rustc.args(["--print", "sysroot"]).output() else { return false };
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    !sysroot.is_empty() && Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").exists()
}

fn apt_has_packages() -> bool {
    let known = command("apt-cache").and_then(|mut cache| cache.arg("show").args(DEBIAN_PACKAGES).output());
    known.is_ok_and(|known| known.status.success())
}

/// Finds bpf-linker, or installs it.
fn bpf_linker(rust: &Rust) -> Result<PathBuf> {
    let tools = cache()?.join("tools");
    let own = tools.join("bin/bpf-linker");
    // A user's linker goes with rustup's toolchains; Debian's rustc has the LLVM of `own`.
    let candidates = match rust {
        Rust::System => vec![own.clone()],
        Rust::Nightly => find("bpf-linker").into_iter().chain([own.clone()]).collect(),
    };
    if let Some(linker) = candidates.into_iter().find(|linker| works(linker)) {
        return Ok(linker);
    }
    if !Path::new(DEBIAN_LLVM).exists() {
        bail!(
            "bpf-linker is missing: run `cargo binstall bpf-linker`, or unpack a release of https://github.com/aya-rs/bpf-linker into a directory of PATH"
        );
    }
    step(format!("installing bpf-linker {BPF_LINKER} from crates.io into {}", tools.display()));
    let mut install = command("cargo")?;
    install.args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER, "--no-default-features"]);
    install.args(["--features", "llvm-22", "--root"]).arg(&tools).env("LLVM_PREFIX", DEBIAN_LLVM);
    run_command(&mut install)?;
    ensure!(works(&own), "bpf-linker was installed, yet {} does not start", own.display());
    Ok(own)
}

fn works(linker: &Path) -> bool {
    let said = command(linker).and_then(|mut linker| linker.arg("--version").output());
    said.is_ok_and(|version| version.status.success())
}

fn compile(directory: &Path, rust: &Rust, linker: &Path) -> Result<PathBuf> {
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let out = directory.join("target");
    let flags = [format!("-Clinker={}", linker.display()), "-Cdebuginfo=2".into(), "-Clink-arg=--btf".into()];
    let mut cargo = rust.cargo()?;
    cargo.args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", target]).current_dir(directory);
    // Both switches of nightly are needed with a stable rustc: build-std, and inline assembler for BPF.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", &out).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    run_command(&mut cargo)?;
    Ok(out.join(target).join("release/culvert"))
}
