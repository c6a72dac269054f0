//! The files of a CA: created on first start, checked on every start.
//!
//! `ca-key.pem` and `ca-cert.pem` are the signing key and its certificate. `root-cert.pem` (roots, if the signing
//! certificate is an intermediate) and `cert-chain.pem` (the intermediates) are read if present: these are the names of
//! Istio's `cacerts`, so its files can be used as they are.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

const KEY: &str = "ca-key.pem";
const CERTIFICATE: &str = "ca-cert.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";
const LOCK: &str = ".lock";

/// Why the CA's files cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Permissions let others read or replace the key.
    #[error("{path}: mode {mode:04o} lets others {may}; run: chmod {wanted} {path}", path = path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What the permissions let others do.
        may: &'static str,
        /// The permissions that do not.
        wanted: &'static str,
    },
    /// Another user owns the file and could change it.
    #[error("{path}: owned by uid {owner}, and this process runs as uid {ours}; run: chown {ours} {path}", path = path.display())]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// User id of the owner.
        owner: u32,
        /// User id of this process.
        ours: u32,
    },
    /// A certificate exists without its key.
    #[error("{0}: there is a certificate and no {KEY}: restore the key, or remove the certificate to start a new CA")]
    NoKey(PathBuf),
    /// A file has unusable content.
    #[error("{path}: {why}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The content of the files, unparsed.
pub(crate) struct Files {
    pub(crate) key: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) chain: Option<Vec<u8>>,
    pub(crate) roots: Option<Vec<u8>>,
}

/// Generates a key (PEM), and from a key the certificate (PEM).
pub(crate) trait Maker {
    fn key(&self) -> Result<String, String>;
    fn certificate(&self, key: &[u8]) -> Result<String, String>;
}

/// The CA's directory.
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Reads the files; creates key and certificate if there are none. Agents that start concurrently on one directory
    /// end up with the same CA.
    pub(crate) fn load_or_make(&self, maker: &dyn Maker) -> Result<Files, DirectoryError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|why| io_error(&self.path, why))?;
        self.check_directory()?;
        if !self.path.join(KEY).exists() || !self.path.join(CERTIFICATE).exists() {
            self.make(maker)?;
        }
        let key_path = self.path.join(KEY);
        check_private(&key_path)?;
        Ok(Files {
            key: read(&key_path)?,
            certificate: read(&self.path.join(CERTIFICATE))?,
            chain: read_optional(&self.path.join(CHAIN))?,
            roots: read_optional(&self.path.join(ROOTS))?,
        })
    }

    pub(crate) fn key_path(&self) -> PathBuf {
        self.path.join(KEY)
    }

    pub(crate) fn certificate_path(&self) -> PathBuf {
        self.path.join(CERTIFICATE)
    }

    /// Under a lock, key before certificate: an interrupted start leaves a key for which the next start makes the
    /// certificate, never a certificate whose key is lost.
    fn make(&self, maker: &dyn Maker) -> Result<(), DirectoryError> {
        let lock_path = self.path.join(LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|why| io_error(&lock_path, why))?;
        lock.lock().map_err(|why| io_error(&lock_path, why))?;

        let (key_path, certificate_path) = (self.key_path(), self.certificate_path());
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |why| DirectoryError::Content { path, why }
        };
        if !key_path.exists() {
            if certificate_path.exists() {
                return Err(DirectoryError::NoKey(certificate_path));
            }
            write_whole(&key_path, maker.key().map_err(wrong(&key_path))?.as_bytes(), 0o600)?;
        }
        if !certificate_path.exists() {
            check_private(&key_path)?;
            let certificate = maker.certificate(&read(&key_path)?).map_err(wrong(&key_path))?;
            write_whole(&certificate_path, certificate.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Checks that only the owner can reach the directory: who may write there may replace the key. Sticky directories
    /// (a mounted Kubernetes Secret) protect their files, and the key has permissions of its own.
    fn check_directory(&self) -> Result<(), DirectoryError> {
        let found = fs::metadata(&self.path).map_err(|why| io_error(&self.path, why))?;
        check_owner(&self.path, found.uid())?;
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 && mode & 0o1000 == 0 {
            return Err(DirectoryError::Open {
                path: self.path.clone(),
                mode,
                may: if mode & 0o022 == 0 { "look into the CA's directory" } else { "replace the CA's key in it" },
                wanted: "0700",
            });
        }
        Ok(())
    }
}

fn check_private(path: &Path) -> Result<(), DirectoryError> {
    let found = fs::metadata(path).map_err(|why| io_error(path, why))?;
    check_owner(path, found.uid())?;
    let mode = found.mode() & 0o777;
    let may = match mode {
        _ if mode & 0o022 != 0 => "write the CA's key",
        _ if mode & 0o044 != 0 => "read the CA's key",
        _ => return Ok(()),
    };
    Err(DirectoryError::Open { path: path.to_owned(), mode, may, wanted: "0600" })
}

fn check_owner(path: &Path, owner: u32) -> Result<(), DirectoryError> {
    let ours = nix::unistd::geteuid().as_raw();
    if owner == ours || owner == 0 { Ok(()) } else { Err(DirectoryError::Owner { path: path.to_owned(), owner, ours }) }
}

/// Writes a temporary file, syncs and renames it: a reader sees the whole file or none.
fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), DirectoryError> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written = || -> io::Result<()> {
        // Left by a process that died: under the lock nobody uses it.
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(|why| io_error(path, why))
}

fn read(path: &Path) -> Result<Vec<u8>, DirectoryError> {
    fs::read(path).map_err(|why| io_error(path, why))
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, DirectoryError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(io_error(path, why)),
    }
}

fn io_error(path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError::Io { path: path.to_owned(), source }
}
