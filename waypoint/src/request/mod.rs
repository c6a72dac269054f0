//! Parsing of requests and responses, done once for all later stages.

pub mod hygiene; // how a message is read, decided once
pub mod query; // query parameters
pub mod grpc; // status codes and what they mean
