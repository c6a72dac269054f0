//! Pure. What `/explain` answers: the path that a connection would take, and what policy says of it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What would happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// The calling workload, as `<namespace>/<name>`.
    pub(crate) source: String,
    /// Its identity; none when it is not enrolled.
    pub(crate) source_identity: Option<String>,
    /// What was called, as an address.
    pub(crate) destination: SocketAddr,
    /// What the destination is, and how it is reached.
    pub(crate) path: Vec<String>,
    /// One entry for each workload that may be at the far end.
    pub(crate) endpoints: Vec<Verdict>,
    /// Why no connection can be made at all.
    pub(crate) refused: Option<String>,
}

/// What policy says at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    /// The workload.
    pub(crate) workload: String,
    /// How it is reached: `HBONE 10.0.0.2:15008 for 10.0.0.2:80`, or `TCP 10.0.0.3:80`.
    pub(crate) via: String,
    /// Of a port behind a waypoint: whether what did not come through it is refused, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waypoint: Option<String>,
    /// Each policy that applies.
    pub(crate) policies: Vec<Judged>,
    /// `admitted`, or why not.
    pub(crate) verdict: String,
    /// Whether the connection is admitted.
    pub(crate) admitted: bool,
}

/// What one policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Judged {
    /// `<namespace>/<name>`.
    pub(crate) policy: String,
    /// `ALLOW` or `DENY`.
    pub(crate) action: String,
    /// Whether any rule takes effect: of an ALLOW one that surely matches, of a DENY one that may.
    pub(crate) matches: bool,
    /// Why: each rule, with the answer of each of its fields and what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<String>,
    /// Whether it is only in dry-run.
    pub(crate) dry_run: bool,
}

impl Explanation {
    /// Whether some connection of this kind would be refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some() || self.endpoints.iter().any(|endpoint| !endpoint.admitted)
    }
}
