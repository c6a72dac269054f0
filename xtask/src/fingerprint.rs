//! What the eBPF object was built from, as one number. Shared by `cargo xtask build-ebpf`, which writes it beside the
//! object, and by the agent's build script, which embeds an object only if the sources still have that number.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Every file the object is made of, in a stable order. `directory` is `agent-ebpf`.
pub(crate) fn sources(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![directory.join("Cargo.toml"), directory.join("Cargo.lock"), directory.join("abi/Cargo.toml")];
    for tree in ["src", "abi/src"] {
        collect(&directory.join(tree), &mut files)?;
    }
    files.sort();
    Ok(files)
}

/// FNV-1a over the names and contents of the sources, as 16 hex digits.
pub(crate) fn fingerprint(directory: &Path) -> io::Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for file in sources(directory)? {
        let name = file.strip_prefix(directory).unwrap_or(&file);
        feed(name.to_string_lossy().as_bytes());
        feed(&fs::read(&file)?);
    }
    Ok(format!("{hash:016x}"))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
