//! Why a CA did not sign.

use thiserror::Error;

/// Why a CA did not sign.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The CA is unreachable or overloaded: retry.
    #[error("the CA is unavailable: {0}")]
    Unavailable(String),
    /// The CA rejected the request.
    #[error("the CA rejected the request: {0}")]
    Refused(String),
    /// The CA's answer cannot be used.
    #[error("the CA's answer cannot be used: {0}")]
    Unusable(String),
}
