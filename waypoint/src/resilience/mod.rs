//! Limits the damage of a failing backend: retries and their budget, circuit breakers, deadlines, rate limits.

pub mod breaker; // which endpoints not
pub mod retry; // whether a failed attempt is made again
pub mod limit; // how many requests
pub mod deadline; // how long
