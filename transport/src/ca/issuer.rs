//! The trait that every CA is behind.

use std::pin::Pin;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::csr::SigningRequest;
use super::error::IssueError;
use crate::tls::Roots;

/// What a CA answers.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then intermediates; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// What peers are to be checked against.
    pub roots: Arc<Roots>,
}

/// The answer of a CA, when it comes.
pub type IssueFuture<'a> = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send + 'a>>;

/// Turns a signing request into a chain.
pub trait Issuer: Send + Sync {
    /// Signs `request`. The future may be dropped at any time.
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> IssueFuture<'a>;
}
