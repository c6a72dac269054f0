//! What keeps one failing backend from becoming everybody's failure.

pub mod breaker; // which endpoints not
pub mod retry; // whether a failed attempt is made again
pub mod limit; // how many requests
pub mod deadline; // how long
