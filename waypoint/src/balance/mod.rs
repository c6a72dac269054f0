//! Which endpoint of a service gets a request. One state per service, shared by all of its routes.

pub mod pick; // one of the endpoints that may be used, by the service's algorithm
pub mod maglev; // consistent hashing
pub mod load; // what is known of one endpoint: latency, requests in flight, age

pub use load::{Load, LoadSettings};
pub use maglev::Maglev;
pub use pick::{Algorithm, Candidates, pick};
