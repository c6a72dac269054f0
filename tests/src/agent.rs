//! The real `culvert` agent on a node: start, query, stop, kill.

use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::eventually::eventually;
use super::net::Node;
use super::observe::{LogLine, Metrics, get, http, log_lines};
use super::process::Process;

/// The ports of an agent's own servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Admin, on loopback.
    pub admin: u16,
    /// Metrics.
    pub stats: u16,
    /// Readiness.
    pub ready: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { admin: 15000, stats: 15020, ready: 15021 }
    }
}

/// Options of an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The `culvert` to run.
    pub program: PathBuf,
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// Directory of the embedded CA.
    pub ca_dir: PathBuf,
    /// More flags.
    pub flags: Vec<String>,
    /// `text` or `json`.
    pub log_format: String,
    /// Soft limit of open files (RLIMIT_NOFILE).
    pub open_files: Option<u64>,
    /// Ports of its own servers.
    pub ports: Ports,
}

/// An agent on a node. Killed on drop; its eBPF state is removed with the run.
#[derive(Debug)]
pub struct Agent {
    /// The node it serves.
    pub node: Arc<Node>,
    options: AgentOptions,
    process: Mutex<Option<Process>>,
    log: PathBuf,
    starts: AtomicU32,
}

impl Agent {
    /// Starts the agent of a node and waits until it is ready.
    pub fn start(node: &Arc<Node>, options: AgentOptions, files: PathBuf) -> Result<Self> {
        let agent = Self::prepare(node, options, files);
        agent.launch()?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// An agent that is not started yet.
    pub fn prepare(node: &Arc<Node>, options: AgentOptions, files: PathBuf) -> Self {
        let log = files.join(format!("agent-{}-{}.log", node.name, options.ports.admin));
        Self { node: node.clone(), options, process: Mutex::new(None), log, starts: AtomicU32::new(0) }
    }

    /// Its options.
    pub fn options(&self) -> &AgentOptions {
        &self.options
    }

    /// The command line.
    pub fn arguments(&self) -> Vec<String> {
        let path = |p: PathBuf| p.to_string_lossy().into_owned();
        let node = &self.node;
        let mut args: Vec<String> =
            ["agent", "--node", &node.name, "--log-format", &self.options.log_format].map(str::to_owned).into();
        for (flag, value) in [
            ("--manifests", self.options.manifests.clone()),
            ("--ca-dir", self.options.ca_dir.clone()),
            ("--bpf-root", node.pins()),
            ("--cgroup", node.kubepods()),
            ("--agent-cgroup", node.cgroup("agent")),
            ("--kubelet-cgroup", node.cgroup("kubelet")),
        ] {
            args.extend([flag.to_owned(), path(value)]);
        }
        let ports = self.options.ports;
        if ports != Ports::default() {
            let address = |ip: &str, port: u16| format!("{ip}:{port}");
            for (flag, address) in [
                ("--admin", address("127.0.0.1", ports.admin)),
                ("--stats", address("0.0.0.0", ports.stats)),
                ("--ready", address("0.0.0.0", ports.ready)),
            ] {
                args.extend([flag.to_owned(), address]);
            }
        }
        args.extend(self.options.flags.iter().cloned());
        args
    }

    /// Starts the process without waiting.
    pub fn launch(&self) -> Result<()> {
        let mut command = self.node.agent().command(&self.options.program)?;
        command.args(self.arguments());
        command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
        let mut command = match self.options.open_files {
            None => command,
            Some(limit) => limited(command, limit),
        };
        command.current_dir("/");
        let process = Process::logging(&self.node.agent(), command, &self.log)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        self.starts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until readiness answers 200.
    pub fn wait_ready(&self) -> Result<Duration> {
        let started = Instant::now();
        let ended = eventually(&format!("the agent of {} is ready", self.node.name), || match self.ended()? {
            Some(status) => Ok(Some(status)),
            None => get(&self.node.place, self.options.ports.ready, "/healthz/ready").map(|_| None),
        })
        .with_context(|| format!("the log of the agent ends with:\n{}", self.log_tail()))?;
        if let Some(status) = ended {
            bail!("the agent of {} ended ({status}); its log ends with:\n{}", self.node.name, self.log_tail());
        }
        Ok(started.elapsed())
    }

    fn ended(&self) -> Result<Option<std::process::ExitStatus>> {
        match self.process.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(process) => process.ended(),
            None => Ok(None),
        }
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).is_some() && matches!(self.ended(), Ok(None))
    }

