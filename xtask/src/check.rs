//! `cargo xtask check`: every check that does not run the code.

use anyhow::{Result, bail};

use crate::programs::find;
use crate::shell::{cargo, run, step};
use crate::{docs, doors, layers, once, pure, sizes};

/// Runs every check, also after one has failed, and names those that failed at the end.
pub(crate) fn run_all() -> Result<()> {
    type Check = (&'static str, fn() -> Result<()>);
    let checks: [Check; 10] = [
        ("layers", layers::run),
        ("once", once::run),
        ("sizes", sizes::run),
        ("pure", pure::run),
        ("doors", doors::run),
        ("documents", docs::run),
        ("fmt", fmt),
        ("clippy", clippy),
        ("docs", rustdoc),
        ("deny", deny),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = check() {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        step("check: all is well");
        return Ok(());
    }
    bail!("check failed: {}", failed.join(", "))
}

fn fmt() -> Result<()> {
    step("fmt: the code is formatted");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["fmt", "--manifest-path", "agent-ebpf/Cargo.toml", "--check"]))
}

fn clippy() -> Result<()> {
    step("clippy: no warning in any target");
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn rustdoc() -> Result<()> {
    step("docs: they build without a warning");
    let mut doc = cargo();
    doc.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
    run(&mut doc)
}

/// Licences, sources, banned and duplicate crates, as deny.toml has them. Advisories need the internet and are not part
/// of this.
fn deny() -> Result<()> {
    step("deny: licences, sources, banned and duplicate crates");
    if find("cargo-deny").is_none() {
        eprintln!("    1 skipped: cargo-deny is not installed; install it with `cargo install --locked cargo-deny`");
        return Ok(());
    }
    run(cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))
}
