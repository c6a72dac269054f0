//! Load balancing: which endpoint of a service gets a request. All routes to a service share one state.

pub mod pick; // one of the endpoints that may be used, by the service's algorithm
pub mod maglev; // consistent hashing
pub mod load; // what is known of one endpoint: latency, requests in flight, age

pub use load::{Load, LoadSettings};
pub use maglev::Maglev;
pub use pick::{Algorithm, Candidates, pick};
