//! Pure. What of the configuration is not in effect as written.

use serde::{Deserialize, Serialize};

/// A file or object of the configuration that is not in effect as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemView {
    /// Where: `<file>:<line>`, or the object.
    pub at: String,
    /// `warning` or `error`.
    pub severity: String,
    /// What is wrong.
    pub message: String,
}
