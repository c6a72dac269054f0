//! What a message says, read once for everything behind it.

pub mod hygiene; // how a message is read, decided once
pub mod query; // query parameters
pub mod grpc; // status codes and what they mean
