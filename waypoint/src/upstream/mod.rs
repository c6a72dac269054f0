//! Reaching backends: services become clusters of endpoints, endpoints keep their connections, and requests are sent
//! until one of them answers.

pub mod send; // one request: attempts, waits, and what is told
pub mod attempt; // one attempt on one endpoint
pub mod cluster; // the endpoints of one service port, and what is known of them
pub mod endpoint; // one endpoint: load, breaker, connections
pub mod connections; // HTTP connections to one endpoint
pub mod patient; // a stream whose broken half does not hide the other
pub mod gate; // how many requests a service takes at once
pub mod connect; // byte streams to one endpoint
pub mod counted; // a stream of HTTP/2 on which heads are counted
pub mod interim; // interim responses
pub mod body; // request bodies
pub mod replay; // those that can be sent again

pub use body::RequestBody;
pub use cluster::{Cluster, Clusters};
pub use connect::{Client, ConnectError, Connector};
pub use interim::Interim;
pub use replay::{Allowance, Replay};
pub use send::{Failure, Outgoing, Sent};
