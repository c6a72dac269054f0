//! What the agent's own parts of `/config_dump` look like, and what `/explain` answers. The CLI reads the same types
//! back.
//!
//! Names and nesting are those of ztunnel's dump, as in `process::admin::dump`, which has the parts that every program
//! shows.

mod explanation;
mod connection;
mod certificate;
mod problem;

pub(crate) use certificate::{CertificateInfo, CertificateView};
pub(crate) use connection::{CaptureState, CaptureView, ConnectionView, workload_states};
pub(crate) use explanation::{Explanation, Judged, Verdict};
pub(crate) use problem::ProblemView;
