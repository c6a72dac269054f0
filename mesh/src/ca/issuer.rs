//! The trait that every CA is behind, and its errors.

use std::pin::Pin;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use thiserror::Error;

use super::csr::SigningRequest;
use crate::tls::Roots;

/// What a CA answers.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then intermediates; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// What peers are to be checked against.
    pub roots: Arc<Roots>,
}

/// Why a CA did not sign.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The CA cannot be reached or is overloaded: worth another try.
    #[error("the CA is unavailable: {0}")]
    Unavailable(String),
    /// The CA said no.
    #[error("the CA refused: {0}")]
    Refused(String),
    /// The CA answered with something that cannot be used.
    #[error("the CA's answer cannot be used: {0}")]
    Unusable(String),
}

/// The answer of a CA, when it comes.
pub type IssueFuture<'a> = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send + 'a>>;

/// Turns a signing request into a chain.
pub trait Issuer: Send + Sync {
    /// Signs `request`. The future may be dropped at any time.
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> IssueFuture<'a>;
}
