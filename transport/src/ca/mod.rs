//! Certificate authorities: embedded or remote, behind one trait.

mod embedded; // the embedded CA
mod directory; // the CA's files: created once, checked at every start
mod issuer; // trait Issuer: request in, chain out
mod csr; // key pair and certificate signing request of an identity
mod error; // why a request was not signed

pub use csr::SigningRequest;
pub use directory::DirectoryError;
pub use embedded::{EmbeddedCa, LEAF_LIFETIME};
pub use error::IssueError;
pub use issuer::{IssueFuture, Issued, Issuer};

#[cfg(test)]
mod tests;
