//! What the standards ask of an intermediary, as tables: each requirement with what is sent and what must come of it,
//! or why it does not concern a waypoint. Run over the wire against the real binary.

mod rfc9110; // HTTP semantics
mod rfc9112; // HTTP/1.1
mod rfc9113; // HTTP/2, and WebSockets over it (RFC 8441)
mod table; // how a row is run
