//! The trait of certificate authorities.

use std::pin::Pin;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::csr::SigningRequest;
use super::error::IssueError;
use crate::tls::Roots;

/// A CA's answer.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then intermediates; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that peers are verified against.
    pub roots: Arc<Roots>,
}

/// Resolves to the CA's answer.
pub type IssueFuture<'a> = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send + 'a>>;

/// Signs certificate requests.
pub trait Issuer: Send + Sync {
    /// Signs `request`. Cancel-safe.
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> IssueFuture<'a>;
}
