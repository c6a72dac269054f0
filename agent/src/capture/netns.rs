//! Network namespaces: opened once, entered by a thread for the duration of a closure.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};
use parking_lot::RwLock;

use super::option;

/// The namespace of this process, to which every thread returns.
static HOME: OnceLock<File> = OnceLock::new();

/// File system of namespaces (include/uapi/linux/magic.h).
const NSFS: FsType = FsType(0x6e73_6673);
/// The node's namespaces: the agent's own, and the host's, where process 1 lives. They may be the same.
const OF_THE_NODE: [&str; 2] = ["/proc/self/ns/net", "/proc/1/ns/net"];

fn home() -> io::Result<&'static File> {
    if let Some(home) = HOME.get() {
        return Ok(home);
    }
    let home = File::open("/proc/self/ns/net")?;
    Ok(HOME.get_or_init(|| home))
}

/// An open network namespace, which exists at least as long as this does, whatever happens to its path.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    device: u64,
    inode: u64,
    cookie: u64,
    way_out: RwLock<WayOut>,
}

/// The route out of a namespace.
#[derive(Debug, Default)]
pub(super) struct WayOut {
    /// Index of the only interface, if there is just one.
    pub(super) only: Option<u32>,
    /// The namespace's own addresses, which are reached over `lo`.
    pub(super) own: Vec<IpAddr>,
}

impl Netns {
    /// Opens the namespace at a path, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// Nothing but a network namespace is ever opened, so no FIFO blocks and no device is touched. Resolving the path
    /// may block for as long as its file systems like: call it where that blocks nothing else.
    ///
    /// # Errors
    /// The path does not exist, or is not a network namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open_namespace(path)?;
        let (device, inode) = (file.metadata()?.dev(), file.metadata()?.ino());
        let cookie = inside(file.as_fd(), || {
            option::netns_cookie(&socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?)
        })??;
        Ok(Self { file, path: path.to_owned(), device, inode, cookie, way_out: RwLock::default() })
    }

    /// Runs `f` in the namespace, on this thread. `f` must not await; sockets that it opens stay in the namespace.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        inside(self.file.as_fd(), f)
    }

    /// The path at which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device of the file system of namespaces.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Inode on nsfs: unique while the namespace lives.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Cookie (SO_NETNS_COOKIE): unique until the machine restarts.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Sets the route out of the namespace.
    pub(super) fn set_way_out(&self, way_out: WayOut) {
        *self.way_out.write() = way_out;
    }

    /// Index of the interface through which every packet to `ip` leaves; `None` if it stays inside, or if routes
    /// decide.
    pub(super) fn way_to(&self, ip: IpAddr) -> Option<u32> {
        let way_out = self.way_out.read();
        way_out.only.filter(|_| !ip.is_loopback() && !way_out.own.contains(&ip))
    }

    /// Whether it is the node's: that of this process, or the host's.
    pub fn is_of_the_node(&self) -> io::Result<bool> {
        if home()?.metadata()?.ino() == self.inode {
            return Ok(true);
        }
        // Process 1 is invisible in a container without the host's PID namespace: then only the agent's own is known.
        Ok(OF_THE_NODE.iter().any(|path| std::fs::metadata(path).is_ok_and(|found| found.ino() == self.inode)))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens `path` if it is a network namespace. It is resolved without opening its target (O_PATH); only the object that
/// was checked is opened then.
fn open_namespace(path: &Path) -> io::Result<File> {
    let wrong =
        |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("must be a network namespace, {what}"));
    let found = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    if fstatfs(&found)?.filesystem_type() != NSFS {
        return Err(wrong(kind_of(&found.metadata()?)));
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    match option::namespace_type(&file)? {
        libc::CLONE_NEWNET => Ok(file),
        _ => Err(wrong("and is one of another kind")),
    }
}

fn kind_of(metadata: &std::fs::Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    if kind.is_dir() {
        "and is a directory"
    } else if kind.is_fifo() {
        "and is a FIFO"
    } else if kind.is_socket() {
        "and is a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "and is a device"
    } else {
        "and is a file"
    }
}

/// Returns the thread to its namespace, even when the closure panics.
struct Return(&'static File);

impl Drop for Return {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            // Continuing would open the next pod's sockets in this pod.
            tracing::error!(%error, "a thread cannot leave a pod's network namespace");
            std::process::abort();
        }
    }
}

fn inside<T>(namespace: BorrowedFd<'_>, f: impl FnOnce() -> T) -> io::Result<T> {
    let home = home()?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let _return = Return(home);
    Ok(f())
}

/// The path of a namespace by its inode: under /run/netns, or of a process in it.
pub(super) fn find_by_inode(inode: u64) -> Option<PathBuf> {
    let named = std::fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some(PathBuf::from(format!("/proc/{number}/ns/net")))
    });
    named.chain(processes).find(|path| std::fs::metadata(path).is_ok_and(|meta| meta.ino() == inode))
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}
