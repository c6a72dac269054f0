//! The door: how a message is read, decided once. Routing, policy, log and backend all see what was decided here, and nothing
//! behind the door reads framing, hosts, upgrades or fields of the connection again.

pub mod head; // the head of a request as decided
pub mod upgrade; // which offers to change the protocol are taken
pub mod host; // what is a host
pub mod answer; // the head of a backend's response
pub mod trailers; // which fields may come after the content
pub mod hop; // fields that mean one connection only
pub mod lines; // several lines of one field

pub use head::{BadRequest, Content, Head, MAX_HEAD, MAX_HEADERS, REFUSED, decide};
pub use upgrade::Upgrade;
