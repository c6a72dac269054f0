//! Culvert's waypoint: the L7 proxy for the services that ask for one.
//!
//! Read from the top: connections come in over HBONE, each carries requests for one service; configuration is compiled
//! into routes and settings; the pure decisions stand at the bottom. A module uses only modules declared below it.

pub mod balance; // which endpoint
pub mod breaker; // which endpoints not
pub mod retry; // whether a failed attempt is made again
pub mod limit; // how many requests
pub mod deadline; // how long
pub mod path; // paths in one form
pub mod grpc; // status codes and what they mean
pub mod duration; // durations as text
