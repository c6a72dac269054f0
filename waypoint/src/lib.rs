//! Culvert's waypoint: the L7 proxy for the services that ask for one.
//!
//! Read from the top: connections come in over HBONE, each carries requests for one service; configuration is compiled
//! into routes and settings; the pure decisions stand at the bottom. A module uses only modules declared below it.

#[cfg(test)]
mod docs_tests; // documents against flags, settings and metrics
pub mod cli; // what the program is told
pub mod app; // the program, put together
pub mod args; // commands and flags
pub mod dump; // what the admin server shows
pub mod manifests; // objects of the manifest source
pub mod serve; // connections that come in
pub mod http; // requests in them
pub mod shared; // what all connections share
pub mod keys; // keys of token issuers
pub mod telemetry; // metrics, access log and spans
pub mod upstream; // reaching backends
pub mod outward; // asking servers outside the mesh
pub mod local_targets; // what is close, and never dialled
pub mod world; // what a request decides on
pub mod config; // objects -> what the waypoint does
pub mod auth; // who may ask for what
pub mod route; // which rule a request falls under
pub mod filter; // what a rule changes
pub mod matcher; // the conditions of a match
pub mod settings; // what applies beside the route, and from which source
pub mod trace; // trace context in every form
pub mod identity; // what is said of a request's caller, by the mesh alone
pub mod balance; // which endpoint
pub mod resilience; // whether again, how often, how long, and where not
pub mod handshakes; // how many handshakes
pub mod rejection; // every answer in a backend's place
pub mod request; // what a message says, read once
pub mod wrapped; // a stream whose reads go through something
pub mod duration; // durations as text
