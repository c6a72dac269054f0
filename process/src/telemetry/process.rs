//! Memory, file descriptors and CPU of this process, read from /proc when scraped.
//!
//! Names are those of the Prometheus client libraries ("process metrics"); Grafana's ztunnel board uses them.

use std::fs;

use super::sample::{Collector, Kind, Metric, Value};

/// Tells the `process_*` metrics.
pub(super) fn collect(to: &mut dyn Collector) {
    let open_fds = fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64).ok();
    gauge(to, "process_open_fds", "Open file descriptors", open_fds);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    gauge(to, "process_max_fds", "Limit of open file descriptors", max_fds(&limits));
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let stat = parse_stat(&stat);
    gauge(to, "process_threads", "Threads", stat.map(|s| s.threads));
    gauge(to, "process_resident_memory_bytes", "Resident memory", stat.map(|s| s.rss_pages * page_size()));
    gauge(to, "process_virtual_memory_bytes", "Virtual memory", stat.map(|s| s.virtual_bytes));
    if let Some(stat) = stat {
        let cpu = Metric { name: "process_cpu_seconds", help: "CPU time, user and system", kind: Kind::Counter };
        to.single(&cpu, Value::Float(stat.cpu_ticks as f64 / ticks_per_second() as f64));
    }
    let started = stat.and_then(|s| Some(boot_time()? + s.start_ticks / ticks_per_second()));
    gauge(to, "process_start_time_seconds", "Start, in seconds since 1970", started);
}

fn gauge(to: &mut dyn Collector, name: &'static str, help: &'static str, value: Option<u64>) {
    if let Some(value) = value {
        to.single(&Metric { name, help, kind: Kind::Gauge }, Value::Integer(value));
    }
}

/// What we read of /proc/self/stat (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    rss_pages: u64,
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the command in parentheses, and may itself hold spaces and parentheses.
    let (_, after_command) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after_command.split_ascii_whitespace().collect();
    // Field n of the manual page is at n - 3.
    let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        rss_pages: field(24)?,
    })
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn page_size() -> u64 {
    system_value(nix::unistd::SysconfVar::PAGE_SIZE, 4096)
}

fn ticks_per_second() -> u64 {
    system_value(nix::unistd::SysconfVar::CLK_TCK, 100)
}

fn system_value(name: nix::unistd::SysconfVar, usual: u64) -> u64 {
    nix::unistd::sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "4242 (a) (b c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 777 123456 321 18446744073709551615 1";
        let expected = Stat { cpu_ticks: 200, threads: 9, start_ticks: 777, virtual_bytes: 123_456, rss_pages: 321 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("4242 (a"), None);
        assert_eq!(parse_stat("4242 (a) S 1"), None);
    }

    #[test]
    fn limits_are_read() {
        let text = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(max_fds(text), Some(1024));
        assert_eq!(max_fds("Max open files   unlimited unlimited files"), None);
    }

    #[test]
    fn this_process_is_described_fully() {
        let mut out = String::new();
        collect(&mut crate::telemetry::openmetrics::OpenMetrics::new(&mut out));
        for name in [
            "open_fds",
            "max_fds",
            "threads",
            "resident_memory_bytes",
            "virtual_memory_bytes",
            "cpu_seconds_total",
            "start_time_seconds",
        ] {
            let value = out.lines().find_map(|line| line.strip_prefix(&format!("process_{name} ")));
            assert!(value.unwrap_or_else(|| panic!("{name} is not in {out}")).parse::<f64>().unwrap() >= 0.0);
        }
    }
}
