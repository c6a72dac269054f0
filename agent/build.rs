//! Embeds the eBPF object that `cargo xtask build-ebpf` built. It never builds one: that needs another toolchain.
//! Without an object of the present sources an empty one is embedded, everything compiles, and `culvert agent --capture
//! ebpf` says what is missing.

use std::env;
use std::fs;
use std::path::Path;

#[path = "../xtask/src/fingerprint.rs"]
mod fingerprint;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let place = root.join("target/bpf");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    // Cargo watches a directory that exists; were it missing, the agent would be rebuilt every time.
    let _ = fs::create_dir_all(&place);
    println!("cargo::rerun-if-changed={}", place.display());
    let directory = root.join("agent-ebpf");
    let sources = fingerprint::sources(&directory).expect("the sources of agent-ebpf are readable");
    for source in &sources {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    println!("cargo::rerun-if-changed=../agent-ebpf/src");
    let wanted = fingerprint::fingerprint(&directory).expect("the sources of agent-ebpf are readable");
    let built = fs::read_to_string(place.join("culvert.bpf.sources")).unwrap_or_default();
    let object = if built == wanted { fs::read(place.join("culvert.bpf.o")).unwrap_or_default() } else { Vec::new() };
    if object.is_empty() {
        let what = if built.is_empty() { "has not been built" } else { "is older than its sources" };
        println!(
            "cargo::warning=the eBPF object {what}; `cargo xtask build-ebpf` builds it, until then there is no capture"
        );
    }
    fs::write(Path::new(&out).join("culvert.bpf.o"), object).expect("OUT_DIR is writable");
    println!("cargo::rustc-env=CULVERT_BPF_SOURCES={wanted}");
}
