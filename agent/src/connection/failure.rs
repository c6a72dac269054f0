//! Pure. Why one connection failed, as log text, metric flag and HTTP status.

use crate::connections::Closing;
use http::StatusCode;
use mesh::model::connection::{Fault, ResponseFlag};
use mesh::policy::authorize::Refusal;
use process::telemetry::access_log::reason;

/// Why one connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Which side caused it.
    pub(crate) fault: Fault,
    /// The metric's response flag; `None` when the connection had been open and is counted as closed.
    pub(crate) flag: ResponseFlag,
    /// The text for the access log.
    pub(crate) text: String,
}

impl Failure {
    /// A failure of the upstream side.
    pub(crate) fn upstream(flag: ResponseFlag, text: impl Into<String>) -> Self {
        Self { fault: Fault::Upstream, flag, text: text.into() }
    }

    /// The status of a CONNECT that fails like this.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.fault.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// The failure of an established connection.
    pub(crate) fn broken(fault: Fault, text: impl Into<String>) -> Self {
        Self { fault, flag: ResponseFlag::None, text: text.into() }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { fault: Fault::Policy, flag: ResponseFlag::Deny, text: reason::rejected(refusal) }
    }
}

impl From<Closing> for Failure {
    fn from(closing: Closing) -> Self {
        let fault = match closing {
            Closing::Policy(_) => Fault::Policy,
            Closing::Drain => Fault::Upstream,
        };
        Self::broken(fault, closing.to_string())
    }
}
