//! Who signs: an embedded CA or a remote one, behind one trait.

mod embedded; // signs with a key that we hold
mod directory; // the files of a CA: made once, checked always
mod issuer; // trait Issuer: request in, chain out
mod csr; // key pair and certificate signing request of an identity
mod error; // why a CA did not sign

pub use csr::SigningRequest;
pub use directory::DirectoryError;
pub use embedded::{EmbeddedCa, LEAF_LIFETIME};
pub use error::IssueError;
pub use issuer::{IssueFuture, Issued, Issuer};

#[cfg(test)]
mod tests;
