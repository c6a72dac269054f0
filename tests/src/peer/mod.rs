//! The program at either end of a tested connection: servers that misbehave on request, and clients that check every
//! byte. It runs inside pods as `culvert-peer` and says what it saw as JSON lines.

pub mod client;
pub mod server;
pub mod web;
pub mod fetch;
pub mod socket;
mod report;
pub mod pattern;

pub use report::{Behaviour, CONTROL, Event, LoadCount, Outcome, TalkLine, WebAnswer, WebCount};
