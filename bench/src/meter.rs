//! CPU time and memory of processes.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::json;
use time::format_description::well_known::Rfc3339;

/// By now a process has given back what it needed only to start, or to open connections.
pub const SETTLED: Duration = Duration::from_secs(6);

/// CPU time of a process, all its threads, user and system, in nanoseconds.
///
/// The same sum as in `/proc/<pid>/stat`, which has it in hundredths of a second only.
pub fn cpu(pid: u32) -> Result<u64> {
    let clock =
        clock_getcpuclockid(Pid::from_raw(pid as i32)).with_context(|| format!("CPU clock of process {pid}"))?;
    let time = clock_gettime(clock).with_context(|| format!("CPU time of process {pid}"))?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// CPU time of several processes together, in nanoseconds.
pub fn cpu_of(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// CPU time of this process, in nanoseconds.
pub fn own_cpu() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("own resource usage")?;
    let nanoseconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000_000 + time.tv_usec() as u64 * 1000;
    Ok(nanoseconds(usage.user_time()) + nanoseconds(usage.system_time()))
}

/// Memory of a process or of several, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, shared pages counted in full.
    pub rss: u64,
    /// Resident, shared pages counted in proportion.
    pub pss: u64,
    /// Resident and its own: what would come free if it ended.
    pub private: u64,
    /// Resident and of no file: what the process has written. The code it runs is not in it.
    pub anonymous: u64,
}

impl std::ops::Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rss: self.rss + other.rss,
            pss: self.pss + other.pss,
            private: self.private + other.private,
            anonymous: self.anonymous + other.anonymous,
        }
    }
}

/// Memory of several processes together.
pub fn memory_of(pids: &[u32]) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        sum = sum + parse_smaps(&fs::read_to_string(&path).with_context(|| format!("reading {path}"))?);
    }
    Ok(sum)
}

fn parse_smaps(text: &str) -> Memory {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    Memory {
        rss: field("Rss"),
        pss: field("Pss"),
        private: field("Private_Clean") + field("Private_Dirty"),
        anonymous: field("Anonymous"),
    }
}

/// What the machine is and how busy it was.
pub fn machine() -> serde_json::Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let memory = after(&read("/proc/meminfo"), "MemTotal");
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": after(&read("/proc/cpuinfo"), "model name"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "memory_kib": memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "time": time::OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        "load": read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()).unwrap_or(0.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_clean_and_dirty() {
        let text = "00400000-7fff rollup\nRss:    1200 kB\nPss:     800 kB\nPss_Dirty:  10 kB\nShared_Clean: 400 kB\n\
                    Private_Clean:  300 kB\nPrivate_Dirty:  500 kB\nAnonymous:  450 kB\n";
        let one = Memory { rss: 1200, pss: 800, private: 800, anonymous: 450 };
        assert_eq!(parse_smaps(text), one);
        assert_eq!(one + one, Memory { rss: 2400, pss: 1600, private: 1600, anonymous: 900 });
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = cpu(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu(std::process::id()).unwrap() < before + 2_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(own_cpu().unwrap() > 0 && memory_of(&[std::process::id()]).unwrap().rss > 0);
    }
}
