//! Image archives in the OCI layout, as `ctr images import` takes them: one layer with one program.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::programs::command;

/// Bytes in which a tar archive counts.
const BLOCK: usize = 512;

/// The archive of an image that has one program, at `/name`, and runs it. The same program gives the same bytes.
pub(crate) fn image(name: &str, program: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let layer = tar(&[(program.to_owned(), 0o755, bytes)])?;
    let layer_digest = sha256(&layer)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [format!("/{program}")], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    })
    .to_string();
    let descriptor = |kind: &str, digest: &str, size: usize| {
        let media = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": size})
    };
    let config_digest = sha256(config.as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config_digest, config.len()),
        "layers": [descriptor("layer.v1.tar", &layer_digest, layer.len())],
    })
    .to_string();
    let manifest_digest = sha256(manifest.as_bytes())?;
    let mut entry = descriptor("manifest.v1+json", &manifest_digest, manifest.len());
    entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    })
    .to_string();
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    tar(&[
        ("oci-layout".to_owned(), 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json".to_owned(), 0o644, index.as_bytes()),
        (blob(&config_digest), 0o644, config.as_bytes()),
        (blob(&layer_digest), 0o644, &layer),
        (blob(&manifest_digest), 0o644, manifest.as_bytes()),
    ])
}

/// A tar archive (POSIX ustar) of files that belong to root and are of no time.
fn tar(files: &[(String, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    for (name, mode, bytes) in files {
        archive.extend(header(name, *mode, bytes.len())?);
        archive.extend(*bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Ok(archive)
}

fn header(name: &str, mode: u32, size: usize) -> Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    let mut put = |offset: usize, text: &str, room: usize| {
        if text.len() > room {
            bail!("`{text}` does not fit into a tar header");
        }
        header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
        Ok(())
    };
    put(0, name, 100)?;
    put(100, &format!("{mode:07o}"), 7)?;
    put(108, "0000000", 7)?;
    put(116, "0000000", 7)?;
    put(124, &format!("{size:011o}"), 11)?;
    put(136, "00000000000", 11)?;
    put(148, "        ", 8)?;
    put(156, "0", 1)?;
    put(257, "ustar\u{0}00", 8)?;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\u{0} ").as_bytes());
    Ok(header)
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> Result<String> {
    let mut program = command("sha256sum")?;
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting sha256sum")?;
    child.stdin.take().context("sha256sum has no standard input")?.write_all(bytes)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split(' ').next() {
        Some(digest) if digest.len() == 64 && output.status.success() => Ok(digest.to_owned()),
        _ => bail!("sha256sum answered `{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_one_of_the_standard() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc").unwrap(), digest);
    }

    #[test]
    fn an_archive_is_what_python_reads_and_always_the_same() {
        let archive = image("registry/name:1", "program", b"bytes").unwrap();
        assert_eq!(archive, image("registry/name:1", "program", b"bytes").unwrap());
        let directory = std::env::temp_dir().join(format!("culvert-archive-{}", std::process::id()));
        std::fs::write(&directory, &archive).unwrap();
        let read = "import io, json, sys, tarfile\n\
            outer = tarfile.open(sys.argv[1])\n\
            read = lambda name: outer.extractfile(name).read()\n\
            blob = lambda one: read('blobs/sha256/' + one['digest'].split(':')[1])\n\
            entry = json.loads(read('index.json'))['manifests'][0]\n\
            manifest = json.loads(blob(entry))\n\
            layer = tarfile.open(fileobj=io.BytesIO(blob(manifest['layers'][0])))\n\
            file = layer.getmember('program')\n\
            config = json.loads(blob(manifest['config']))\n\
            print(entry['annotations']['io.containerd.image.name'], oct(file.mode), \
            layer.extractfile(file).read().decode(), config['config']['Entrypoint'][0])";
        let output = command("python3").unwrap().args(["-c", read]).arg(&directory).output().unwrap();
        std::fs::remove_file(&directory).unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(printed.trim(), "registry/name:1 0o755 bytes /program", "{output:?}");
    }
}
