//! Why a CA did not sign.

use thiserror::Error;

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
