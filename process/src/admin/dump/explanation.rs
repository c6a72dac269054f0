//! Pure. What `/explain` answers: the path that a connection would take, and what policy says of it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What would happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The calling workload, as `<namespace>/<name>`.
    pub source: String,
    /// Its identity; none when it is not enrolled.
    pub source_identity: Option<String>,
    /// What was called, as an address.
    pub destination: SocketAddr,
    /// What the destination is, and how it is reached.
    pub path: Vec<String>,
    /// One entry for each workload that may be at the far end.
    pub endpoints: Vec<Verdict>,
    /// Why no connection can be made at all.
    pub refused: Option<String>,
}

/// What policy says at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The workload.
    pub workload: String,
    /// How it is reached: `HBONE 10.0.0.2:15008 for 10.0.0.2:80`, or `TCP 10.0.0.3:80`.
    pub via: String,
    /// Of a port behind a waypoint: whether what did not come through it is refused, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<String>,
    /// Each policy that applies.
    pub policies: Vec<Judged>,
    /// `admitted`, or why not.
    pub verdict: String,
    /// Whether the connection is admitted.
    pub admitted: bool,
}

/// What one policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// `<namespace>/<name>`.
    pub policy: String,
    /// `ALLOW` or `DENY`.
    pub action: String,
    /// Whether any rule takes effect: of an ALLOW one that surely matches, of a DENY one that may.
    pub matches: bool,
    /// Why: each rule, with the answer of each of its fields and what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Whether it is only in dry-run.
    pub dry_run: bool,
}

impl Explanation {
    /// Whether some connection of this kind would be refused.
    pub fn is_refused(&self) -> bool {
        self.refused.is_some() || self.endpoints.iter().any(|endpoint| !endpoint.admitted)
    }
}
