//! Pure. What `culvert-peer` says on standard output, one JSON object a line.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What became of one client call.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Everything went as the mode demands.
    pub ok: bool,
    /// How far it got: `bind`, `connect`, `exchange` or `done`.
    pub stage: String,
    /// What went wrong.
    pub error: Option<String>,
    /// The `errno` of it, when the kernel said so.
    pub errno: Option<i32>,
    /// `getpeername()` after connecting.
    pub peer: Option<SocketAddr>,
    /// `getsockname()` after connecting.
    pub local: Option<SocketAddr>,
    /// What the server said, for the modes that show it.
    pub text: String,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// From the first system call to the end.
    pub millis: u64,
}

/// Something that happened at a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// All listeners are bound.
    Listening,
    /// A connection was accepted.
    Accepted {
        /// Mode of the listener.
        mode: String,
        /// `getpeername()`.
        peer: SocketAddr,
        /// `getsockname()`.
        local: SocketAddr,
    },
    /// A connection is over.
    Closed {
        /// Mode of the listener.
        mode: String,
        /// `getpeername()` at accept.
        peer: SocketAddr,
        /// Bytes read.
        received: u64,
        /// Why it ended, if not by a clean end of stream on both sides.
        error: Option<String>,
    },
}

/// What a talking client hears.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "heard", rename_all = "lowercase")]
pub enum TalkLine {
    /// The connection is up.
    Connected {
        /// `getsockname()`.
        local: SocketAddr,
    },
    /// A line from the server.
    Line {
        /// Without its line feed.
        text: String,
    },
    /// The connection is over, or never came up.
    End {
        /// `None` for a clean end of stream.
        error: Option<String>,
    },
}

/// What a load generator counted since it was last asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LoadCount {
    /// Requests answered.
    pub ok: u64,
    /// Requests that failed, by reason.
    pub errors: BTreeMap<String, u64>,
}
