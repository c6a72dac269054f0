//! The files of a CA: made on first start, checked on every start.
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

/// Why the files of a CA cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// Reading or writing.
    #[error("{path}: {source}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// Others could read or replace the key.
    #[error("{path}: mode {mode:04o} lets others {may}; run: chmod {wanted} {path}", path = path.display())]
    Open {
        /// Which file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What others may do.
        may: &'static str,
        /// The mode that closes it.
        wanted: &'static str,
    },
    /// Another user owns the file and could change it.
    #[error("{path}: owned by uid {owner}, and this process runs as uid {ours}; run: chown {ours} {path}", path = path.display())]
    Owner {
        /// Which file or directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// A certificate without its key.
    #[error("{0}: there is a certificate and no {KEY}: restore the key, or remove the certificate to start a new CA")]
    NoKey(PathBuf),
    /// A file whose content is wrong.
    #[error("{path}: {why}", path = path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What the files hold, not yet parsed.
pub(crate) struct Files {
    pub(crate) key: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) chain: Option<Vec<u8>>,
    pub(crate) roots: Option<Vec<u8>>,
}

/// Makes a key (PEM), and from a key the certificate (PEM).
pub(crate) trait Maker {
    fn key(&self) -> Result<String, String>;
    fn certificate(&self, key: &[u8]) -> Result<String, String>;
}

/// Where the files are.
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Reads the files; makes key and certificate first if there are none. Agents that start at the same moment on the
    /// same directory all end with the same CA.
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

    /// Under a lock, key before certificate: whoever is interrupted leaves a key for which the next one makes the
    /// certificate, never a certificate of a lost key.
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

    /// Nobody else has business in the directory: who may write it may replace the key. Sticky directories (a mounted Kubernetes
    /// Secret) protect what is in them, and the key has its own mode.
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

/// Writes beside, syncs, renames: a reader sees the whole file or none.
fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), DirectoryError> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written = || -> io::Result<()> {
        // Left by a process that died; the lock makes it nobody's.
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
