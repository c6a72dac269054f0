//! Pure. What `/explain` answers: the path that a connection would take, and whether it may.

use serde::{Deserialize, Serialize};

/// The path of one connection and the verdict on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What was asked: who calls.
    pub source: String,
    /// What was asked: whom it calls.
    pub destination: String,
    /// The steps, in the order in which they happen.
    pub steps: Vec<Step>,
    /// How it ends.
    pub verdict: Verdict,
    /// Why, in one sentence.
    pub reason: String,
}

/// One step of the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Which step: `source`, `destination`, `endpoint`, `path`, `policy`.
    pub step: String,
    /// What it finds.
    pub finding: String,
}

/// How a connection would end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It reaches the application.
    Permitted,
    /// It is refused.
    Refused,
    /// It leaves what this agent knows: an address outside the mesh, or a waypoint, which decides further.
    Beyond,
}
