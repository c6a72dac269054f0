//! What the agent and the waypoint share.
//!
//! Read from the top: configuration comes in through `source`, becomes `model` values in `state`; connections go out
//! through `hbone`, with certificates from `keyring`, judged by `policy`. A module uses only modules declared below it
//! (`cargo xtask check`).

pub mod model; // the nouns
