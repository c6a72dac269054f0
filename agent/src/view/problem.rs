//! Pure. What of the configuration is not in effect as written: the list `problems` of the part `manifests`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One problem of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProblemView {
    /// `error`, `warning` or `info`.
    pub(crate) severity: String,
    /// The file.
    pub(crate) file: String,
    /// The line, from 1; 0 for a problem of the whole file.
    pub(crate) line: u32,
    /// The object, as `Kind namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<String>,
    /// The field, as `spec.ports[0].port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// What is wrong, and what follows from it.
    pub(crate) message: String,
}

impl ProblemView {
    /// `<file>:<line>`.
    pub(crate) fn at(&self) -> String {
        if self.line == 0 { self.file.clone() } else { format!("{}:{}", self.file, self.line) }
    }
}

impl fmt::Display for ProblemView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at())?;
        for part in [&self.object, &self.field].into_iter().flatten() {
            write!(f, ": {part}")?;
        }
        write!(f, ": {}", self.message)
    }
}