    /// Process id.
    pub fn pid(&self) -> Result<u32> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(process.as_ref().context("the agent is not running")?.pid())
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.take().context("the agent is not running")?.kill()?;
        Ok(())
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) -> Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_ref().context("the agent is not running")?.signal(Signal::SIGTERM)
    }

    /// Waits for the process to end by itself; gives its exit code and how long it took.
    pub fn wait_end(&self) -> Result<(Option<i32>, Duration)> {
        let started = Instant::now();
        let status = eventually("the agent ends", || self.ended()?.context("still runs"))?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok((status.code(), started.elapsed()))
    }

    /// Launches it again and waits until it is ready.
    pub fn restart(&self) -> Result<Duration> {
        let started = Instant::now();
        self.launch()?;
        self.wait_ready()?;
        Ok(started.elapsed())
    }

    /// Runs another `culvert` command in the node's namespace.
    pub fn culvert(&self, args: &[&str]) -> Result<Output> {
        self.node.place.output(&self.options.program.to_string_lossy(), args)
    }

    /// Runs another `culvert` command that must succeed; gives its standard output.
    pub fn culvert_ok(&self, args: &[&str]) -> Result<String> {
        let output = self.culvert(args)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("culvert {}: {} {text}{}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    /// `culvert agent --cleanup` with this agent's pins and cgroups.
    pub fn cleanup(&self) -> Result<Output> {
        let mut args = self.arguments();
        args.push("--cleanup".to_owned());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.culvert(&args)
    }

    /// The configuration dump.
    pub fn dump(&self) -> Result<Value> {
        serde_json::from_str(&get(&self.node.place, self.options.ports.admin, "/config_dump")?)
            .context("parse /config_dump")
    }

    /// One page of the admin server.
    pub fn admin(&self, method: &str, path: &str) -> Result<(u16, String)> {
        http(&self.node.place, ([127, 0, 0, 1], self.options.ports.admin).into(), method, path)
    }

    /// The metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&get(&self.node.place, self.options.ports.stats, "/metrics")?))
    }

    /// The log so far, as text.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Path of the log.
    pub fn log_file(&self) -> &std::path::Path {
        &self.log
    }

    /// The log so far.
    pub fn log(&self) -> Result<Vec<LogLine>> {
        log_lines(&self.log)
    }

    /// Waits for an access log line that matches.
    pub fn access(&self, what: &str, matches: impl Fn(&LogLine) -> bool) -> Result<LogLine> {
        eventually(&format!("access log of {}: {what}", self.node.name), || {
            let lines: Vec<_> = self.log()?.into_iter().filter(LogLine::is_access).collect();
            lines.iter().rev().find(|l| matches(l)).cloned().with_context(|| {
                let tail: Vec<_> = lines.iter().rev().take(8).map(LogLine::text).collect();
                format!("the latest lines are:\n{}", tail.join("\n"))
            })
        })
    }

    /// Waits for a line of the log, of any kind, that holds all these words.
    pub fn says(&self, words: &[&str]) -> Result<String> {
        eventually(&format!("log of {}: {words:?}", self.node.name), || {
            let text = self.log_text();
            let found = text.lines().find(|l| words.iter().all(|w| l.contains(w))).map(str::to_owned);
            found.with_context(|| format!("the log ends with:\n{}", self.log_tail()))
        })
    }

    /// Memory of the process in KiB: resident, proportional, private.
    pub fn memory(&self) -> Result<Memory> {
        memory(self.pid()?)
    }
}

/// Memory of a process in KiB, from `smaps_rollup`.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Memory {
    /// Resident.
    pub rss_kib: u64,
    /// Resident, shared pages counted in part.
    pub pss_kib: u64,
    /// Private, clean and dirty.
    pub private_kib: u64,
    /// Anonymous: not backed by a file.
    pub anonymous_kib: u64,
}

/// Reads `/proc/<pid>/smaps_rollup`.
pub fn memory(pid: u32) -> Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|v| v.parse().ok()).unwrap_or(0)
    };
    let memory = Memory {
        rss_kib: field("Rss:"),
        pss_kib: field("Pss:"),
        private_kib: field("Private_Clean:") + field("Private_Dirty:"),
        anonymous_kib: field("Anonymous:"),
    };
    ensure!(memory.rss_kib > 0, "no Rss in smaps_rollup of {pid}");
    Ok(memory)
}

/// The command with a limit of open files.
fn limited(mut command: std::process::Command, limit: u64) -> std::process::Command {
    use std::os::unix::process::CommandExt;
    #[expect(unsafe_code, reason = "a limit is set between fork and exec")]
    // SAFETY: setrlimit is a plain system call.
    unsafe {
        command.pre_exec(move || {
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit)?;
            Ok(())
        });
    }
    command
}
