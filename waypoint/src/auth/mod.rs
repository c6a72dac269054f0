//! Authentication and authorization of requests.

pub mod authorize; // L7 authorization
pub mod jwt; // tokens of callers
