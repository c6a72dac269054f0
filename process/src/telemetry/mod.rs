//! Logging, the access log, and metrics under the names that Istio's tools know.

pub mod logging; // tracing set up: text or JSON, the level changed at run time
pub mod access_log; // one line per finished connection
pub mod access_line; // where lines of the access log go
pub mod traffic; // the standard TCP metrics
pub mod refusals; // peers and connections turned away before anything else was known of them
pub mod dropped; // log lines that were dropped, counted
pub mod family; // series that come and go
pub mod registry; // where metrics are registered, and their text
pub mod openmetrics; // samples as text
pub mod process; // memory, file descriptors and CPU of this process
pub mod labels; // source and destination of a connection, as logs and metrics name them
pub mod sample; // metrics as values
pub mod throttle; // log lines that are written once in a second at most
pub mod writer; // the one thread that writes to stdout
pub mod line; // a line in the making: timestamps, quoting, fields
pub mod escape; // characters that are never shown raw
