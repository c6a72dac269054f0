//! Where configuration comes from. Every source turns what it reads into [`mesh::model::update::Update`] values.
//!
//! ```text
//! directory --watch--> files --parse--> objects --world (convert, diff)--> model::Update
//! ```
//!
//! [`objects`] turns Kubernetes objects into the model, wherever they come from, and does no I/O; [`manifests`] reads
//! them from a directory. A file that cannot be read or understood keeps what it last said.

#[cfg(test)]
mod tests;

pub mod manifests; // Kubernetes manifests in a directory
pub mod batch; // what a source hands over at once
pub mod objects; // Kubernetes objects -> model::update

pub use batch::Batch;
pub use manifests::{Loaded, ManifestSource, Witness};
pub use objects::convert::Options;
pub use objects::kind::Documents;
