//! Culvert's waypoint: the L7 proxy for the services that ask for one.
//!
//! Read from the top: connections come in over HBONE, each carries requests for one service; configuration is compiled
//! into routes and settings; the pure decisions stand at the bottom. A module uses only modules declared below it.

pub mod cli; // what the program is told
pub mod app; // the program, put together
pub mod args; // commands and flags
pub mod dump; // what the admin server shows
pub mod manifests; // objects of the manifest source
pub mod serve; // connections that come in
pub mod http; // requests in them
pub mod shared; // what all connections share
pub mod jwks; // keys of token issuers
pub mod https; // TLS to the world outside
pub mod span; // spans for a collector
pub mod telemetry; // metrics and access log
pub mod upstream; // reaching backends
pub mod around; // what is close, and never dialled
pub mod world; // what a request decides on
pub mod config; // objects -> what the waypoint does
pub mod authorize; // L7 authorization
pub mod jwt; // tokens of callers
pub mod route; // which rule a request falls under
pub mod filter; // what a rule changes
pub mod matcher; // the conditions of a match
pub mod query; // query parameters
pub mod settings; // what applies beside the route, and from which source
pub mod trace; // trace context in every form
pub mod identity; // what is said of a request's caller, by the mesh alone
pub mod door; // how a message is read, decided once
pub mod balance; // which endpoint
pub mod breaker; // which endpoints not
pub mod retry; // whether a failed attempt is made again
pub mod limit; // how many requests
pub mod handshakes; // how many handshakes
pub mod fetches; // whose keys are fetched next
pub mod deadline; // how long
pub mod path; // paths in one form
pub mod grpc; // status codes and what they mean
pub mod duration; // durations as text
