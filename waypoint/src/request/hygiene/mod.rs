//! Request hygiene: decides once how a message is read. Routing, policy, access log and backend all see that decision,
//! and nothing after it parses framing, hosts, upgrades or connection-specific headers again.

pub mod head; // the head of a request as decided
pub mod upgrade; // which offers to change the protocol are taken
pub mod host; // what is a host
pub mod answer; // the head of a backend's response
pub mod trailers; // which fields may come after the content
pub mod hop; // fields that mean one connection only
pub mod lines; // several lines of one field

pub use head::{BadRequest, Content, Head, MAX_HEAD, MAX_HEADERS, REFUSED, decide};
pub use upgrade::Upgrade;
