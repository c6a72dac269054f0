//! The images that nodes hold before any pod asks. There is no registry: a node imports them from archives.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::archive::image;
use super::build::version;
use super::enter::{inside, quiet, until};
use super::layout::{Machine, PROGRAMS};
use crate::shell::step;

/// How long a node's containerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// An image that is made from one program.
pub(crate) struct Image {
    /// The program's name.
    program: &'static str,
    /// What pods call the image.
    pub(crate) name: String,
}

/// The image of the process that holds a pod's namespaces.
pub(crate) fn pause() -> Result<Image> {
    Ok(Image { program: "pause", name: format!("cluster.local/pause:{}", version("kubernetes")?) })
}

/// The image of the cluster's DNS.
pub(crate) fn coredns() -> Result<Image> {
    Ok(Image { program: "coredns", name: format!("cluster.local/coredns:{}", version("coredns")?) })
}

/// The image of the server and client that checks use.
pub(crate) fn workload() -> Image {
    Image { program: "workload", name: "cluster.local/workload:1".to_owned() }
}

/// Makes the archives in `images` beside `bin`, unless they are there.
pub(crate) fn archives(directory: &Path) -> Result<()> {
    let images = directory.join("images");
    fs::create_dir_all(&images).with_context(|| format!("making {}", images.display()))?;
    for Image { program, name } in [pause()?, coredns()?, workload()] {
        let file = images.join(file(program));
        if !file.exists() {
            step(format!("making image {name}"));
            let binary = directory.join("bin").join(program);
            let bytes = fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?;
            let new = file.with_extension("new");
            fs::write(&new, image(&name, program, &bytes)?).with_context(|| format!("writing {}", new.display()))?;
            fs::rename(&new, &file).with_context(|| format!("moving {}", file.display()))?;
        }
    }
    Ok(())
}

/// Imports all of them into a node, as soon as its containerd answers.
pub(crate) fn import(node: Machine) -> Result<()> {
    until(&format!("containerd of {} answers", node.name()), PATIENCE, || ctr(node, &["version".as_ref()]))?;
    for program in ["pause", "coredns", "workload"] {
        let archive = Path::new(PROGRAMS).join("images").join(file(program));
        ctr(node, &["images".as_ref(), "import".as_ref(), "--local".as_ref(), archive.as_path()])?;
    }
    Ok(())
}

fn ctr(node: Machine, arguments: &[&Path]) -> Result<String> {
    let mut ctr = inside(node, format!("{PROGRAMS}/bin/ctr"))?;
    quiet(ctr.args(["--namespace", "k8s.io"]).args(arguments))
}

fn file(program: &str) -> PathBuf {
    PathBuf::from(program).with_extension("tar")
}
