//! What the machine must offer before anything is captured.

use nix::sys::resource::{Resource, getrlimit};

use super::report::{Check, Finding};
use crate::capture::kernel::{self, Level};

/// Descriptors an agent wants: a captured connection takes two, a tunnel one.
const OPEN_FILES: u64 = 65_536;

/// The checks of the section "host".
pub(super) fn checks() -> Vec<Check> {
    let mut checks: Vec<Check> = kernel::probe().into_iter().map(from_probe).collect();
    let hard_limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    checks.push(Check::new("open-files", format!("open files: {hard_limit} at most"), open_files(hard_limit)));
    checks
}

fn from_probe(probed: kernel::Check) -> Check {
    let id = probed.name.to_ascii_lowercase().replace([' ', '_'], "-");
    let finding = match probed.level {
        Level::Ok => return Check::new(id, format!("{}: {}", probed.name, probed.message), Finding::Fine),
        Level::Warn => Finding::warning(probed.message, probed.hint),
        Level::Error => Finding::wrong(probed.message, probed.hint),
    };
    Check::new(id, probed.name, finding)
}

fn open_files(hard_limit: u64) -> Finding {
    if hard_limit >= OPEN_FILES {
        return Finding::Fine;
    }
    Finding::warning(
        format!("a busy node needs {OPEN_FILES}: every carried connection takes two"),
        "raise it with ulimit -Hn or LimitNOFILE=",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_a_warning() {
        assert_eq!(open_files(1 << 20), Finding::Fine);
        assert!(matches!(open_files(1024), Finding::Warning { .. }));
    }

    #[test]
    fn what_the_kernel_lacks_is_wrong_and_says_what_to_do() {
        let probed = |level| kernel::Check { name: "eBPF object", level, message: "found".into(), hint: "build it" };
        assert_eq!(from_probe(probed(Level::Ok)), Check::new("ebpf-object", "eBPF object: found", Finding::Fine));
        assert_eq!(*from_probe(probed(Level::Warn)).finding(), Finding::warning("found", "build it"));
        assert_eq!(*from_probe(probed(Level::Error)).finding(), Finding::wrong("found", "build it"));
    }
}
