//! Processes inside a network namespace and a cgroup, killed when this process ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use super::eventually::patience;
use super::programs;

/// Where a process runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// Path of the cgroup2 directory.
    pub cgroup: PathBuf,
    /// Whether processes outlive this one.
    pub outlive: bool,
}

impl Place {
    /// A command that will run there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = programs::command(program)?;
        let netns = File::open(&self.netns).with_context(|| format!("open {}", self.netns.display()))?;
        fs::create_dir_all(&self.cgroup).with_context(|| format!("create {}", self.cgroup.display()))?;
        let procs = self.cgroup.join("cgroup.procs");
        let cgroup =
            OpenOptions::new().write(true).open(&procs).with_context(|| format!("open {}", procs.display()))?;
        let outlive = self.outlive;
        #[expect(unsafe_code, reason = "a process enters its namespace between fork and exec")]
        // SAFETY: only system calls that are async-signal-safe, on descriptors opened before the fork.
        unsafe {
            command.pre_exec(move || {
                (&cgroup).write_all(b"0")?;
                setns(&netns, CloneFlags::CLONE_NEWNET)?;
                if outlive {
                    nix::unistd::setsid()?;
                } else {
                    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                }
                Ok(())
            });
        }
        Ok(command)
    }

    /// Runs a program to its end.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.command(program)?;
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = spawn(command).with_context(|| format!("start {program}"))?;
        child.wait_with_output().with_context(|| format!("run {program}"))
    }

    /// Runs a program that must succeed; gives its standard output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.output(program, args)?;
        ensure!(
            output.status.success(),
            "{program} {}: {}: {}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Does something inside the network namespace, in a thread of its own; sockets made there stay there.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let netns = File::open(&self.netns).with_context(|| format!("open {}", self.netns.display()))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
                    Ok(act())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a sysctl of the namespace, given as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.inside(|| fs::write(&path, value))?.with_context(|| format!("sysctl {name}={value}"))
    }
}

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Option<Mutex<Receiver<String>>>,
    outlive: bool,
}

impl Process {
    /// Starts a program whose standard output is read line by line, and whose standard input can be written.
    pub fn talking(place: &Place, program: impl AsRef<Path>, args: &[String]) -> Result<Self> {
        let mut command = place.command(program.as_ref())?;
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = spawn(command).with_context(|| format!("start {}", program.as_ref().display()))?;
        let out = child.stdout.take().context("standard output is piped")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines: Some(Mutex::new(lines)), outlive: false })
    }

    /// Starts a program that writes standard output and standard error into a file.
    pub fn logging(place: &Place, mut command: Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let program = command.get_program().to_owned();
        let child = spawn(command).with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child, lines: None, outlive: place.outlive })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal).with_context(|| format!("{signal} to {}", self.child.id()))
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let _ended = self.child.kill();
        Ok(self.child.wait()?)
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Writes a line to its standard input.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("standard input is closed")?;
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).context("write to the process")
    }

    /// The next line of its standard output, parsed.
    pub fn read<T: DeserializeOwned>(&self, limit: Duration) -> Result<T> {
        let line = self.read_line(limit)?.context("no line came in time")?;
        serde_json::from_str(&line).with_context(|| format!("parse {line}"))
    }

    /// The next line of its standard output, or `None` when there is none in time.
    pub fn read_line(&self, limit: Duration) -> Result<Option<String>> {
        let lines = self.lines.as_ref().context("output is not read")?.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(anyhow::anyhow!("the process has ended")),
        }
    }

    /// The next line of its standard output within the usual patience, parsed.
    pub fn expect<T: DeserializeOwned>(&self) -> Result<T> {
        self.read(patience())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.outlive {
            let _ended = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

type Job = (Command, SyncSender<io::Result<Child>>);

/// Starts a command from a thread that lives as long as this process: the kernel sends the death signal when the
/// *thread* that made the child ends, and test threads end early.
pub fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<SyncSender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = sync_channel::<Job>(64);
        thread::spawn(move || {
            for (mut command, reply) in jobs {
                let _gone = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = sync_channel(1);
    spawner.send((command, reply)).map_err(|_| io::Error::other("the spawner has ended"))?;
    answer.recv().map_err(|_| io::Error::other("the spawner has ended"))?
}
