//! The commands of `cargo xtask cluster`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Child;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::enter::inside;
use super::layout::{MOST_NODES, Machine};
use super::state::{State, kubeconfig};
use super::{cgroups, check, down, machine, status, up};
use crate::programs::command;
use crate::shell::{as_root, become_command, cache, is_root, step};

/// `cargo xtask cluster`.
#[derive(Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cluster; the first time this builds Kubernetes, which takes long
    Up {
        /// How many nodes beside the control plane
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_NODES)))]
        nodes: u8,
        /// Leave what was made when something fails
        #[arg(long)]
        keep: bool,
        #[arg(long, hide = true)]
        worker: bool,
    },
    /// End the cluster and remove all of it
    Down,
    /// Show what runs and what it takes
    Status,
    /// Try out what a cluster must be able to do; without one, make one and remove it afterwards
    Check,
    /// A shell with KUBECONFIG set and kubectl and helm in PATH, or one command
    Shell {
        /// The machine to run it in: `control`, `node1`, ...; this one without it
        #[arg(long)]
        on: Option<String>,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Build what a cluster runs, without making one
    Build,
    #[command(hide = true)]
    Machine {
        #[arg(long)]
        inside: bool,
        name: String,
    },
}

/// Runs one of the commands, as root.
pub(crate) fn run(cluster: Cluster) -> Result<()> {
    // Built by whoever asks, so that the cache is theirs.
    if matches!(cluster.command, Command::Build | Command::Up { worker: false, .. } | Command::Check) {
        up::prepare()?;
    }
    if !is_root() {
        let kept = ["HOME", "PATH", "XDG_CACHE_HOME", "SHELL", "TERM"];
        return Err(become_command(as_root(std::env::current_exe()?, &kept)?.args(std::env::args_os().skip(1))));
    }
    match cluster.command {
        Command::Build => Ok(()),
        Command::Up { nodes, worker: true, .. } => work(nodes),
        Command::Up { nodes, keep, .. } => bring_up(nodes, keep),
        Command::Down => {
            let _lock = lock()?;
            down::remove()?;
            down::verify()
        }
        Command::Status => status::print(),
        Command::Check => try_out(),
        Command::Shell { on, command } => shell(on.as_deref(), &command),
        Command::Machine { inside, name } => {
            let found = Machine::named(&name).with_context(|| format!("there is no machine {name}"))?;
            if inside { machine::inside(found) } else { machine::enter(found) }
        }
    }
}

fn bring_up(nodes: u8, keep: bool) -> Result<()> {
    let lock = lock()?;
    if let Some(state) = State::load().ok().flatten().filter(State::is_whole) {
        if state.nodes != nodes {
            bail!("a cluster of {} nodes is up; `cargo xtask cluster down` ends it", state.nodes);
        }
        step("the cluster is up already");
    } else {
        make_or_remove(nodes, keep)?;
    }
    drop(lock);
    write!(io::stdout(), "{}", up::usage())?;
    Ok(())
}

/// Tries out the cluster that is up, or one that is made for it and removed afterwards.
fn try_out() -> Result<()> {
    let lock = lock()?;
    if let Some(state) = State::load().ok().flatten().filter(State::is_whole) {
        return check::run(&state);
    }
    make_or_remove(2, false)?;
    let tried = check::run(&State::required()?);
    let removed = down::remove().and_then(|()| down::verify());
    drop(lock);
    tried?;
    removed?;
    step("nothing is left of the cluster");
    Ok(())
}

/// Makes a cluster in a process of its own, and removes what is there when that fails or this process is told to end.
fn make_or_remove(nodes: u8, keep: bool) -> Result<()> {
    if down::is_anything_left()? {
        step("removing what an earlier cluster left");
        down::remove()?;
        down::verify()?;
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    // Held back so that none is lost between the start of the worker and the wait.
    signals.thread_block().context("holding signals back")?;
    let mut worker = command(std::env::current_exe()?)?;
    worker.args(["cluster", "up", "--worker", "--nodes", &nodes.to_string()]).process_group(0);
    let mut worker = worker.spawn().context("starting the worker")?;
    let made = watch(&mut worker, &signals);
    signals.thread_unblock().context("letting signals through")?;
    let Err(error) = made else { return Ok(()) };
    match up::keep_logs() {
        Ok(Some(kept)) => step(format!("the logs are kept in {}", kept.display())),
        Ok(None) => {}
        Err(error) => step(format!("the logs could not be kept: {error:#}")),
    }
    if keep {
        return Err(error.context("the cluster is left as it is; `cargo xtask cluster down` removes it"));
    }
    step("removing the cluster");
    down::remove().and_then(|()| down::verify()).map_err(|left| anyhow!("{error:#}; and then: {left:#}"))?;
    Err(error)
}

/// Waits for the worker to end, or ends it when this process is told to.
fn watch(worker: &mut Child, signals: &SigSet) -> Result<()> {
    loop {
        let signal = signals.wait().context("waiting for signals")?;
        if signal != Signal::SIGCHLD {
            let group = i32::try_from(worker.id()).context("a process id that is none")?;
            killpg(Pid::from_raw(group), Signal::SIGKILL).context("ending the worker")?;
            worker.wait()?;
            bail!("ended by {signal}");
        }
        match worker.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(_) => bail!("the cluster did not come up"),
            None => {}
        }
    }
}

/// The process that makes a cluster. It does not outlive the one that watches it.
fn work(nodes: u8) -> Result<()> {
    // The watcher holds its signals back, and a child inherits that.
    SigSet::all().thread_unblock().context("letting signals through")?;
    set_pdeathsig(Signal::SIGKILL).context("asking to end with the watcher")?;
    up::make(nodes, up::prepare()?)
}

fn shell(on: Option<&str>, arguments: &[String]) -> Result<()> {
    let state = State::required()?;
    let mut shell = match on {
        None => {
            let bin = state.programs.join("bin");
            let path = std::env::var("PATH").unwrap_or_default();
            let mut env = command("env")?;
            env.arg(format!("KUBECONFIG={}", kubeconfig().display())).arg(format!("PATH={}:{path}", bin.display()));
            env
        }
        Some(name) => {
            let found = Machine::named(name).with_context(|| format!("there is no machine {name}"))?;
            cgroups::join(&state.cgroups, name)?;
            let mut env = inside(found, "env")?;
            env.arg(format!("PATH={}", machine::PATH));
            env
        }
    };
    if arguments.is_empty() {
        shell.arg(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    }
    Err(anyhow!(shell.args(arguments).exec()).context("starting the shell"))
}

/// Held while a cluster is made or removed.
fn lock() -> Result<File> {
    let path = cache()?.join("cluster.lock");
    let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    if file.try_lock().is_err() {
        step("waiting for another `cargo xtask cluster`");
        file.lock().with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}
