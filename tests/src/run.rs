//! A test run. Everything that it leaves on the machine carries its name, so it can be removed without a list: at the
//! end, after a panic, on Ctrl-C, and by the next run if this one was killed.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";
/// Runs of this process, to be removed when it ends.
static LIVE: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Write end of the pipe that a signal handler writes to.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);
/// Whether a signal ends this process: then only the thread that answers it does.
static ENDING: AtomicBool = AtomicBool::new(false);
/// How many runs this process has begun.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// One run: a name, a directory for files, a cgroup, a directory for eBPF pins, and a prefix for namespaces.
#[derive(Debug)]
pub struct Run {
    id: String,
    cgroup_root: PathBuf,
    keep: AtomicBool,
}

impl Run {
    /// Begins a run. Sweeps what dead runs left behind. Fails when not root.
    pub fn begin() -> Result<Self> {
        Self::named(&format!("cvt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Begins a run with a name of its own, which no sweep touches once it is kept.
    pub fn named(id: &str) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces and load eBPF: run them as root (cargo xtask test does)"
        );
        clean_on_exit()?;
        sweep();
        let cgroup_root = cgroup2()?;
        mount_bpffs()?;
        let run = Self { id: id.to_owned(), cgroup_root, keep: AtomicBool::new(false) };
        for directory in [run.cgroup(), run.files(), run.pins()] {
            fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        }
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).push(run.id.clone());
        Ok(run)
    }

    /// The prefix of every name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Root of the run's part of the cgroup2 tree.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup_root.join(&self.id)
    }

    /// Root of the run's eBPF pins.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(&self.id)
    }

    /// Root of the run's files.
    pub fn files(&self) -> PathBuf {
        Path::new("/tmp").join(&self.id)
    }

    /// Leaves everything in place when the run ends.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| *id != self.id);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            LIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| *id != self.id);
            remove(&self.id);
        }
    }
}

/// Removes everything that carries the name of a run, its processes first.
pub fn remove(id: &str) {
    if let Ok(root) = cgroup2() {
        remove_cgroup(&root.join(id));
    }
    for path in names(NETNS, &format!("{id}-")) {
        remove_netns(&path);
    }
    let _absent = fs::remove_dir_all(Path::new("/sys/fs/bpf").join(id));
    if std::env::var_os("CULVERT_TEST_KEEP_FILES").is_none() {
        let _absent = fs::remove_dir_all(Path::new("/tmp").join(id));
    }
}

/// Removes a named network namespace. It goes for good when its last process has ended.
pub fn remove_netns(path: &Path) {
    let _not_mounted = umount2(path, MntFlags::MNT_DETACH);
    let _absent = fs::remove_file(path);
}

/// Kills what runs in a cgroup and below, then removes it.
pub fn remove_cgroup(path: &Path) {
    if !path.exists() {
        return;
    }
    let _empty = fs::write(path.join("cgroup.kill"), "1");
    let started = Instant::now();
    while remove_cgroup_tree(path).is_err() && started.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn remove_cgroup_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Mount point of cgroup2, alone or beside version 1.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(path), Some("cgroup2")) = (fields.next(), fields.next()) {
            return Ok(path.into());
        }
    }
    bail!("no cgroup2 is mounted")
}

/// Hosts with systemd have it mounted; bare ones and containers may not.
fn mount_bpffs() -> Result<()> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = "/sys/fs/bpf";
    if fs::read_to_string("/proc/mounts").context("read /proc/mounts")?.contains(&format!(" {path} bpf ")) {
        return Ok(());
    }
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&str>).context("mount bpffs on /sys/fs/bpf")
}

/// Removes what runs left behind whose process is gone.
fn sweep() {
    let mut ids = Vec::new();
    let root = cgroup2().unwrap_or_default();
    for directory in [root.as_path(), Path::new(NETNS), Path::new("/sys/fs/bpf"), Path::new("/tmp")] {
        for path in names(directory, "cvt") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = name.split('-').next().unwrap_or_default().to_owned();
            let pid = id.trim_start_matches("cvt").split('x').next().and_then(|pid| pid.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) && !ids.contains(&id) {
                ids.push(id);
            }
        }
    }
    for id in ids {
        remove(&id);
    }
}

fn names(directory: impl AsRef<Path>, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect()
}

extern "C" fn remove_all() {
    // Whoever still works fails on what a signal's answer removes, and would end the process before that, with a code
    // of its own and half of it left.
    while ENDING.load(Ordering::Relaxed) {
        thread::park();
    }
    remove_these(&std::mem::take(&mut *LIVE.lock().unwrap_or_else(PoisonError::into_inner)));
}

fn remove_these(ids: &[String]) {
    for id in ids {
        remove(id);
    }
}

extern "C" fn on_signal(signal: libc::c_int) {
    let byte = signal as u8;
    ENDING.store(true, Ordering::Relaxed);
    #[expect(unsafe_code, reason = "the only thing a signal handler may do here is write to a pipe")]
    // SAFETY: write(2) is async-signal-safe, and the byte lives on this stack.
    unsafe {
        libc::write(SIGNALLED.load(Ordering::Relaxed) as RawFd, std::ptr::from_ref(&byte).cast(), 1);
    }
}

/// Statics are never dropped and signals run no destructors, so both ends of a process are hooked here, once.
fn clean_on_exit() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = install_hooks());
    result
}

fn install_hooks() -> Result<()> {
    let (read, write) = nix::unistd::pipe().context("pipe for signals")?;
    SIGNALLED.store(std::os::fd::IntoRawFd::into_raw_fd(write), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        #[expect(unsafe_code, reason = "installing a signal handler")]
        // SAFETY: the handler only writes to a pipe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("handle {signal}"))?;
    }
    #[expect(unsafe_code, reason = "the test runner offers no hook for its end")]
    // SAFETY: the function takes no arguments and does not unwind.
    unsafe {
        libc::atexit(remove_all);
    }
    thread::spawn(move || {
        let mut byte = [0];
        if nix::unistd::read(&read, &mut byte).is_ok() {
            let ids = LIVE.lock().unwrap_or_else(PoisonError::into_inner).clone();
            remove_these(&ids);
            // What was being created meanwhile.
            thread::sleep(Duration::from_millis(100));
            remove_these(&ids);
            #[expect(unsafe_code, reason = "exit hooks must not run a second time")]
            // SAFETY: ends the process at once.
            unsafe {
                libc::_exit(128 + libc::c_int::from(byte[0]));
            }
        }
    });
    Ok(())
}
