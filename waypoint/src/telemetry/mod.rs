//! Telemetry of requests: Istio's standard metrics, the access log, and spans.

pub mod tcp; // connections that are not HTTP
pub mod record; // a request, told about when it ends
pub mod span; // spans for a collector
pub mod requests; // istio_requests_total and its kin
pub mod line; // the access log
pub mod facts; // what is known of one request

pub use facts::{Facts, Outcome};
pub use line::RequestLog;
pub use record::Record;
pub use requests::Requests;
