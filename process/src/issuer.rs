//! Who signs the certificates of a program, as its flags say.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use transport::ca::{DirectoryError, EmbeddedCa, Issuer};

use crate::flags::{InputArgs, MeshArgs};

/// Why there is no issuer.
#[derive(Debug, Error)]
pub enum IssuerError {
    /// No flag names one.
    #[error("--ca-dir DIR is missing")]
    NotGiven,
    /// The embedded CA cannot be read or made.
    #[error("--ca-dir {}", path.display())]
    Directory {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: DirectoryError,
    },
    /// The thread that read it is gone.
    #[error("reading the embedded CA: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

/// The embedded CA of `--ca-dir`, made on the first start. May wait for as long as another process holds its lock, or
/// its file system does not answer, but never on the caller's thread.
pub async fn issuer(input: &InputArgs, mesh: &MeshArgs) -> Result<Arc<dyn Issuer>, IssuerError> {
    let path = input.ca_dir.clone().ok_or(IssuerError::NotGiven)?;
    let (trust_domain, lifetime, ca_dir) = (mesh.trust_domain.clone(), mesh.cert_ttl, path.clone());
    let opened = tokio::task::spawn_blocking(move || EmbeddedCa::open(&ca_dir, &trust_domain, lifetime)).await?;
    let ca = opened.map_err(|source| IssuerError::Directory { path, source })?;
    Ok(Arc::new(ca))
}
