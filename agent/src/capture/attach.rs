//! BPF links: attached programs, pinned so that they outlive the agent and are taken over by the next one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use tracing::debug;

use super::bpf::{self, Target};
use super::error::CaptureError;
use super::object;

/// Attaches a program to a cgroup or network namespace and pins the link at `pin`. A link that an earlier agent left
/// there is updated in place if it has the same target; at no moment is there no program.
pub(super) fn attach(
    name: &str,
    program: &OwnedFd,
    (fd, path, target): (impl AsFd, &Path, Target),
    pin: &Path,
) -> Result<(), CaptureError> {
    if adopt(program, target, pin) {
        debug!(program = name, target = %path.display(), "took over a link");
        return Ok(());
    }
    let link = bpf::link_create(program, fd, object::attach_type(name)?).map_err(|source| {
        let (program, target) = (name.to_owned(), path.to_owned());
        match source.raw_os_error() {
            Some(libc::EPERM) if matches!(target_kind(&target), Kind::Cgroup) => {
                CaptureError::AttachRefused { program, target }
            }
            _ => CaptureError::Attach { program, target, source },
        }
    })?;
    // The old link is removed only now, so that the target is never without a program.
    detach(pin)?;
    bpf::pin(&link, pin).map_err(CaptureError::file(pin))?;
    debug!(program = name, target = %path.display(), "attached");
    Ok(())
}

/// Whether a link that is still attached to `target` is pinned at `pin`.
pub(super) fn is_attached(target: Target, pin: &Path) -> bool {
    bpf::get(pin).and_then(bpf::link_target).is_ok_and(|found| found == target)
}

/// Removes a link, if it exists.
pub(super) fn detach(pin: &Path) -> Result<(), CaptureError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CaptureError::file(pin)(error)),
        _ => Ok(()),
    }
}

fn adopt(program: &OwnedFd, target: Target, pin: &Path) -> bool {
    let Ok(link) = bpf::get(pin) else { return false };
    bpf::link_target(&link).is_ok_and(|found| found == target) && bpf::link_update(&link, program).is_ok()
}

enum Kind {
    Cgroup,
    Netns,
}

fn target_kind(path: &Path) -> Kind {
    if path.is_dir() { Kind::Cgroup } else { Kind::Netns }
}
