//! A directory of Kubernetes manifests, read again whenever it changes.

mod source; // the running source, and one look at a directory
mod watch; // tells when to look again
pub mod status; // what the source says of itself
pub mod directory; // the files of a directory, with the last good objects of each
mod files; // which files there are
pub mod touched; // which of them somebody has touched

pub use source::{Loaded, ManifestSource, Witness};
